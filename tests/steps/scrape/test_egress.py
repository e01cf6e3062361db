from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import pytest

from steps.scrape.address import AddressPolicy
from steps.scrape.egress import serve_egress


def get(proxy_port: int, url: str) -> str:
    proxies = urllib.request.ProxyHandler(
        {"http": f"http://127.0.0.1:{proxy_port}", "https": f"http://127.0.0.1:{proxy_port}"}
    )
    with urllib.request.build_opener(proxies).open(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_allowed_pages_pass_through(site: Any) -> None:
    site.pages["/a?b=c"] = "inside"
    policy = AddressPolicy(routes={"site.localhost": ("127.0.0.1", site.port)})
    with serve_egress(policy) as port:
        assert get(port, "http://site.localhost/a?b=c") == "inside"
    assert site.asked("/a?b=c")[0].headers["Host"] == "site.localhost"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "http://169.254.169.254/", "https://10.0.0.1/", "https://127.0.0.1:{port}/"]
)
def test_other_addresses_are_refused(site: Any, url: str) -> None:
    site.pages["/"] = "inside"
    with serve_egress(AddressPolicy()) as port, pytest.raises((urllib.error.HTTPError, OSError), match="403"):
        get(port, url.format(port=site.port))
    assert site.log == []


def test_a_name_that_leads_inside_is_refused(site: Any) -> None:
    async def lookup(host: str) -> list[str]:
        return ["127.0.0.1"]

    with serve_egress(AddressPolicy(), lookup) as port, pytest.raises(urllib.error.HTTPError, match="403"):
        get(port, "http://rebound.example.com/")
    assert site.log == []


def test_a_second_request_cannot_slip_through_a_connection_that_was_allowed(site: Any) -> None:
    import socket

    site.pages["/"] = "inside"
    policy = AddressPolicy(routes={"site.localhost": ("127.0.0.1", site.port)})
    head = b"GET http://site.localhost/ HTTP/1.1\r\nHost: site.localhost\r\nConnection: keep-alive\r\n\r\n"
    with serve_egress(policy) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(head)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert b"Connection: close" in answer
    assert answer.endswith(b"inside")
