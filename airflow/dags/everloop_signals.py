"""New data and drift, each made into a wish for a round.

The events that came in together become one wish, or two: Airflow may leave the later ones of a burst to the run after
the next event. A round reads everything that is new, so that costs time and no data.
"""

from __future__ import annotations

from airflow.sdk import DAG, Asset, task
from everloop.assets import DRIFT, NEW_DATA, WANTED
from everloop.callbacks import notify_failure


def on(asset: Asset, cause: str) -> DAG:
    """A DAG that turns events of an asset into a wish."""
    with DAG(
        f"everloop_on_{cause}",
        doc_md=__doc__,
        schedule=[asset],
        catchup=False,
        max_active_runs=1,
        tags=["everloop"],
    ) as made:

        @task(outlets=[WANTED], retries=2, on_failure_callback=notify_failure)
        def wish(*, triggering_asset_events, outlet_events) -> int:
            """Says why a round is wanted, and gives the number of events that say so."""
            events = triggering_asset_events[asset]
            outlet_events[WANTED].extra = {"cause": cause, "events": [event.extra for event in events][-100:]}
            return len(events)

        wish()
    return made


new_data = on(NEW_DATA, "new_data")
drift = on(DRIFT, "drift")
