"""The browser's way out: a forward proxy on loopback that applies the address rules to every connection.

A browser follows redirects, loads scripts and opens sockets by itself, so checking the URL of a page is not enough. It
is given this proxy, also for loopback addresses, and cannot resolve a name or open a connection without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from yarl import URL

from steps.scrape.address import AddressPolicy, Lookup, PinnedResolver
from steps.scrape.errors import AddressRefusedError

logger = logging.getLogger(__name__)

_HEAD_S = 20.0
_PIECE = 1 << 16
_HOP_BY_HOP = (b"proxy-connection", b"connection", b"proxy-authorization", b"keep-alive")


@contextmanager
def serve_egress(policy: AddressPolicy, lookup: Lookup | None = None) -> Iterator[int]:
    """Runs the proxy in a thread until the block ends; yields its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="egress", daemon=True)
    thread.start()
    proxy = _Proxy(policy, PinnedResolver(policy, lookup))
    server = asyncio.run_coroutine_threadsafe(_listen(proxy), loop).result()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_shut(server, proxy), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(proxy: _Proxy) -> asyncio.Server:
    return await asyncio.start_server(proxy.accept, "127.0.0.1", 0)


async def _shut(server: asyncio.Server, proxy: _Proxy) -> None:
    server.close()
    await proxy.close()
    # An aborted transport closes its socket in the next turn of the loop.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class _Proxy:
    def __init__(self, policy: AddressPolicy, resolver: PinnedResolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begins to serve a connection. Not a coroutine, so that no connection is unknown when the proxy closes."""
        self._writers.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drops all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection: one CONNECT, or one request."""
        try:
            async with asyncio.timeout(_HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, up_reader, up_writer = await self._connect(head)
        except AddressRefusedError as refusal:
            logger.info("egress: %s", refusal)
            await _answer(writer, b"403 Forbidden")
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            await _answer(writer, b"502 Bad Gateway")
        else:
            self._writers.add(up_writer)
            with contextlib.suppress(OSError):
                if method == "CONNECT":
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    await writer.drain()
                else:
                    up_writer.write(_origin_form(head, method, target))
                    await up_writer.drain()
            await asyncio.gather(_pipe(reader, up_writer), _pipe(up_reader, writer))
            await self._drop(up_writer)
        await self._drop(writer)

    async def _drop(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self._writers.discard(writer)

    async def _connect(self, head: bytes) -> tuple[str, URL, asyncio.StreamReader, asyncio.StreamWriter]:
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        # A tunnel says only host and port. Plain web sockets come as CONNECT to port 80.
        if method == "CONNECT":
            target = f"{'http' if target.endswith(':80') else 'https'}://{target}/"
        url = self._policy.check_url(target)
        host, port = str(url.raw_host), int(url.port or 0)
        found = await self._resolver.resolve(host, port)
        for place in found:
            with contextlib.suppress(OSError):
                # The address, not the name: what was checked is what is connected to.
                up_reader, up_writer = await asyncio.open_connection(place["host"], place["port"])
                return method, url, up_reader, up_writer
        raise ConnectionError(f"no address of {host} answers")


def _origin_form(head: bytes, method: str, url: URL) -> bytes:
    """The request as a server expects it, and as the last one on its connection, so that no other can slip through."""
    lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept = [line for line in lines[1:] if line.partition(b":")[0].strip().lower() not in _HOP_BY_HOP]
    first = f"{method} {url.raw_path_qs} HTTP/1.1".encode("latin-1")
    return b"\r\n".join([first, *kept, b"Connection: close"]) + b"\r\n\r\n"


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


async def _answer(writer: asyncio.StreamWriter, status: bytes) -> None:
    with contextlib.suppress(OSError):
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
