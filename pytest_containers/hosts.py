"""How a test writes what a container knows of other hosts: ``host_access=``, ``extra_hosts=`` (floor 4)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.spec import HOST_GATEWAY, Port

__all__ = ["extra_hosts_of", "host_ports_of"]

# What hosts(5) takes: one word without a comment's sign.
_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", re.IGNORECASE)


def host_ports_of(given: object, network: str = "default") -> tuple[Port, ...]:
    """Return the ports of ``[8080, "53/udp"]``, each once. Raises SpecInvalid.

    *network* is the container's: where that is ``none`` no port can be reached.
    """
    if given is None:
        return ()
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        port = given if type(given) in (int, str) else 8080  # and not a bool, which is an int as well
        raise SpecInvalid(
            f"host_access={given!r} is not a list of ports",
            mend=f"write host_access=[{port!r}], the ports of this machine that the container may reach",
        )
    ports = tuple(dict.fromkeys(map(Port.parse, given)))
    if ports and network == "none":
        raise SpecInvalid(
            "a container without a network reaches no port of this machine",
            seen='host_access= and network="none"',
            mend="put it on a network(..., internal=True): it then reaches these ports, and nothing else",
        )
    return ports


def extra_hosts_of(given: object, ports: tuple[Port, ...]) -> dict[str, str]:
    """Return the addresses of names as ``{"name": "192.0.2.1", "host": "host-gateway"}`` has them.

    Raises SpecInvalid. *ports* are those of ``host_access=``, without which the machine is not reached by
    any name.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        pairs = [str(one).replace("=", ":", 1).partition(":") for one in _listed(given)]
        written = ", ".join(f'"{name}": "{ip}"' for name, _, ip in pairs if ip) or '"name": "192.0.2.1"'
        raise SpecInvalid(f"extra_hosts={given!r} is not a mapping", mend=f"write extra_hosts={{{written}}}")
    for name, ip in given.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SpecInvalid(
                f"extra_hosts= has the name {name!r}",
                mend="use letters, digits, hyphens, underscores and dots (hosts(5))",
            )
        if ip == HOST_GATEWAY and not ports:
            raise SpecInvalid(
                f"extra_hosts= calls this machine {name}, and the container may reach no port of it",
                seen="no host_access=",
                mend="add host_access=[8080] with the ports that it shall reach",
            )
        if ip != HOST_GATEWAY and not _is_address(ip):
            raise SpecInvalid(
                f"extra_hosts= has {ip!r} as the address of {name}",
                mend=f'write an IP address, or "{HOST_GATEWAY}" for this machine',
            )
    return dict(given)


def _listed(given: object) -> Iterable[object]:
    return given if isinstance(given, Iterable) and not isinstance(given, str | bytes) else (given,)


def _is_address(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(ipaddress.ip_address(text))
    except ValueError:
        return False
