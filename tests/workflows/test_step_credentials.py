"""Storage credentials of each step, on a real MinIO and a real Ray. Every denial has a positive control."""

from __future__ import annotations

import json
import secrets
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.workflows import credential_graphs as graphs
from workflows.access import STEP_NEEDS, CredentialDesk, StepCredentials, signing_key, verify_audit
from workflows.access.sts import TemporaryCredentials, assume_role
from workflows.configs import load
from workflows.engine import Engine
from workflows.log import NotFound, StoreDenied, StoreUnavailable, open_store, stored_records
from workflows.log.served_credentials import FULL_URI, TICKET, TOKEN, ServedCredentials, cash_ticket, ray_secret
from workflows.step_credentials import SERVING, Grants, open_engine

ROOT = ("everloop", "everloop-tests")


@pytest.fixture
def storage(minio: str) -> str:
    return f"s3://tests/{secrets.token_hex(6)}?endpoint_override={minio}"


@pytest.fixture
def engine(storage: str, ray_head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("EVERLOOP_STATE", str(tmp_path / "state"))
    return Engine(storage, connect=lambda: None, environment_of=Grants(storage, *ROOT))


def answers(storage: str) -> list[tuple[str, str, str]]:
    store = open_store(storage)
    (log,) = {"/".join(info.key.split("/")[:2]) for info in store.list("audit")}
    entries = [entry for record in stored_records(store, log, 0) for entry in record.data["entries"]]
    return [(entry["principal"], entry["action"], entry["decision"]) for entry in entries]


@pytest.mark.ray
@pytest.mark.services
class TestOnMinio:
    def test_a_step_works_in_its_own_prefixes_and_nowhere_else(
        self, engine: Engine, storage: str, minio: str, tmp_path: Path
    ) -> None:
        others = ["releases/prod/1", "approvals/t/1", "runs/r2/steps/a/1", "datasets/docs/1"]
        root = open_store(storage)
        for key in others:
            root.put(key, b"1")
        config = {"keys": [*others, "audit/w/1", "runs/r1/00000000000000000009.json"], "endpoint": minio}
        view = engine.drive(engine.start(graphs.build, config, run_id="r1"))
        assert view.status == "succeeded", view.steps
        worked = engine.output("r1", "work")
        assert (worked["kept"], worked["inherited"]) == (["one", "three", "two"], "")
        ended = engine.output("r1", "trespass")
        assert {tried: how for tried, how in ended.items() if how != "StoreDenied"} == {
            "get runs/r1/00000000000000000009.json": "NotFound",
            "list runs/r1": "done",
        }
        assert all(root.get(key) == b"1" for key in others)
        assert "AccessDenied" in engine.output("r1", "promote_itself")
        assert len([1 for who, _, how in answers(storage) if who == "Service::r1/work" and how == "allow"]) == 4
        key = signing_key(tmp_path / "state" / "audit.key").public
        assert verify_audit(root, [key]).ok

    def test_what_is_denied_is_terminal_and_typed(self, engine: Engine) -> None:
        view = engine.drive(engine.start(graphs.build_denied, None, run_id="r1"))
        (step,) = view.steps
        assert (view.status, step.attempts) == ("failed", 1)
        assert step.error is not None
        assert step.error.type == "workflows.log.errors:StoreDenied"

    def test_the_loop_makes_a_dataset_with_credentials_of_each_step(self, engine: Engine, storage: str) -> None:
        config = load("nano", None, ["scrape.max_pages=6"])
        view = engine.drive(engine.start(graphs.build_dataset, config, run_id="r1"))
        assert view.status == "succeeded", [step.error for step in view.steps]
        assert engine.output("r1").num_train > 0
        asked = {who for who, _, how in answers(storage) if how == "allow"}
        assert asked == {"Service::r1/scrape", "Service::r1/validate", "Service::r1/version"}

    def test_a_broker_with_wrong_keys_starts_no_step(self, storage: str, engine: Engine) -> None:
        wrong = Engine(storage, connect=lambda: None, environment_of=Grants(storage, "everloop", "wrong-secret"))
        run_id = wrong.start(graphs.build_work, {"number": 1}, run_id="r1")
        with pytest.raises(StoreDenied, match="403") as caught:
            wrong.drive(run_id)
        assert "wrong-secret" not in str(caught.value)
        assert engine.drive(run_id, code="same").status == "succeeded"

    def test_a_listing_that_is_refused_is_typed_too(self, storage: str, minio: str) -> None:
        def wrong() -> Any:
            return {"access_key_id": "nobody", "secret_access_key": "x" * 20, "token": None, "expires_at": None}

        store = open_store(storage, credentials=wrong)
        for call in (lambda: list(store.list("a")), lambda: store.get("a"), lambda: store.put("a", b"")):
            with pytest.raises(StoreDenied):
                call()
        assert list(open_store(storage).list("a")) == []


class Writer:
    """A step as its storage sees it: it fetches its credentials from the runner, and writes."""

    def __init__(self, storage: str, step: str) -> None:
        function = f"workflows.pipeline:{step}"
        served = ServedCredentials.from_environment(Grants(storage, *ROOT)("r1", step, function))
        assert served is not None
        self._served = served
        self.handed: list[str] = []
        self.store = open_store(storage, credentials=self._counted)

    def _counted(self) -> Any:
        found = self._served()
        self.handed.append(found["access_key_id"])
        return found

    def may(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except StoreDenied:
            return False
        except NotFound:
            return True
        return True


@pytest.mark.services
class TestWithoutRay:
    AREAS = (
        "blobs",
        "datasets",
        "derived",
        "frontier",
        "monitors",
        "outcomes",
        "releases",
        "signals",
        "audit",
        "approvals",
    )

    @pytest.fixture(autouse=True)
    def _state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVERLOOP_STATE", str(tmp_path / "state"))

    @pytest.mark.parametrize("step", sorted(set(STEP_NEEDS) - SERVING))
    def test_a_step_of_the_loop_may_what_it_needs_and_nothing_else(self, step: str, storage: str) -> None:
        needs = {need.area: need.write for need in STEP_NEEDS[step]}
        writer = Writer(storage, step)
        root = open_store(storage)
        for area in self.AREAS:
            root.put(f"{area}/known", b"1")
        may_read = {area for area in self.AREAS if writer.may(lambda area=area: writer.store.get(f"{area}/known"))}
        may_write = {area for area in self.AREAS if writer.may(lambda area=area: writer.store.put(f"{area}/new", b"2"))}
        assert may_read == {area for area in needs if area != "runs"}
        assert may_write == {area for area, write in needs.items() if write and area != "runs"}
        own, journal, other = f"runs/r1/steps/{step}/0001/x", f"runs/r1/{0:020}.json", "runs/r2/steps/a/0001/x"
        assert [writer.may(lambda key=key: writer.store.put(key, b"3")) for key in (own, journal, other)] == [
            True, False, False,
        ]  # fmt: skip
        assert [writer.may(lambda key=key: writer.store.get(key)) for key in (own, journal, other)] == [
            True, True, False,
        ]  # fmt: skip
        root.delete("audit/known")
        assert {who for who, _, how in answers(storage) if how == "allow"} == {f"Service::r1/{step}"}

    def test_who_outlives_their_credentials_gets_new_ones_and_writes_on(
        self, storage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[str] = []

        def ends_soon(*arguments: Any, **options: Any) -> TemporaryCredentials:
            """Real credentials, said to end in four seconds: MinIO gives none for less than fifteen minutes."""
            found = replace(assume_role(*arguments, **options), expires_at=time.time() + 4)
            given.append(found.access_key)
            return found

        monkeypatch.setattr("workflows.access.credentials.assume_role", ends_soon)
        writer, deadline = Writer(storage, "train"), time.monotonic() + 120
        while len(set(writer.handed)) < 4:
            assert time.monotonic() < deadline, f"{len(set(writer.handed))} credentials in two minutes"
            writer.store.put(f"runs/r1/steps/train/0001/{len(set(writer.handed))}", b"x")
        assert list(dict.fromkeys(writer.handed)) == given[:4]
        folder = open_store(storage).list("runs/r1/steps/train/0001")
        assert {info.key.rpartition("/")[2] for info in folder} >= {"1", "2", "3"}

    def test_what_a_step_has_is_worth_nothing_once_the_runner_has_ended(self, storage: str) -> None:
        grants = Grants(storage, *ROOT)
        served = ServedCredentials.from_environment(grants("r1", "train", "workflows.pipeline:train"))
        assert served is not None
        assert served()["token"]
        grants._desk.close()
        with pytest.raises(StoreUnavailable):
            served()


class TestTheDesk:
    @staticmethod
    def credentials(calls: list[float] | None = None) -> StepCredentials:
        def issue() -> TemporaryCredentials:
            if calls is not None:
                calls.append(1.0)
            return TemporaryCredentials("key", "secret", "session", expires_at=4e9)

        return StepCredentials(issue)

    def test_a_token_gets_the_credentials_of_its_step_and_no_other_token_any(self) -> None:
        with CredentialDesk() as desk:
            environment = desk.hand_out(self.credentials())
            served = ServedCredentials.from_environment(environment)
            assert served is not None
            assert environment[TOKEN] not in repr(served)
            found = served()
            assert (found["access_key_id"], found["secret_access_key"], found["token"]) == ("key", "secret", "session")
            for token in ("", "wrong", environment[TOKEN][:-1]):
                with pytest.raises(StoreDenied, match="403"):
                    ServedCredentials(environment[FULL_URI], token)()
            assert served()["access_key_id"] == "key"

    @pytest.mark.parametrize("place", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
    def test_what_ray_writes_down_opens_nothing_without_rays_own_token(self, place: str, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("f" * 64 + "\n")
        ray = {"RAY_AUTH_MODE": "token", place: str(tmp_path / "token") if place.endswith("PATH") else "f" * 64}
        with CredentialDesk(secret=ray_secret(ray)) as desk:
            told = desk.hand_out(self.credentials())
            assert told[TOKEN] == ""
            inside = ServedCredentials.from_environment(told | ray)
            assert inside is not None
            assert inside()["access_key_id"] == "key"
            wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
            for environment in (told, told | wrong, told | {TOKEN: told[TICKET]}):
                outside = ServedCredentials.from_environment(environment)
                assert outside is not None
                with pytest.raises(StoreDenied, match="403"):
                    outside()
            process = dict(told | ray)
            cash_ticket(process)
            assert process[TOKEN] == inside.token
            cash_ticket(told)
            assert told[TOKEN] == ""

    def test_a_ray_that_asks_for_no_token_has_no_secret(self) -> None:
        assert ray_secret({"RAY_AUTH_TOKEN": "f" * 64}) == ray_secret({"RAY_AUTH_MODE": "disabled"}) == b""
        assert ray_secret({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/such/file"}) == b""

    def test_no_token_is_good_after_the_runner(self) -> None:
        with CredentialDesk() as desk:
            served = ServedCredentials.from_environment(desk.hand_out(self.credentials()))
            assert served is not None
            served()
        with pytest.raises(StoreUnavailable):
            served()

    def test_it_answers_in_the_form_of_a_containers_agent(self) -> None:
        with CredentialDesk() as desk:
            environment = desk.hand_out(self.credentials())
            request = urllib.request.Request(environment[FULL_URI], headers={"Authorization": environment[TOKEN]})
            with urllib.request.urlopen(request, timeout=30) as answer:
                document = json.loads(answer.read())
        assert document == {
            "AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "session", "Expiration": "2096-10-02T07:06:40Z",
        }  # fmt: skip

    def test_keys_of_the_process_are_taken_first_and_are_emptied_for_a_step(self) -> None:
        with CredentialDesk() as desk:
            environment = desk.hand_out(self.credentials())
        assert environment["AWS_ACCESS_KEY_ID"] == environment["AWS_SECRET_ACCESS_KEY"] == ""
        assert ServedCredentials.from_environment({**environment, "AWS_ACCESS_KEY_ID": "mine"}) is None
        assert ServedCredentials.from_environment({}) is None


def test_steps_that_serve_and_storages_without_a_broker_get_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grants = Grants("s3://bucket?endpoint_override=http://127.0.0.1:9", *ROOT)
    assert {name: grants("r1", name, f"workflows.pipeline:{name}") for name in SERVING} == {"deploy": {}, "canary": {}}
    monkeypatch.setenv("EVERLOOP_BROKER_ACCESS_KEY", "a")
    monkeypatch.setenv("EVERLOOP_BROKER_SECRET_KEY", "b")
    assert open_engine(str(tmp_path))._environment_of is None
    assert open_engine("s3://bucket?endpoint_override=http://127.0.0.1:9")._environment_of is not None
    monkeypatch.delenv("EVERLOOP_BROKER_SECRET_KEY")
    assert open_engine("s3://bucket?endpoint_override=http://127.0.0.1:9")._environment_of is None
