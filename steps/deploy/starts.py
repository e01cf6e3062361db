"""How often the replicas of an application started: all but the first starts of a Ray session are deaths.

One small object for each start, `serving/starts/<application>/<session>/<replica>`. Starts are counted by session, so
that a lost head is not held against the model.
"""

from __future__ import annotations

from collections import Counter

from workflows.log import Store

_PREFIX = "serving/starts"


def record_start(store: Store, application: str, *, session: str, replica: str) -> None:
    """Counts a start, before the model is loaded: a model that kills its process while it loads must count too."""
    store.put(f"{_PREFIX}/{application}/{session}/{replica}", b"")


def num_deaths(store: Store, application: str, num_replicas: int) -> int:
    """Gives how often a replica had to be started again."""
    starts = Counter(info.key.split("/")[-2] for info in store.list(f"{_PREFIX}/{application}/"))
    return sum(max(0, count - num_replicas) for count in starts.values())


def forget_starts(store: Store, application: str) -> None:
    """Removes the counts of an application that is gone."""
    for info in list(store.list(f"{_PREFIX}/{application}/")):
        store.delete(info.key)
