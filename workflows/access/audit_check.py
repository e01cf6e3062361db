"""Checks the audit logs of a storage: is what is there whole (the chain), and is all there that was there (the signed
checkpoints).

What lies behind the last checkpoint is covered by the chain alone: the report says how many records those are. Whoever
can delete the checkpoints together with the tail they cover can hide that tail; so keep them in a storage of their own,
with object lock, or pass in a checkpoint that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from workflows.access.audit import AUDIT_PREFIX, CHECKPOINT_LOG, AuditFold, Checkpoint, head_digest
from workflows.access.signing import VerifyingKey
from workflows.log import Log, LogError, NotFound, Record, Store, Verification

FindingKind = Literal[
    "broken_chain",  # a record was edited, removed from the middle, or moved
    "torn_tail",  # the last record is incomplete: a write that was cut off
    "truncated",  # a checkpoint counts more records than there are
    "rewritten",  # the record that a checkpoint names is another one
    "forged_checkpoint",  # a checkpoint that no trusted key signed
    "broken_checkpoints",  # the log of the checkpoints itself is not whole
    "no_checkpoints",  # there are records, and not one checkpoint
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: What.
        log: Where.
        index: The first record concerned, if it is known.
        detail: A sentence for people.
    """

    kind: FindingKind
    log: str
    index: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """One audit log.

    Attributes:
        name: `audit/<writer>`.
        num_records: Records that continue the chain.
        num_anchored: How many of them the last good checkpoint covers.
    """

    name: str
    num_records: int
    num_anchored: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was found. `ok` only if nothing is wrong."""

    logs: tuple[CheckedLog, ...]
    num_checkpoints: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify_audit(
    store: Store, keys: Iterable[VerifyingKey], *, anchors: Store | None = None, known: Sequence[Checkpoint] = ()
) -> AuditReport:
    """Checks all audit logs of a storage. Reads every record, changes nothing.

    Args:
        store: Where the logs lie.
        keys: The public keys that are trusted.
        anchors: Where the checkpoints lie; by default the same store.
        known: Checkpoints that were kept elsewhere; checked like those of the log.
    """
    findings: list[Finding] = []
    checkpoints = [*known, *_read_checkpoints(anchors or store, findings)]
    trusted = {key.id: key for key in keys}
    good = [checkpoint for checkpoint in checkpoints if _is_signed(checkpoint, trusted, findings)]
    names = _log_names(store) | {checkpoint.log for checkpoint in good}
    logs = [_check_log(store, name, [point for point in good if point.log == name], findings) for name in sorted(names)]
    if not checkpoints and any(log.num_records for log in logs):
        findings.append(
            Finding("no_checkpoints", CHECKPOINT_LOG, None, "there are audit records, and not one checkpoint")
        )
    return AuditReport(tuple(logs), len(good), tuple(findings))


def _read_checkpoints(anchors: Store, findings: list[Finding]) -> list[Checkpoint]:
    log = Log(anchors, CHECKPOINT_LOG, AuditFold())
    verification = log.verify()
    if not verification.ok:
        findings.append(Finding("broken_checkpoints", CHECKPOINT_LOG, verification.first_bad, verification.reason))
    checkpoints = []
    try:
        for record in log.records():
            checkpoint = _checkpoint(record, findings)
            if checkpoint is not None:
                checkpoints.append(checkpoint)
    except LogError:
        pass  # Said above; what stands before the bad record is still used.
    return checkpoints


def _checkpoint(record: Record, findings: list[Finding]) -> Checkpoint | None:
    try:
        return Checkpoint(**record.data)
    except TypeError as error:
        findings.append(Finding("forged_checkpoint", CHECKPOINT_LOG, record.index, f"it is malformed: {error}"))
        return None


def _is_signed(checkpoint: Checkpoint, trusted: dict[str, VerifyingKey], findings: list[Finding]) -> bool:
    key = trusted.get(checkpoint.key) if isinstance(checkpoint.key, str) else None
    if (
        key is not None
        and isinstance(checkpoint.signature, str)
        and key.accepts(checkpoint.signature, checkpoint.message())
    ):
        return True
    why = "its key is not trusted" if key is None else "its signature is not that of the key"
    detail = f"checkpoint of {checkpoint.count} records: {why}"
    findings.append(Finding("forged_checkpoint", str(checkpoint.log), None, detail))
    return False


def _log_names(store: Store) -> set[str]:
    """From every object, not from first records alone: a log whose first record was removed is still looked at."""
    folder = AUDIT_PREFIX.rstrip("/")
    return {f"{AUDIT_PREFIX}{info.key.split('/')[1]}" for info in store.list(folder) if info.key.count("/") >= 2}


def _check_log(store: Store, name: str, checkpoints: list[Checkpoint], findings: list[Finding]) -> CheckedLog:
    verification = Log(store, name, AuditFold()).verify()
    if not verification.ok:
        kind: FindingKind = "torn_tail" if _is_torn_tail(store, name, verification) else "broken_chain"
        findings.append(Finding(kind, name, verification.first_bad, verification.reason))
    num_anchored = 0
    for checkpoint in checkpoints:
        if checkpoint.count > verification.length:
            # Behind a break nothing can be said; the break has been told.
            if verification.ok:
                detail = f"a checkpoint counts {checkpoint.count} records, {verification.length} are there"
                findings.append(Finding("truncated", name, verification.length, detail))
            continue
        if head_digest(store, name, checkpoint.count) != checkpoint.head:
            detail = f"record {checkpoint.count - 1} is not the one that was signed"
            findings.append(Finding("rewritten", name, checkpoint.count - 1, detail))
            continue
        num_anchored = max(num_anchored, checkpoint.count)
    return CheckedLog(name, verification.length, num_anchored)


def _is_torn_tail(store: Store, name: str, verification: Verification) -> bool:
    """Whether the bad record is the last one and cannot even be read as a record."""
    index = verification.first_bad
    if index is None:
        return False
    last = f"{name}/{index:020d}.json"
    if any(info.key.rsplit("/", 1)[0] == name for info in store.list(name, after=last)):
        return False
    try:
        text = store.get(last)
    except NotFound:
        return False
    return not text.rstrip().endswith(b"}")
