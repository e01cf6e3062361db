"""One body from the network: read in pieces, unpacked in pieces, and stopped as soon as it is too much."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from steps.scrape.errors import PageRefusedError

MAX_RATIO = 100
"""Unpacked bytes per received byte. HTML packs 3 to 20 times; deflate can do 1,032."""

_RATIO_COUNTS_FROM = 1 << 20
_PIECE = 1 << 16

ACCEPT_ENCODING = "gzip, deflate"
"""What `read_body` can unpack under a limit."""

TEXT_TYPES = frozenset({"text/html", "application/xhtml+xml", "text/plain"})
"""The allow-list of content types."""


def check_type(url: str, content_type: str) -> None:
    """Passes content types of `TEXT_TYPES`; a missing one passes too, and the text decides.

    Raises:
        PageRefusedError: `bad_type`.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type and media_type not in TEXT_TYPES:
        raise PageRefusedError(url, "bad_type", f"content type {media_type!r} is not text")


async def read_body(
    url: str, pieces: AsyncIterator[bytes], *, encoding: str, declared: int | None, max_bytes: int
) -> tuple[bytes, int]:
    """Reads and unpacks a body.

    Args:
        url: The page, for messages.
        pieces: The body as it comes, still packed.
        encoding: Content-Encoding.
        declared: Content-Length, if any.
        max_bytes: Limit of the body, both packed and unpacked.

    Returns:
        The body, and the bytes received for it.

    Raises:
        PageRefusedError: `too_large`, `compression_ratio` or `bad_encoding`.
    """
    if declared is not None and declared > max_bytes:
        raise PageRefusedError(url, "too_large", f"declares {declared} bytes, the limit is {max_bytes}")
    unpacker = _unpacker(url, encoding)
    body = bytearray()
    received = 0
    async for piece in pieces:
        received += len(piece)
        if received > max_bytes:
            raise PageRefusedError(url, "too_large", f"more than {max_bytes} bytes")
        if unpacker is None:
            body += piece
        else:
            _unpack(url, unpacker, piece, body, received=received, max_bytes=max_bytes)
    if unpacker is not None and not unpacker.eof and received:
        raise PageRefusedError(url, "bad_encoding", f"{encoding} body ends in the middle")
    return bytes(body), received


def _unpacker(url: str, encoding: str) -> zlib._Decompress | None:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # reads gzip and zlib headers
    raise PageRefusedError(url, "bad_encoding", f"content encoding {name!r} was not asked for")


def _unpack(
    url: str, unpacker: zlib._Decompress, piece: bytes, body: bytearray, *, received: int, max_bytes: int
) -> None:
    while piece:
        try:
            body += unpacker.decompress(piece, _PIECE)
        except zlib.error as error:
            raise PageRefusedError(url, "bad_encoding", f"broken body: {error}") from error
        if len(body) > _RATIO_COUNTS_FROM and len(body) > MAX_RATIO * received:
            raise PageRefusedError(url, "compression_ratio", f"unpacks more than {MAX_RATIO} times")
        if len(body) > max_bytes:
            raise PageRefusedError(url, "too_large", f"unpacks to more than {max_bytes} bytes")
        piece = unpacker.unconsumed_tail
