"""Storage credentials of a step: on a folder, as a policy, and on a real MinIO. Every denial has a positive control."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from minio import Minio, MinioAdmin
from minio.commonconfig import Tags
from minio.credentials import StaticProvider
from minio.error import S3Error
from obstore.store import S3Store

from workflows.access import CredentialBroker, CredentialError, Denied, Need, StepCredentials, step_principal
from workflows.access.authorizer import Authorizer
from workflows.access.credentials import STEP_NEEDS, session_policy
from workflows.access.principals import Principal
from workflows.access.sts import MAX_POLICY_CHARS, KeyPair, TemporaryCredentials, assume_role
from workflows.log import Draft, Log, StoreDenied, StoreError, open_store

ROOT = KeyPair("everloop", "everloop-tests")
TRAIN = step_principal("r1", "train", team="search")
EVERY = (Need("blobs", write=True), Need("runs", write=True))


class TestWithoutAServer:
    def test_on_a_folder_there_is_nothing_to_hand_out(self, tmp_path: Path, authorizer: Authorizer) -> None:
        credentials = CredentialBroker(f"file://{tmp_path}", authorizer).issue(TRAIN)
        assert credentials.is_empty
        assert credentials.environ() == {}
        with pytest.raises(CredentialError, match="folder"):
            credentials()

    def test_the_policies_are_asked_on_a_folder_too(self, tmp_path: Path, authorizer: Authorizer, auditor: Any) -> None:
        broker = CredentialBroker(f"file://{tmp_path}", authorizer)
        broker.issue(TRAIN, [Need("datasets")])
        assert auditor.entries[-1]["decision"] == "allow"
        with pytest.raises(Denied, match="write_area Area::datasets"):
            broker.issue(TRAIN, [Need("blobs"), Need("datasets", write=True)])
        assert auditor.entries[-1]["decision"] == "deny"

    @pytest.mark.parametrize("step", STEP_NEEDS)
    def test_each_step_gets_what_it_needs(
        self, step: str, tmp_path: Path, authorizer: Authorizer, auditor: Any
    ) -> None:
        CredentialBroker(str(tmp_path), authorizer).issue(step_principal("r1", step, team="search"))
        assert {entry["decision"] for entry in auditor.entries} == {"allow"}
        assert all(auditor.durable)

    @pytest.mark.parametrize(
        "principal",
        [
            step_principal("r1", "unheard_of", team="search"),
            Principal(kind="Person", id="ann", roles=("viewer",)),
            Principal(kind="Service", id="r1/train", run="r1", step="train"),
        ],
    )
    def test_nobody_else_gets_any(self, principal: Principal, tmp_path: Path, authorizer: Authorizer) -> None:
        with pytest.raises(Denied):
            CredentialBroker(str(tmp_path), authorizer).issue(principal)

    @pytest.mark.parametrize("step", STEP_NEEDS)
    def test_the_policy_of_every_step_fits(self, step: str) -> None:
        policy = session_policy("everloop-production", "team/search/", STEP_NEEDS[step], run="2026-11-24-" + "a" * 40)
        assert len(policy) <= MAX_POLICY_CHARS
        assert len(json.loads(policy)["Statement"]) >= 3

    @pytest.mark.parametrize("run", ["*", "r?", "${aws:username}"])
    def test_a_run_id_is_no_pattern(self, run: str, authorizer: Authorizer) -> None:
        broker = CredentialBroker("s3://b?endpoint_override=http://127.0.0.1:9", authorizer, keys=ROOT)
        with pytest.raises(CredentialError, match="pattern"):
            broker.issue(step_principal(run, "train", team="search"))

    @pytest.mark.parametrize("storage", ["s3://bucket", "gs://bucket/x"])
    def test_a_storage_without_a_token_service_is_refused_by_name(self, storage: str, authorizer: Authorizer) -> None:
        with pytest.raises(CredentialError, match="endpoint_override"):
            CredentialBroker(storage, authorizer)

    def test_a_server_that_is_away_is_asked_again_and_then_a_typed_error(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        with pytest.raises(CredentialError, match=r"127\.0\.0\.1:9.*refused"):
            assume_role("http://127.0.0.1:9", ROOT, "{}", duration_s=900, pauses_s=(0.01, 0.01))
        assert caplog.text.count("asked again") == 2

    @pytest.mark.parametrize(
        "bad", [{"duration_s": 899}, {"policy": "x" * 2049}, {"endpoint": "file:///etc"}, {"endpoint": "ftp://x"}]
    )
    def test_requests_out_of_bounds_are_not_sent(self, bad: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"900|2048|no http"):
            assume_role(**{"endpoint": "http://127.0.0.1:9", "keys": ROOT, "policy": "{}", "duration_s": 900, **bad})

    def test_credentials_are_renewed_before_they_end(self) -> None:
        now, issued = [0.0], []

        def issue() -> TemporaryCredentials:
            issued.append(now[0])
            return TemporaryCredentials(f"key-{len(issued)}", "s", "t", expires_at=now[0] + 1000)

        credentials = StepCredentials(issue, clock=lambda: now[0])
        for moment, expected in ((0, "key-1"), (749, "key-1"), (750, "key-2"), (1499, "key-2"), (1500, "key-3")):
            now[0] = moment
            assert credentials()["access_key_id"] == expected
        assert issued == [0, 750, 1500]

    def test_no_representation_holds_a_secret(self) -> None:
        assert "everloop-tests" not in repr(ROOT)
        assert "hidden" not in repr(TemporaryCredentials("key", "hidden", "hidden", 0.0))


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(6)


@pytest.fixture
def storage(minio: str, prefix: str) -> str:
    return f"s3://tests/{prefix}?endpoint_override={minio}"


@pytest.fixture
def root_client(minio: str) -> Minio:
    return client(minio, ROOT.access_key, ROOT.secret_key)


def client(endpoint: str, access_key: str, secret_key: str, token: str | None = None) -> Minio:
    return Minio(
        endpoint=endpoint.removeprefix("http://"),
        access_key=access_key,
        secret_key=secret_key,
        session_token=token,
        region="us-east-1",  # without it the client asks the server, which a step may not
        secure=False,
    )


def client_of(endpoint: str, credentials: TemporaryCredentials) -> Minio:
    return client(endpoint, credentials.access_key, credentials.secret_key, credentials.session_token)


def put(target: Minio, key: str, **options: Any) -> None:
    import io

    target.put_object(bucket_name="tests", object_name=key, data=io.BytesIO(b"x"), length=1, **options)


def get(target: Minio, key: str) -> bytes:
    answer = target.get_object(bucket_name="tests", object_name=key)
    try:
        return bytes(answer.read())
    finally:
        answer.close()
        answer.release_conn()


def names(target: Minio, prefix: str) -> list[str]:
    return [str(found.object_name) for found in target.list_objects(bucket_name="tests", prefix=prefix, recursive=True)]


def denied(call: Callable[[], object]) -> str:
    with pytest.raises(S3Error) as caught:
        call()
    return str(caught.value.code)


@pytest.fixture
def train(storage: str, authorizer: Authorizer, minio: str) -> Minio:
    """A client with the credentials of the step `train` of run `r1`."""
    current = CredentialBroker(storage, authorizer, keys=ROOT).issue(TRAIN).current()
    assert current is not None
    assert time.time() + 3000 < current.expires_at < time.time() + 3700
    return client_of(minio, current)


class TestOnMinio:
    def test_a_step_reads_and_writes_its_own_prefixes(self, train: Minio, root_client: Minio, prefix: str) -> None:
        put(root_client, f"{prefix}/datasets/docs/0.json")
        put(train, f"{prefix}/blobs/ab")
        put(train, f"{prefix}/runs/r1/steps/train/1/x")
        assert get(train, f"{prefix}/datasets/docs/0.json") == b"x"
        assert names(train, f"{prefix}/runs/r1/") == [f"{prefix}/runs/r1/steps/train/1/x"]
        train.remove_object(bucket_name="tests", object_name=f"{prefix}/runs/r1/steps/train/1/x")
        assert names(train, f"{prefix}/runs/r1/") == []

    @pytest.mark.parametrize(
        "key",
        ["datasets/docs/0.json", "runs/r2/0.json", "runs/r10/0.json", "releases/prod/0.json", "audit/w/0.json", "x"],
    )
    def test_a_step_writes_nowhere_else(self, key: str, train: Minio, root_client: Minio, prefix: str) -> None:
        assert denied(lambda: put(train, f"{prefix}/{key}")) == "AccessDenied"
        assert names(root_client, f"{prefix}/") == []
        put(train, f"{prefix}/blobs/control")

    @pytest.mark.parametrize("key", ["runs/r2/0.json", "audit/w/0.json", "approvals/t/0.json", "signals/prod/0.json"])
    def test_a_step_reads_and_lists_nothing_else(self, key: str, train: Minio, root_client: Minio, prefix: str) -> None:
        put(root_client, f"{prefix}/{key}")
        put(root_client, f"{prefix}/runs/r1/0.json")
        assert denied(lambda: get(train, f"{prefix}/{key}")) == "AccessDenied"
        assert denied(lambda: names(train, f"{prefix}/{key.split('/', maxsplit=1)[0]}/")) == "AccessDenied"
        assert denied(lambda: names(train, "")) == "AccessDenied"
        assert get(train, f"{prefix}/runs/r1/0.json") == b"x"

    def test_a_step_reaches_no_other_storage_in_the_bucket(self, train: Minio, prefix: str) -> None:
        assert denied(lambda: put(train, "another/blobs/x")) == "AccessDenied"
        assert denied(lambda: put(train, f"{prefix}x/blobs/x")) == "AccessDenied"
        put(train, f"{prefix}/blobs/x")

    def test_only_objects_of_the_own_steps_can_be_deleted(self, train: Minio, prefix: str) -> None:
        put(train, f"{prefix}/blobs/x")
        put(train, f"{prefix}/runs/r1/steps/x")
        assert (
            denied(lambda: train.remove_object(bucket_name="tests", object_name=f"{prefix}/blobs/x")) == "AccessDenied"
        )
        train.remove_object(bucket_name="tests", object_name=f"{prefix}/runs/r1/steps/x")
        assert get(train, f"{prefix}/blobs/x") == b"x"

    def test_a_step_reads_the_journal_of_its_run_and_writes_below_its_own_path_alone(
        self, storage: str, authorizer: Authorizer, minio: str, root_client: Minio, prefix: str
    ) -> None:
        put(root_client, f"{prefix}/runs/r1/0.json")
        current = CredentialBroker(storage, authorizer, keys=ROOT).issue(TRAIN, path="train").current()
        assert current is not None
        step = client_of(minio, current)
        assert get(step, f"{prefix}/runs/r1/0.json") == b"x"
        put(step, f"{prefix}/runs/r1/steps/train/0001/x")
        for key in ("0.json", "1.json", "live/1", "steps/tune/0001/x", "steps/train2/x"):
            assert denied(lambda key=key: put(step, f"{prefix}/runs/r1/{key}")) == "AccessDenied"  # type: ignore[misc]

    def test_the_bucket_itself_is_out_of_reach(self, train: Minio, prefix: str) -> None:
        assert denied(lambda: train.get_bucket_policy(bucket_name="tests")) == "AccessDenied"
        assert denied(lambda: train.make_bucket(bucket_name="mine" + secrets.token_hex(4))) == "AccessDenied"
        assert denied(lambda: train.remove_bucket(bucket_name="tests")) == "AccessDenied"
        put(train, f"{prefix}/blobs/x")

    def test_temporary_credentials_cannot_make_others(self, storage: str, authorizer: Authorizer, minio: str) -> None:
        current = CredentialBroker(storage, authorizer, keys=ROOT).issue(TRAIN).current()
        assert current is not None
        keys = KeyPair(current.access_key, current.secret_key, current.session_token)
        with pytest.raises(CredentialError, match=r"403|AccessDenied"):
            assume_role(minio, keys, "{}", duration_s=900)
        policy = session_policy("tests", "", EVERY, run="r1")
        assert assume_role(minio, ROOT, policy, duration_s=900).session_token

    @pytest.mark.parametrize("change", ["token", "secret", "none"])
    def test_forged_credentials_are_refused(
        self, change: str, storage: str, authorizer: Authorizer, minio: str, prefix: str
    ) -> None:
        current = CredentialBroker(storage, authorizer, keys=ROOT).issue(TRAIN).current()
        assert current is not None
        header, payload, signature = current.session_token.split(".")
        forged = {
            "token": client(minio, current.access_key, current.secret_key, f"{header}.{payload}.{signature[::-1]}"),
            "secret": client(minio, current.access_key, "x" * 40, current.session_token),
            "none": client(minio, current.access_key, current.secret_key),
        }[change]
        assert denied(lambda: put(forged, f"{prefix}/blobs/x")) in {
            "AccessDenied", "InvalidTokenId", "SignatureDoesNotMatch", "InvalidAccessKeyId",
        }  # fmt: skip
        put(client_of(minio, current), f"{prefix}/blobs/x")

    def test_wrong_keys_of_the_broker_are_a_typed_error(self, storage: str, authorizer: Authorizer) -> None:
        broker = CredentialBroker(storage, authorizer, keys=KeyPair("everloop", "wrong-secret"))
        with pytest.raises(CredentialError, match="403") as caught:
            broker.issue(TRAIN)
        assert "wrong-secret" not in str(caught.value)

    def test_a_log_is_written_with_renewable_credentials_of_a_step(
        self, storage: str, authorizer: Authorizer, minio: str, prefix: str
    ) -> None:
        credentials = CredentialBroker(storage, authorizer, keys=ROOT).issue(
            step_principal("r1", "version", team="search")
        )
        bucket = S3Store(
            "tests",
            prefix=prefix,
            endpoint=minio,
            region="us-east-1",
            client_options={"allow_http": True},
            credential_provider=credentials,
        )
        obstore.put(bucket, "datasets/docs/x", b"1", mode="create")
        with pytest.raises(obstore.exceptions.PermissionDeniedError):
            obstore.put(bucket, "releases/prod/x", b"1")

    def test_a_store_opened_with_the_environment_of_a_step_holds_its_logs(
        self, storage: str, authorizer: Authorizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Count:
            def initial(self) -> int:
                return 0

            def apply(self, state: int, record: Any) -> int:
                return state + 1

            def dump(self, state: int) -> Any:
                return state

            def load(self, data: Any) -> int:
                return int(data)

        credentials = CredentialBroker(storage, authorizer, keys=ROOT).issue(
            step_principal("r1", "version", team="search")
        )
        for name, value in credentials.environ().items():
            monkeypatch.setenv(name, value)
        store = open_store(storage)
        log = Log(store, "datasets/docs", Count())
        log.append(lambda _: Draft("made", {}))
        assert Log(store, "datasets/docs", Count()).refresh() == 1
        assert store.now() > 1_700_000_000
        with pytest.raises(StoreError, match="AccessDenied"):
            Log(store, "releases/prod", Count()).append(lambda _: Draft("made", {}))

    def test_a_store_says_denied_whatever_is_asked_for_out_of_reach(
        self, storage: str, authorizer: Authorizer, prefix: str, root_client: Minio
    ) -> None:
        put(root_client, f"{prefix}/approvals/t/1")
        credentials = CredentialBroker(storage, authorizer, keys=ROOT).issue(TRAIN, path="train")
        store = open_store(storage, credentials=credentials)
        for key in ("approvals/t/1", "audit/w/missing", "runs/r2/steps/train/1"):
            for call in (
                lambda key=key: store.get(key),
                lambda key=key: store.head(key),
                lambda key=key: store.put(key, b""),
                lambda key=key: store.create(key, b""),
                lambda key=key: list(store.list(key.rpartition("/")[0])),
            ):
                with pytest.raises(StoreDenied):
                    call()  # type: ignore[no-untyped-call]
        store.create("runs/r1/steps/train/1", b"1")
        assert [found.key for found in store.list("runs/r1")] == ["runs/r1/steps/train/1"]
        assert store.head("runs/r1/0.json") is None

    def test_credentials_cannot_be_wider_than_the_parent(self, minio: str, prefix: str) -> None:
        """A parent that may only touch `<prefix>/blobs`; the session policy asks for more."""
        user, password = "broker" + secrets.token_hex(4), secrets.token_hex(16)
        admin = MinioAdmin(
            endpoint=minio.removeprefix("http://"),
            credentials=StaticProvider(ROOT.access_key, ROOT.secret_key),
            secure=False,
        )
        narrow = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": ["s3:*"], "Resource": [f"arn:aws:s3:::tests/{prefix}/blobs/*"]}
            ],
        }
        admin.user_add(access_key=user, secret_key=password)
        admin.policy_add(policy_name=user, policy=narrow)
        admin.attach_policy(policies=[user], user=user)
        wide = session_policy("tests", f"{prefix}/", (*EVERY, Need("releases", write=True)), run="r1")
        target = client_of(minio, assume_role(minio, KeyPair(user, password), wide, duration_s=900))
        put(target, f"{prefix}/blobs/x")
        assert denied(lambda: put(target, f"{prefix}/releases/x")) == "AccessDenied"
        admin.user_remove(access_key=user)
        assert denied(lambda: put(target, f"{prefix}/blobs/y")) in {
            "AccessDenied",
            "InvalidAccessKeyId",
            "InvalidTokenId",
        }


class TestRequiredTags:
    @pytest.fixture
    def tagging(self, storage: str, authorizer: Authorizer, minio: str) -> Minio:
        broker = CredentialBroker(
            storage, authorizer, keys=ROOT, required_tags={"sensitivity": "internal", "run": "r1"}
        )
        current = broker.issue(TRAIN).current()
        assert current is not None
        return client_of(minio, current)

    @staticmethod
    def tags(**values: str) -> Tags:
        found = Tags(for_object=True)
        found.update(values)
        return found

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"sensitivity": "public", "run": "r1"},
            {"sensitivity": "internal"},
            {"sensitivity": "internal", "run": "r2"},
        ],
    )
    def test_an_object_without_exactly_these_tags_is_refused(
        self, wrong: dict[str, str], tagging: Minio, root_client: Minio, prefix: str
    ) -> None:
        assert (
            denied(lambda: put(tagging, f"{prefix}/blobs/x", tags=self.tags(**wrong) if wrong else None))
            == "AccessDenied"
        )
        assert names(root_client, f"{prefix}/") == []
        put(tagging, f"{prefix}/blobs/x", tags=self.tags(sensitivity="internal", run="r1"))
        assert dict(root_client.get_object_tags(bucket_name="tests", object_name=f"{prefix}/blobs/x") or {}) == {
            "sensitivity": "internal",
            "run": "r1",
        }

    def test_tags_sent_with_a_request_to_read_open_nothing(self, train: Minio, root_client: Minio, prefix: str) -> None:
        """MinIO lets the tags in a request stand in for those of an object without any; no policy of ours reads
        them."""
        put(root_client, f"{prefix}/releases/prod")
        put(root_client, f"{prefix}/approvals/t")
        spoofed = {"x-amz-tagging": "sensitivity=public&run=r1"}

        def read(key: str) -> bytes:
            answer = train.get_object(bucket_name="tests", object_name=f"{prefix}/{key}", request_headers=spoofed)
            try:
                return bytes(answer.read())
            finally:
                answer.close()
                answer.release_conn()

        assert denied(lambda: read("approvals/t")) == "AccessDenied"
        assert read("releases/prod") == b"x"
        assert "ExistingObjectTag" not in session_policy("b", "", EVERY, run="r1", required_tags={"a": "b"})


@pytest.mark.slow
@pytest.mark.services
@pytest.mark.timeout(1500)
def test_expired_credentials_are_refused(minio: str, prefix: str) -> None:
    """Takes 15 minutes: MinIO gives out nothing shorter."""
    policy = session_policy("tests", f"{prefix}/", EVERY, run="r1")
    current = assume_role(minio, ROOT, policy, duration_s=900)
    target = client_of(minio, current)
    put(target, f"{prefix}/blobs/x")
    while time.time() < current.expires_at + 2:
        threading.Event().wait(1)
    assert denied(lambda: put(target, f"{prefix}/blobs/y")) in {
        "AccessDenied",
        "InvalidAccessKeyId",
        "ExpiredToken",
        "InvalidTokenId",
    }
