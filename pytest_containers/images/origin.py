"""Where a URL leads: scheme, host and port (RFC 6454), and what may be sent there.

The rules that keep credentials and requests where they belong: plain http is for loopback and for
hosts that were named insecure; an answer from elsewhere cannot turn a request towards this
machine or a cloud's metadata service.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from pytest_containers.errors import RegistryError

__all__ = ["Origin", "check_hop", "printable", "resolved"]

_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")
# EC2's metadata service by IPv6, which is no link-local address.
_METADATA = frozenset({ipaddress.IPv6Address("fd00:ec2::254")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Scheme, host and port of a URL; *host* is in lower case and without the brackets of IPv6."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of *url*; raise RegistryError for one that is not http or https."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise RegistryError(f"{printable(url)!r} is not a URL", seen=str(error)) from error
        if parts.scheme not in _PORTS or not host:
            raise RegistryError(f"{printable(url)!r} is not an http or https URL")
        return cls(scheme=parts.scheme, host=host.lower(), port=port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether this is 127.0.0.0/8, ::1 or ``localhost``; no name is looked up."""
        name = self.host.removesuffix(".")
        return (
            name == "localhost"
            or name.endswith(".localhost")  # RFC 6761, 6.3
            or (self.address is not None and (self.address.is_loopback or self.address.is_unspecified))
        )

    @property
    def link_local(self) -> bool:
        """Whether this is 169.254.0.0/16, fe80::/10, or an address of a cloud's metadata service."""
        return self.address is not None and (self.address.is_link_local or self.address in _METADATA)

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an address, an IPv4 one out of its IPv6 form; None where it is a name.

        Forms that the C library takes for an address are one: 127.1, 2130706433, 0x7f.1 (inet_aton(3)).
        """
        host = self.host.partition("%")[0]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if not _NUMERIC.fullmatch(host.removesuffix(".")):
                return None
            try:
                return ipaddress.IPv4Address(socket.inet_aton(host.removesuffix(".")))
            except OSError:
                return None
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return mapped or address


def check_hop(start: Origin, target: Origin, insecure: frozenset[str]) -> None:
    """Raise RegistryError where an answer of *start* may not lead a request on to *target*.

    *insecure* holds hosts, with or without a port, that may be spoken to by plain http.
    """
    if target == start:
        return
    if target.scheme == "http" and not target.loopback and not {target.host, str(target)} & insecure:
        raise RegistryError(
            f"{start} leads on to {target} by plain http",
            mend=f"name {target} as insecure if that is meant",
        )
    if (target.loopback and not start.loopback) or target.link_local:
        raise RegistryError(
            f"{start} leads on to {target}, an address of this machine's own",
            mend="ask the registry's operator; no request was made",
        )


def resolved(url: str, location: str) -> str:
    """Return where a Location of the answer from *url* leads; it may be relative (RFC 9110, 10.2.2)."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise RegistryError(
            f"{printable(location)!r} is not a URL", seen=f"Location of {printable(url)}"
        ) from error


def printable(url: str) -> str:
    """Return *url* for a message: without user, password, query and fragment, which may be secret."""
    head, separator, rest = url[:400].partition("://")
    if not separator:
        head, rest = "", head
    bare = rest.partition("?")[0].partition("#")[0]
    authority, slash, path = bare.partition("/")
    return head + separator + authority.rpartition("@")[2] + slash + path
