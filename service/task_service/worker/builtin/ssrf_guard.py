"""Calls to addresses that somebody else chose: a name is resolved once, and only an address that
was checked is called.

Names are checked where the connection is made, so that neither a second look-up (DNS rebinding) nor
another spelling of an address (decimal, octal, IPv4 inside IPv6) leads anywhere else.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore
import httpx
from httpcore import SOCKET_OPTION

Address = IPv4Address | IPv6Address
NAT64 = ip_network("64:ff9b::/96")
INSIDE = (
    ip_network(
        "168.63.129.16/32"
    ),  # Azure's host, with credentials for its machines: a public address by its number
    ip_network("64:ff9b:1::/48"),  # NAT64 for networks' own use
    ip_network("2002::/16"),  # 6to4, which carries any IPv4 address; given up long ago
    ip_network("::/96"),  # IPv4-compatible: likewise
)


class ForbiddenAddressError(Exception):
    """The name leads to private, local or metadata addresses only."""


def is_public(address: Address) -> bool:
    """Whether an address is out on the Internet; one that carries an IPv4 address is judged by that
    as well.

    >>> [is_public(ip_address(a)) for a in ("93.184.215.14", "2606:2800:21f::1", "64:ff9b::5db8:d70e")]
    [True, True, True]
    >>> [is_public(ip_address(a)) for a in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0")]
    [False, False, False, False, False]
    >>> [is_public(ip_address(a)) for a in ("::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:10.1.2.3", "2002:7f00:1::")]
    [False, False, False, False, False]
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    elsewhere = (
        address.is_multicast or address.is_reserved or any(address in network for network in INSIDE)
    )
    return address.is_global and not elsewhere


async def checked_addresses(host: str, port: int) -> list[str]:
    """Resolve a name, once, and return its public addresses. ForbiddenAddressError, OSError (there
    is no such name).
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    public = [address for address in addresses if is_public(ip_address(address))]
    if not public:
        raise ForbiddenAddressError(
            f"{host} is at a private, local or metadata address ({', '.join(addresses)}); "
            "WEBHOOK_ALLOW_PRIVATE=true allows such calls"
        )
    return public


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to checked addresses only; TLS still asks for the name's certificate."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await checked_addresses(host, port)
        except OSError as error:  # TimeoutError is one
            raise httpcore.ConnectError(f"{host}: {error}") from error
        problem: Exception = httpcore.ConnectError(host)
        for address in addresses:
            try:
                return await self._backend.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    async def sleep(self, seconds: float) -> None:
        """See `AsyncNetworkBackend`."""
        await asyncio.sleep(seconds)


class CheckedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over `CheckedBackend`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        if not isinstance(
            self._pool, httpcore.AsyncConnectionPool
        ):  # httpx has no option for it: fail, never unchecked
            raise TypeError("this version of httpx keeps its connections elsewhere")
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, network_backend=CheckedBackend()
        )


def outgoing_transport(context: ssl.SSLContext, *, allow_private: bool) -> httpx.AsyncHTTPTransport:
    """A transport for one call; without `allow_private` it refuses what is not on the Internet."""
    return (
        httpx.AsyncHTTPTransport(verify=context, trust_env=False)
        if allow_private
        else CheckedTransport(context)
    )
