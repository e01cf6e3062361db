"""Large JSON within records: small inline, large as a blob. A record stays small, however large a graph is."""

from __future__ import annotations

import json
from typing import Any

from workflows.log import JSON, BlobRef, Blobs

MAX_INLINE_BYTES = 65_536
MEDIA_TYPE = "application/json"


def pack(data: JSON, blobs: Blobs, *, max_inline_bytes: int = MAX_INLINE_BYTES) -> dict[str, Any]:
    """JSON for a record."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(text) <= max_inline_bytes:
        return {"inline": data}
    ref = blobs.put(text, MEDIA_TYPE)
    return {"blob": {"sha256": ref.sha256, "size": ref.size, "media_type": MEDIA_TYPE}}


def unpack(data: JSON, blobs: Blobs) -> JSON:
    """The JSON that `pack` was given."""
    if "inline" in data:
        return data["inline"]
    return json.loads(blobs.get(BlobRef(**data["blob"])))
