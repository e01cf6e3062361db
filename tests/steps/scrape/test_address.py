from __future__ import annotations

import asyncio
import pickle
import socket

import aiohttp
import pytest

from steps.scrape.address import AddressPolicy, PinnedResolver, forbidden_rule
from steps.scrape.errors import AddressRefusedError

PUBLIC = AddressPolicy()
INSIDE = AddressPolicy(allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.0.0.1./",
        "http://１２７.0.0.1/",  # noqa: RUF001 - full-width digits are the point
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b:1::a9fe:a9fe]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://[ff02::1]/",
        "http://[::]/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://168.63.129.16/",
        "http://100.100.100.200/",
        "http://192.0.0.192/",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
    ],
)
def test_an_address_that_is_not_public_is_refused(url: str) -> None:
    with pytest.raises(AddressRefusedError) as refused:
        PUBLIC.check_url(url)
    assert refused.value.reason in ("private_address", "bad_url")
    assert refused.value.url == url


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("ftp://example.com/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("gopher://example.com/", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("//example.com/", "scheme"),
        ("http://user@example.com/", "user or password"),
        ("http://example.com:secret@127.0.0.1/", "user or password"),
        ("http://example.com:22/", "port 22"),
        ("http://example.com:6379/", "port 6379"),
        ("http://example.com:99999/", "no URL"),
        ("http://example.com\\@127.0.0.1/", "backslash"),
        ("http://example.com/\r\nHost: inside", "control"),
        ("http:///path", "host"),
        ("http://example.com/" + "a" * 3000, "longer"),
    ],
)
def test_what_is_no_plain_web_address_is_refused_by_name(url: str, detail: str) -> None:
    with pytest.raises(AddressRefusedError, match=detail) as refused:
        PUBLIC.check_url(url)
    assert refused.value.reason == "bad_url"


@pytest.mark.parametrize("url", ["http://93.184.216.34/", "https://example.com/a?b=c", "http://[2606:4700::1]/"])
def test_a_public_address_passes(url: str) -> None:
    assert str(PUBLIC.check_url(url)) == url


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/", "http://10.1.2.3/", "http://[::1]:9000/", "http://192.168.0.9/"]
)
def test_private_addresses_can_be_allowed(url: str) -> None:
    assert str(INSIDE.check_url(url)) == url


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.1.1",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "::ffff:169.254.169.254",
    ],
)
def test_metadata_and_link_local_addresses_are_never_allowed(address: str) -> None:
    assert forbidden_rule(address, allow_private=True) is not None


def test_an_isatap_address_is_recognised() -> None:
    assert "ISATAP" in str(forbidden_rule("2606:4700::5efe:7f00:1"))


def test_refusals_survive_pickling() -> None:
    error = AddressRefusedError("http://10.0.0.1/", "private_address", "10.0.0.1 is a loopback or private address")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.reason) == (type(error), str(error), error.reason)


async def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    async def lookup(host: str) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"]

    with pytest.raises(AddressRefusedError, match=r"127\.0\.0\.1"):
        await PinnedResolver(PUBLIC, lookup).resolve("two-faced.example", 80)


async def test_a_rebinding_name_keeps_the_address_that_was_checked() -> None:
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])

    async def lookup(host: str) -> list[str]:
        return next(answers)

    resolver = PinnedResolver(PUBLIC, lookup)
    first = await resolver.resolve("rebind.example", 80)
    second = await resolver.resolve("rebind.example", 443)
    assert [place["host"] for place in (*first, *second)] == ["93.184.216.34", "93.184.216.34"]
    resolver.unpin("rebind.example")
    with pytest.raises(AddressRefusedError):
        await resolver.resolve("rebind.example", 80)


async def test_a_route_leads_to_the_server_of_the_step_whatever_the_port_of_the_url() -> None:
    policy = AddressPolicy(routes={"pydoc.localhost": ("127.0.0.1", 45678)})
    (place,) = await PinnedResolver(policy).resolve("pydoc.localhost", 80)
    assert (place["host"], place["port"]) == ("127.0.0.1", 45678)
    assert str(policy.check_url("http://pydoc.localhost/abc.html")) == "http://pydoc.localhost/abc.html"


async def test_the_last_look_stops_an_address_that_came_by_another_way() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        connector = aiohttp.TCPConnector(socket_factory=PUBLIC.socket_factory)
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(AddressRefusedError, match="loopback"):
                await session.get(f"http://127.0.0.1:{port}/")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    await asyncio.sleep(0)
