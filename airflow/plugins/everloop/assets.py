"""What the DAGs wait for and announce. An event is posted to `/api/v2/assets/events`, or is a task's outlet."""

from __future__ import annotations

from airflow.sdk import Asset

NEW_DATA = Asset(name="everloop_new_data", uri="everloop://signals/data")
"""New data was seen."""

DRIFT = Asset(name="everloop_drift", uri="everloop://signals/drift")
"""A detector raised an alarm."""

WANTED = Asset(name="everloop_wanted", uri="everloop://signals/wanted")
"""A round of the loop is wanted before the schedule asks for one."""

ROUND = Asset(name="everloop_round", uri="everloop://rounds")
"""A round of the loop has ended well; the event carries run, dataset version and release."""
