"""The environment as tests write it (floor 3)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from pytest_containers.errors import SpecInvalid

__all__ = ["Environment", "environment"]

Environment = Mapping[str, str | None] | Sequence[str]


def environment(env: Environment | None) -> dict[str, str | None]:
    """Read pairs, or ``NAME=value`` lines as compose files have them; None takes a variable away.

    A line without ``=`` takes this process's value, where there is one (docker run --env). Raises
    SpecInvalid for what cannot be a variable (environ(7)).
    """
    pairs = _lines(env) if isinstance(env, Sequence) and not isinstance(env, str | bytes) else env
    if not isinstance(pairs, Mapping | None):
        raise SpecInvalid(f"env={env!r} is not a mapping", mend='write env={"NAME": "value"}')
    return dict(_variable(name, value) for name, value in (pairs or {}).items())


def _variable(name: object, value: object) -> tuple[str, str | None]:
    if not isinstance(name, str) or not name or "=" in name or "\0" in f"{name}{value}":
        raise SpecInvalid(
            f"{name!r} cannot be a variable of the environment (environ(7))",
            mend="give a name without =, and no zero byte in name or value",
        )
    if isinstance(value, Mapping | list | tuple | set | bytes):
        raise SpecInvalid(f"{value!r} cannot be the value of {name}", mend="write a text")
    return name, None if value is None else str(value)


def _lines(lines: Sequence[str]) -> Mapping[str, str | None]:
    found: dict[str, str | None] = {}
    for line in lines:
        name, equals, value = str(line).partition("=")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
        elif not name:
            raise SpecInvalid(f"{line!r} cannot be a variable of the environment", mend="write NAME=value")
    return found
