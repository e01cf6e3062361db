from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from steps.scrape.download import check_type, read_body
from steps.scrape.errors import PageRefusedError

URL = "http://example.com/"


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(*parts: bytes, encoding: str = "", declared: int | None = None, max_bytes: int = 1 << 22) -> bytes:
    body, _ = await read_body(URL, pieces(*parts), encoding=encoding, declared=declared, max_bytes=max_bytes)
    return body


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP "])
async def test_a_packed_body_is_unpacked_whatever_the_pieces(encoding: str) -> None:
    text = b"all the world is a stage " * 400
    packed = zlib.compress(text) if encoding == "deflate" else gzip.compress(text)
    assert await read(*(packed[i : i + 7] for i in range(0, len(packed), 7)), encoding=encoding) == text


async def test_the_bytes_received_are_counted_packed() -> None:
    packed = gzip.compress(b"a" * 10_000)
    _, received = await read_body(URL, pieces(packed), encoding="gzip", declared=None, max_bytes=1 << 20)
    assert received == len(packed)


@pytest.mark.parametrize(
    ("parts", "options", "reason"),
    [
        ((b"x",), {"declared": 1 << 30}, "too_large"),
        ((b"x" * 1000,) * 3, {"max_bytes": 2048}, "too_large"),
        ((gzip.compress(b"0" * (30 << 20)),), {"encoding": "gzip", "max_bytes": 1 << 25}, "compression_ratio"),
        ((gzip.compress(bytes(range(256)) * 40),), {"encoding": "gzip", "max_bytes": 2048}, "too_large"),
        ((b"no gzip at all",), {"encoding": "gzip"}, "bad_encoding"),
        ((gzip.compress(b"cut off" * 99)[:20],), {"encoding": "gzip"}, "bad_encoding"),
        ((b"x",), {"encoding": "br"}, "bad_encoding"),
    ],
)
async def test_a_body_that_is_too_much_or_broken_is_refused(
    parts: tuple[bytes, ...], options: dict[str, object], reason: str
) -> None:
    with pytest.raises(PageRefusedError) as refused:
        await read(*parts, **options)  # type: ignore[arg-type]
    assert refused.value.reason == reason


async def test_a_gzip_bomb_is_stopped_before_it_fills_the_memory() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    consumed = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal consumed
        for start in range(0, len(bomb), 1024):
            consumed += 1024
            yield bomb[start : start + 1024]

    with pytest.raises(PageRefusedError):
        await read_body(URL, counted(), encoding="gzip", declared=None, max_bytes=1 << 22)
    assert consumed <= 16 * 1024


@pytest.mark.parametrize(
    "content_type", ["text/html; charset=utf-8", "TEXT/HTML", "application/xhtml+xml", "text/plain", ""]
)
def test_text_passes(content_type: str) -> None:
    check_type(URL, content_type)


@pytest.mark.parametrize("content_type", ["image/png", "application/pdf", "application/octet-stream", "text/css"])
def test_other_types_are_refused(content_type: str) -> None:
    with pytest.raises(PageRefusedError, match="content type"):
        check_type(URL, content_type)
