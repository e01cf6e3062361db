"""Hands out storage credentials that fit one step of one run and nothing else.

Each step asks for the parts of the storage that it needs (`STEP_NEEDS`); Cedar decides about each; MinIO then gives
temporary credentials with a session policy for exactly those prefixes. A step that is taken over by what it reads (a
page, a model file) can neither read another run nor write to the release log. On a folder (`file://`) there is nothing
to hand out: the processes of one machine share one user, so the policies are asked and the credentials are empty.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from workflows.access.authorizer import Authorizer, Question
from workflows.access.errors import CredentialError, Denied
from workflows.access.principals import Principal
from workflows.access.resources import area
from workflows.access.sts import MAX_POLICY_CHARS, KeyPair, TemporaryCredentials, assume_role

if TYPE_CHECKING:
    from obstore.store import S3Credential

DEFAULT_DURATION_S = 3600
# Renewed while this much of the time is left, so that a slow request still ends in time.
_RENEW_AT_FRACTION = 0.25
# The storage's clock is told by the time of an object that anyone may touch.
_CLOCK_KEY = ".clock"
_WILDCARDS = re.compile(r"[*?$]")


@dataclass(frozen=True, slots=True)
class Need:
    """A part of the storage that a step needs: the first word of its keys. `runs` always means the step's own run."""

    area: str
    write: bool = False


EVERY_STEP = (Need("runs", write=True), Need("blobs", write=True))
_LEARNING = (*EVERY_STEP, Need("datasets"), Need("releases"), Need("derived", write=True))

STEP_NEEDS: Mapping[str, tuple[Need, ...]] = {
    "scrape": (*EVERY_STEP, Need("frontier", write=True)),
    "validate": EVERY_STEP,
    "version": (*EVERY_STEP, Need("datasets", write=True), Need("frontier", write=True)),
    "tune": _LEARNING,
    "train": _LEARNING,
    "evaluate": _LEARNING,
    "deploy": (*EVERY_STEP, Need("releases", write=True), Need("outcomes")),
    "monitor": (
        *EVERY_STEP,
        Need("outcomes"),
        Need("releases"),
        Need("datasets"),
        Need("signals", write=True),
        Need("monitors", write=True),
    ),
}


@dataclass(frozen=True, slots=True)
class _Bucket:
    endpoint: str
    name: str
    prefix: str
    region: str


class StepCredentials:
    """Credentials of one step, renewed by themselves.

    Also a credential provider of obstore: `S3Store(bucket, credential_provider=credentials)`.
    """

    def __init__(
        self, issue: Callable[[], TemporaryCredentials] | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._issue = issue
        self._clock = clock
        self._lock = threading.Lock()
        self._current: TemporaryCredentials | None = None
        self._renew_at = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether the storage is a folder, which knows no credentials."""
        return self._issue is None

    def current(self) -> TemporaryCredentials | None:
        """Credentials that hold for a while yet; None for a folder.

        Raises:
            CredentialError: The storage gave none.
        """
        if self._issue is None:
            return None
        with self._lock:
            now = self._clock()
            if self._current is None or now >= self._renew_at:
                self._current = self._issue()
                self._renew_at = self._current.expires_at - _RENEW_AT_FRACTION * (self._current.expires_at - now)
            return self._current

    def environ(self) -> dict[str, str]:
        """Environment variables for a process that opens the storage by itself; empty for a folder. They are not
        renewed."""
        current = self.current()
        if current is None:
            return {}
        return {
            "AWS_ACCESS_KEY_ID": current.access_key,
            "AWS_SECRET_ACCESS_KEY": current.secret_key,
            "AWS_SESSION_TOKEN": current.session_token,
        }

    def __call__(self) -> S3Credential:
        """The current credentials as obstore takes them."""
        current = self.current()
        if current is None:
            raise CredentialError("file://", "a folder knows no credentials")
        return {
            "access_key_id": current.access_key,
            "secret_access_key": current.secret_key,
            "token": current.session_token,
            "expires_at": datetime.fromtimestamp(current.expires_at, UTC),
        }


class CredentialBroker:
    """Issues credentials after Cedar has allowed every part of them.

    Args:
        storage: The storage URI.
        authorizer: Decides, and writes down what was handed out to whom.
        keys: The broker's own credentials; by default `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. A MinIO user
            with rights on the one bucket is enough, and better than the root user.
        duration_s: How long credentials hold, 900 or more.
        required_tags: Tags that every object the step writes must carry, for a bucket whose policy reads them.
    """

    def __init__(
        self,
        storage: str,
        authorizer: Authorizer,
        *,
        keys: KeyPair | None = None,
        duration_s: int = DEFAULT_DURATION_S,
        required_tags: Mapping[str, str] | None = None,
    ) -> None:
        self._bucket = _bucket(storage)
        self._authorizer = authorizer
        self._keys = keys
        self._duration_s = duration_s
        self._required_tags = dict(required_tags or {})

    def issue(self, principal: Principal, needs: Sequence[Need] | None = None, *, path: str = "") -> StepCredentials:
        """Credentials for a step.

        Args:
            principal: From `step_principal`.
            needs: By default `STEP_NEEDS` of the step.
            path: The step in the graph of its run; it writes below `runs/<run>/steps/<path>` alone. Without one it
                writes below all steps of its run.

        Raises:
            Denied: The policies do not allow one of the needs; nothing is handed out then.
            CredentialError: The storage gave none.
        """
        if needs is None:
            needs = STEP_NEEDS.get(principal.step or "", ())
        questions = [
            Question(action, area(need.area, run_id=principal.run if need.area == "runs" else None))
            for need in needs
            for action in (("read_area", "write_area") if need.write else ("read_area",))
        ]
        if not questions:
            raise Denied(principal.subject, "read_area", "Area::(unknown step)")
        for question, decision in zip(questions, self._authorizer.decide_each(principal, questions), strict=True):
            if not decision.allowed:
                raise Denied(principal.subject, question.action, question.resource.subject, decision.policies)
        bucket = self._bucket
        if bucket is None:
            return StepCredentials(None)
        for name in (principal.run or "", path):
            if _WILDCARDS.search(name):
                raise CredentialError(bucket.endpoint, f"{name!r} would be read as a pattern in a session policy")
        policy = session_policy(
            bucket.name, bucket.prefix, needs, run=principal.run or "", path=path, required_tags=self._required_tags
        )
        if len(policy) > MAX_POLICY_CHARS:
            raise CredentialError(
                bucket.endpoint, f"the session policy has {len(policy)} characters, {MAX_POLICY_CHARS} are allowed"
            )
        keys = self._keys or _keys_from_environment(bucket.endpoint)
        credentials = StepCredentials(
            lambda: assume_role(bucket.endpoint, keys, policy, duration_s=self._duration_s, region=bucket.region)
        )
        credentials.current()
        return credentials


def session_policy(
    bucket: str,
    prefix: str,
    needs: Sequence[Need],
    *,
    run: str,
    path: str = "",
    required_tags: Mapping[str, str] | None = None,
) -> str:
    """The session policy for those parts of a bucket, as compact JSON.

    A step reads its run, writes and deletes below its own path in it, and never the journal of the run. With
    `required_tags`, a PUT without exactly these tags is refused.
    """

    def key(need: Need) -> str:
        return f"{prefix}{need.area}/{run}/" if need.area == "runs" else f"{prefix}{need.area}/"

    def arns(keys: Sequence[str]) -> list[str]:
        return [f"arn:aws:s3:::{bucket}/{name}*" for name in keys]

    clock = [f"arn:aws:s3:::{bucket}/{prefix}{_CLOCK_KEY}"]
    read = [key(need) for need in needs]
    below = f"steps/{path}/" if path else "steps/"
    own = [f"{key(need)}{below}" for need in needs if need.write and need.area == "runs"]
    write = own + [key(need) for need in needs if need.write and need.area != "runs"]
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": arns(read) + clock},
        {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": clock},
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{bucket}"],
            "Condition": {"StringLike": {"s3:prefix": [f"{name}*" for name in read]}},
        },
    ]
    if write:
        put: dict[str, Any] = {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": arns(write)}
        if required_tags:
            # What a request must carry. Never `s3:ExistingObjectTag`: on an object without tags MinIO takes those of
            # the request.
            wanted = {f"s3:RequestObjectTag/{name}": value for name, value in required_tags.items()}
            put |= {"Action": ["s3:PutObject", "s3:PutObjectTagging"], "Condition": {"StringEquals": wanted}}
        statements += [put, {"Effect": "Allow", "Action": ["s3:AbortMultipartUpload"], "Resource": arns(write)}]
    if own:
        statements.append({"Effect": "Allow", "Action": ["s3:DeleteObject"], "Resource": arns(own)})
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _bucket(storage: str) -> _Bucket | None:
    parts = urlsplit(storage)
    if parts.scheme in ("", "file"):
        return None
    options = parse_qs(parts.query)
    endpoint = options.get("endpoint_override", [""])[0]
    if parts.scheme != "s3" or not endpoint:
        raise CredentialError(
            storage, "the broker needs s3:// with endpoint_override, the address of the token service"
        )
    if "://" not in endpoint:
        endpoint = f"{options.get('scheme', ['https'])[0]}://{endpoint}"
    prefix = unquote(parts.path).strip("/")
    region = options.get("region", ["us-east-1"])[0]
    return _Bucket(endpoint, parts.netloc, f"{prefix}/" if prefix else "", region)


def _keys_from_environment(endpoint: str) -> KeyPair:
    try:
        return KeyPair(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    except KeyError as missing:
        raise CredentialError(endpoint, f"the environment lacks {missing.args[0]}") from None
