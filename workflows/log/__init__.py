"""Append-only logs and content-addressed blobs, in a folder or on S3, safe against crashes, lost answers and rivals."""

from workflows.log.blobs import GRACE_S, BlobRef, Blobs, TreeRef
from workflows.log.codec import JSON, decode, encode
from workflows.log.errors import (
    AlreadyExists,
    CannotDecode,
    CannotEncode,
    Closed,
    CodecError,
    CorruptBlob,
    CorruptRecord,
    Fenced,
    InvalidKey,
    InvalidRecord,
    InvalidUri,
    LogError,
    LyingStore,
    NoHardLinks,
    NotFound,
    Refused,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreRejected,
    StoreUnavailable,
    UnsupportedFormat,
)
from workflows.log.failpoints import FailpointHit, failpoint, failpoint_names
from workflows.log.gc import Collected, collect_garbage, keep_reachable, log_references, references
from workflows.log.log import Fold, Log, Tell
from workflows.log.notification import EVENTS, SEVERITIES, Notification, Severity
from workflows.log.record import Draft, Record, canonical_json
from workflows.log.store import Buffer, ObjectInfo, Store, check_key, open_store, probe_store
from workflows.log.stored import Verification, fork_log, list_logs, stored_records, verify_log

__all__ = [
    # logs
    "Log",
    "Fold",
    "Draft",
    "Record",
    "Verification",
    "fork_log",
    "list_logs",
    "stored_records",
    "verify_log",
    # what people are told
    "Notification",
    "Severity",
    "Tell",
    "EVENTS",
    "SEVERITIES",
    # stores
    "Store",
    "ObjectInfo",
    "Buffer",
    "open_store",
    "probe_store",
    "check_key",
    # blobs
    "Blobs",
    "BlobRef",
    "TreeRef",
    "GRACE_S",
    "Collected",
    "collect_garbage",
    "keep_reachable",
    "log_references",
    "references",
    # values
    "JSON",
    "encode",
    "decode",
    "canonical_json",
    # faults
    "failpoint",
    "failpoint_names",
    "FailpointHit",
    # errors
    "LogError",
    "Refused",
    "Fenced",
    "Closed",
    "InvalidRecord",
    "CorruptRecord",
    "UnsupportedFormat",
    "CodecError",
    "CannotEncode",
    "CannotDecode",
    "CorruptBlob",
    "StoreError",
    "AlreadyExists",
    "NotFound",
    "InvalidKey",
    "InvalidUri",
    "LyingStore",
    "NoHardLinks",
    "StoreFull",
    "StoreDenied",
    "StoreRejected",
    "StoreUnavailable",
]
