from __future__ import annotations

import threading

from workflows.access.seen import StoredSeenIds
from workflows.log import AlreadyExists, Store, open_store


def test_an_id_is_new_once_also_after_a_restart(storage: str) -> None:
    assert StoredSeenIds(open_store(storage)).add("msg_1", 2e9)
    assert not StoredSeenIds(open_store(storage)).add("msg_1", 2e9)
    assert StoredSeenIds(open_store(storage)).add("msg_2", 2e9)


def test_of_many_at_once_one_is_first(folder_store: Store) -> None:
    answers: list[bool] = []
    start = threading.Barrier(10)

    def work() -> None:
        start.wait()
        answers.append(StoredSeenIds(folder_store).add("msg", 2e9))

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 9 + [True]


def test_a_lost_answer_is_no_replay(folder_store: Store) -> None:
    class LosesAnswers:
        def create(self, key: str, data: bytes) -> None:
            folder_store.create(key, data)
            raise AlreadyExists(folder_store.uri, key)

        def get(self, key: str) -> bytes:
            return folder_store.get(key)

    assert StoredSeenIds(LosesAnswers()).add("msg", 2e9)  # type: ignore[arg-type]


def test_what_has_expired_is_forgotten(folder_store: Store) -> None:
    seen = StoredSeenIds(folder_store)
    seen.add("old", folder_store.now() - 1)
    seen.add("new", folder_store.now() + 600)
    assert seen.prune() == 1
    assert not seen.add("new", 2e9)
    assert seen.add("old", 2e9)
