"""Which proxy the environment names for a server, and which servers it leaves out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from pytest_containers.images.origin import Origin

__all__ = ["proxy_for"]

_SEPARATORS = re.compile(r"[,\s]+")
# host:port, with the host of IPv6 in brackets; a bare IPv6 address has more than one colon.
_WITH_PORT = re.compile(r"(?:\[(?P<address>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")


def proxy_for(origin: Origin, environ: Mapping[str, str]) -> str:
    """Return the proxy's URL for *origin*, empty for none; loopback never has one.

    Names and order are curl's (curl(1), "ENVIRONMENT"). NO_PROXY has what curl and Go's
    golang.org/x/net/http/httpproxy know: hosts and domains, each with a port or without, addresses,
    networks as CIDR blocks, and ``*`` for all. No name is looked up.
    HTTP_PROXY in upper case is not read: a CGI request could set it (httpoxy, CVE-2016-1000110).
    """
    exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if origin.loopback or any(_exempts(entry, origin) for entry in _SEPARATORS.split(exempt.lower())):
        return ""
    for name in (f"{origin.scheme}_proxy", "all_proxy"):
        upper = "" if name == "http_proxy" else environ.get(name.upper(), "")
        if found := environ.get(name) or upper:
            return found
    return ""


def _exempts(entry: str, origin: Origin) -> bool:
    if entry == "*":
        return True
    if (found := _WITH_PORT.fullmatch(entry)) is not None:
        if int(found["port"]) != origin.port:
            return False
        entry = found["address"] or found["host"] or ""
    entry = entry.removeprefix("[").removesuffix("]")
    network = _network(entry)
    if network is not None:
        return origin.address is not None and origin.address in network
    # ".domain" and "*.domain" are the domain with all below it, as to curl.
    bare = entry.removeprefix("*").removeprefix(".")
    return bool(bare) and (origin.host == bare or origin.host.endswith("." + bare))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the addresses that an entry names: a block, or the one address; None for a name."""
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None
