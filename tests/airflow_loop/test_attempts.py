"""However often a task is begun, and whatever died before, one job drives its run."""

from __future__ import annotations

from typing import Any, cast

import pytest
from everloop.attempts import Attempt, TooManyAttempts, attach
from everloop.errors import BadRequest, Unreachable
from everloop.ray_jobs import RayJobs

from tests.airflow_loop.fake_ray import FakeRay


async def begin(fake: FakeRay, *, max_attempts: int = 5, **known: bool) -> Attempt:
    jobs = RayJobs(cast(Any, fake))
    return await attach(jobs, "r", "true", max_attempts=max_attempts, env_vars={"A": "1"}, metadata={"m": "x"}, **known)


async def test_the_first_time_it_submits() -> None:
    fake = FakeRay()
    assert await begin(fake) == Attempt("r-a0", 0, is_new=True)
    assert fake.submitted == [
        {"submission_id": "r-a0", "entrypoint": "true", "runtime_env": {"env_vars": {"A": "1"}}, "metadata": {"m": "x"}}
    ]


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
async def test_what_is_under_way_or_done_is_kept(status: str) -> None:
    fake = FakeRay()
    fake.put("r-a0", status)
    assert await begin(fake) == Attempt("r-a0", 0, is_new=False)
    assert fake.submitted == []


@pytest.mark.parametrize(("status", "exit_code"), [("FAILED", 1), ("FAILED", -9), ("STOPPED", None)])
async def test_what_ended_badly_is_followed_by_the_next_attempt(status: str, exit_code: int | None) -> None:
    fake = FakeRay()
    fake.put("r-a0", status, exit_code)
    fake.put("r-a1", status, exit_code)
    assert await begin(fake) == Attempt("r-a2", 2, is_new=True)


async def test_a_run_that_only_waits_needs_no_driver_until_it_has_failed() -> None:
    fake = FakeRay()
    fake.put("r-a0", "FAILED", 3)
    assert await begin(fake) == Attempt("r-a0", 0, is_new=False)
    assert await begin(fake, has_failed=True) == Attempt("r-a1", 1, is_new=True)


async def test_a_round_that_was_suppressed_is_asked_for_again_when_its_task_is_cleared() -> None:
    fake = FakeRay()
    fake.put("r-a0", "SUCCEEDED")
    assert await begin(fake, never_began=True) == Attempt("r-a1", 1, is_new=True)
    # Its driver is under way by then, and found again.
    assert await begin(fake, never_began=True) == Attempt("r-a1", 1, is_new=False)


async def test_two_that_submit_at_once_make_one_job() -> None:
    fake = FakeRay()

    def another_was_faster(method: str, _path: str) -> None:
        if method == "POST":
            fake.put("r-a0", "RUNNING")

    fake.before = another_was_faster
    assert await begin(fake) == Attempt("r-a0", 0, is_new=False)
    assert fake.submitted == []


async def test_after_the_loss_of_a_cluster_the_numbers_begin_anew() -> None:
    fake = FakeRay()
    await begin(fake)
    fake.jobs.clear()
    assert await begin(fake) == Attempt("r-a0", 0, is_new=True)


async def test_there_is_a_last_attempt() -> None:
    fake = FakeRay()
    for number in range(3):
        fake.put(f"r-a{number}", "FAILED", 1)
    with pytest.raises(TooManyAttempts, match="all 3 attempts"):
        await begin(fake, max_attempts=3)
    fake.put("r-a2", "SUCCEEDED")
    assert await begin(fake, max_attempts=3) == Attempt("r-a2", 2, is_new=False)


class Answers(FakeRay):
    """Gives one fixed answer."""

    fixed: tuple[int, Any] = (200, {})

    def answer(self, *_: Any) -> tuple[int, Any]:
        return self.fixed


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((404, "<html>not found"), Unreachable),
        ((200, {"no": "status"}), Unreachable),
        ((200, {"status": "UNKNOWN"}), Unreachable),
        ((500, "trace"), Unreachable),
        ((400, "bad id"), BadRequest),
    ],
)
async def test_an_answer_that_is_not_of_ray_is_never_taken_for_an_unknown_job(
    answer: tuple[int, Any], error: type[Exception]
) -> None:
    fake = Answers()
    fake.fixed = answer
    with pytest.raises(error):
        await begin(fake)
    assert all(method == "GET" for method, _ in fake.asked)


async def test_a_command_that_ray_does_not_take_is_refused() -> None:
    class Refusing(FakeRay):
        def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
            return (400, "invalid runtime_env") if method == "POST" else super().answer(method, path, body)

    with pytest.raises(BadRequest, match="invalid runtime_env"):
        await begin(Refusing())
