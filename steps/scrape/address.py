"""Which addresses a crawl may talk to: the guard against server-side request forgery.

A page decides where the crawler goes next, and the crawler stands inside a network that the page's author does not. So
every URL, seed, link or redirect, passes three gates:

1. `AddressPolicy.check_url`: a plain http(s) URL, no user, usual port, a host written the usual way.
2. `PinnedResolver`: the name is resolved once, all its addresses must be public, and the connection goes to those very
   addresses, so that a second answer of the DNS (rebinding) is never asked for.
3. `AddressPolicy.socket_factory`: the last look at the address itself, right before the socket exists.

The sources that the step serves itself have names below `.localhost` (RFC 6761) and are reached by `routes`, not by
DNS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from steps.scrape.errors import AddressRefusedError

MAX_URL_CHARS = 2048
"""Longer ones are not worth the trouble: crawler traps and data in disguise."""

_PORTS = frozenset({80, 443})

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Google, Azure, OpenStack, DigitalOcean
        "169.254.170.2",  # AWS ECS task credentials
        "fd00:ec2::254",  # AWS over IPv6
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure's wire server: a public address
    )
)

_TRANSITION = (
    (ipaddress.ip_network("64:ff9b::/96"), "NAT64 (RFC 6052)"),
    (ipaddress.ip_network("64:ff9b:1::/48"), "local NAT64 (RFC 8215)"),
    (ipaddress.ip_network("2002::/16"), "6to4 (RFC 3056)"),
    (ipaddress.ip_network("2001::/32"), "Teredo (RFC 4380)"),
    (ipaddress.ip_network("::/96"), "IPv4-compatible (RFC 4291)"),
)

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "::1/128", "fc00::/7")
)

_ISATAP = (0x00005EFE, 0x02005EFE)

Lookup = Callable[[str], Awaitable[list[str]]]
"""Name to addresses; raises OSError when there are none."""


def forbidden_rule(address: str, *, allow_private: bool = False) -> str | None:
    """Says why an IP address must not be talked to, or None.

    Args:
        address: IPv4 or IPv6 in its usual notation.
        allow_private: Whether loopback and private networks (RFC 1918, RFC 4193) are allowed. Metadata services,
            link-local and shared addresses stay forbidden.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip in _METADATA:
        return f"{ip} is a metadata service of a cloud"
    private = any(ip in network for network in _PRIVATE if network.version == ip.version)
    if private:
        return None if allow_private else f"{ip} is a loopback or private address"
    if isinstance(ip, ipaddress.IPv6Address):
        for network, name in _TRANSITION:
            if ip in network:
                return f"{ip} hides an IPv4 address: {name}"
        if (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
            return f"{ip} hides an IPv4 address: ISATAP (RFC 5214)"
    if ip.is_multicast or ip.is_reserved or not ip.is_global:
        return f"{ip} is no public address"
    return None


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What a crawl may connect to.

    Attributes:
        allow_private: Whether loopback and private networks are allowed, and with them any port.
        routes: Names that stand for servers the step started itself: name to IP and port.
    """

    allow_private: bool = False
    routes: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def check_url(self, url: str) -> URL:
        """Returns the URL as it will be asked for; the same object goes to the HTTP client, so no second parser is
        fooled.

        Raises:
            AddressRefusedError: It is no plain web address, or its host is an address that is not allowed.
        """
        if len(url) > MAX_URL_CHARS:
            raise AddressRefusedError(url[:80] + "...", "bad_url", f"longer than {MAX_URL_CHARS} characters")
        if "\\" in url or any(char.isspace() or ord(char) < 0x20 or ord(char) == 0x7F for char in url):
            raise AddressRefusedError(url, "bad_url", "holds a backslash, a space or a control character")
        try:
            parsed = URL(url)
            host, port = parsed.raw_host, parsed.port
        except ValueError as error:
            raise AddressRefusedError(url, "bad_url", f"no URL: {error}") from error
        if parsed.scheme not in ("http", "https"):
            raise AddressRefusedError(url, "bad_url", f"scheme {parsed.scheme!r} is neither http nor https")
        if parsed.raw_user is not None or parsed.raw_password is not None:
            raise AddressRefusedError(url, "bad_url", "holds a user or password")
        if not host:
            raise AddressRefusedError(url, "bad_url", "has no host")
        if host in self.routes:
            return parsed
        if port not in _PORTS and not self.allow_private:
            raise AddressRefusedError(url, "bad_url", f"port {port} is neither 80 nor 443")
        self._check_host(url, host)
        return parsed

    def _check_host(self, url: str, host: str) -> None:
        if (literal := _literal(host)) is not None:
            self.check_address(url, literal)
        elif _looks_numeric(host):
            raise AddressRefusedError(url, "private_address", f"{host!r} is an IP address in an unusual notation")

    def check_address(self, url: str, address: str) -> None:
        """Passes an address that may be talked to.

        Raises:
            AddressRefusedError: It may not be.
        """
        rule = forbidden_rule(address, allow_private=self.allow_private)
        if rule is not None:
            raise AddressRefusedError(url, "private_address", rule)

    def socket_factory(self, info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """Makes the socket of a connection after a last look at the address. For aiohttp's `TCPConnector`."""
        family, kind, protocol, _, address = info
        if (address[0], address[1]) not in self.routes.values():
            self.check_address(f"{address[0]}:{address[1]}", str(address[0]))
        made = socket.socket(family=family, type=kind, proto=protocol)
        made.setblocking(False)
        return made


def _literal(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return None


def _looks_numeric(host: str) -> bool:
    """Whether the C library would read the host as an IPv4 address: decimal, octal, hexadecimal, fewer than four
    parts."""
    last = host.rstrip(".").rpartition(".")[2].lower()
    return last.isdigit() or last.startswith("0x")


class PinnedResolver(AbstractResolver):
    """Resolves each name once and stays with what it got.

    Args:
        policy: What may be connected to.
        lookup: The DNS; the system's when not given.
    """

    def __init__(self, policy: AddressPolicy, lookup: Lookup | None = None) -> None:
        self._policy = policy
        self._lookup = lookup or _system_lookup
        self._pins: dict[str, tuple[str, ...]] = {}

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - both families are asked for
    ) -> list[ResolveResult]:
        """Gives the pinned addresses of a host.

        Raises:
            AddressRefusedError: One of its addresses is not allowed; a mixed answer is an attack, so all are refused.
            OSError: The name has no address.
        """
        if host in self._policy.routes:
            address, port = self._policy.routes[host]
            return [_result(host, address, port)]
        return [_result(host, address, port) for address in await self.addresses(host)]

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Resolves and checks a name once; later calls give the same addresses."""
        if host not in self._pins:
            found = await self._lookup(host)
            for address in found:
                self._policy.check_address(host, address)
            self._pins.setdefault(host, tuple(dict.fromkeys(found)))
        return self._pins[host]

    def unpin(self, host: str) -> None:
        """Forgets a host whose addresses do not answer; the next answer of the DNS is checked like the first."""
        self._pins.pop(host, None)

    async def close(self) -> None:
        """Holds nothing open."""


async def _system_lookup(host: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )
