"""The ports of EXPOSE: numbers, ranges, transports.

Source: https://docs.docker.com/reference/dockerfile/#expose; the result is what ``ExposedPorts``
of image-spec, config.md, has as keys.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from pytest_containers.errors import SpecInvalid

__all__ = ["read_ports"]

_TRANSPORTS: Final = ("tcp", "udp", "sctp")
_RANGE: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_LAST_PORT: Final = 65535


def read_ports(word: str) -> tuple[str, ...]:
    """Return the ports of ``8000``, ``53/udp`` or ``8000-8010/tcp``, each as ``8000/tcp``.

    An address and a port of the host may stand in front, as in ``127.0.0.1:80:8080``; they must
    be valid and mean nothing. Raises SpecInvalid for anything else.
    """
    host, _, port = word.rpartition(":")
    number, _, transport = port.partition("/")
    transport = transport.lower() or "tcp"
    if transport not in _TRANSPORTS:
        raise SpecInvalid(f"{word!r} has no known transport", mend=f"it is one of {', '.join(_TRANSPORTS)}")
    first, last = _range(number, word)
    if host:
        _check_host(host, first, last, word)
    return tuple(f"{number}/{transport}" for number in range(first, last + 1))


def _range(text: str, word: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    first = int(match[1]) if match else -1
    last = int(match[2] or match[1]) if match else -1
    if not 0 <= first <= last <= _LAST_PORT:
        raise SpecInvalid(f"{word!r} is not a port", mend="write 8000, 8000-8010 or 53/udp")
    return first, last


def _check_host(host: str, first: int, last: int, word: str) -> None:
    address, _, ports = host.rpartition(":")
    if ports:
        host_first, host_last = _range(ports, word)
        if host_last - host_first != last - first != 0:
            raise SpecInvalid(f"the two ranges of {word!r} differ in length")
    if address:
        try:
            ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError as error:
            raise SpecInvalid(
                f"{word!r} begins with no address", mend="write the container's port alone"
            ) from error
