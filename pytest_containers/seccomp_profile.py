"""Read a seccomp profile in the form of Docker and of the OCI (floor 0).

The form is that of https://docs.docker.com/engine/security/seccomp/ and of the runtime-spec
(config-linux.md, "Seccomp"); podman's files have names of errors (``errno``) beside numbers (``errnoRet``).
A value that cannot be meant is reported with the file and the field, as ``syscalls[3].args[0].op``.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, cast

from pytest_containers.errors import SpecInvalid

__all__ = ["ArgumentRule", "Profile", "Scope", "SyscallRule", "parse"]

Action = Literal["kill-process", "kill-thread", "trap", "errno", "trace", "log", "allow"]
_Known = TypeVar("_Known")

Operator = Literal["==", "!=", "<", "<=", ">", ">=", "masked =="]

_ACTIONS: Final[Mapping[str, Action]] = {
    "SCMP_ACT_KILL": "kill-thread",
    "SCMP_ACT_KILL_THREAD": "kill-thread",
    "SCMP_ACT_KILL_PROCESS": "kill-process",
    "SCMP_ACT_TRAP": "trap",
    "SCMP_ACT_ERRNO": "errno",
    "SCMP_ACT_TRACE": "trace",
    "SCMP_ACT_LOG": "log",
    "SCMP_ACT_ALLOW": "allow",
}
_OPERATORS: Final[Mapping[str, Operator]] = {
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_MASKED_EQ": "masked ==",
}
# include/uapi/linux/seccomp.h. Those for a listener are left out, as SCMP_ACT_NOTIFY is.
_FLAGS: Final[Mapping[str, int]] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}
_LARGEST_ERRNO: Final = 4095  # MAX_ERRNO (include/linux/err.h)
_LARGEST_DATA: Final = 0xFFFF
_LARGEST_ARGUMENT: Final = 0xFFFF_FFFF_FFFF_FFFF
_ARGUMENTS: Final = 6
_VERSION: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")
_TOP: Final = frozenset(
    "defaultAction defaultErrnoRet defaultErrno architectures archMap flags syscalls"
    " listenerPath listenerMetadata".split()
)
_ENTRY: Final = frozenset("names name action errnoRet errno args includes excludes comment".split())
_SCOPE: Final = frozenset("caps arches minKernel".split())
_ARGUMENT: Final = frozenset("index value valueTwo op".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentRule:
    """A comparison of argument *index* with *value*; *value_two* is what ``masked ==`` wants of it."""

    index: int
    operator: Operator
    value: int
    value_two: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a rule includes or excludes: capabilities without CAP_, architectures, the least kernel."""

    capabilities: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    kernel: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyscallRule:
    """What is done about the calls *names* whose arguments are as *arguments* say.

    *data* is the number of the error, or what a tracer is told.
    """

    names: tuple[str, ...]
    action: Action
    data: int
    arguments: tuple[ArgumentRule, ...]
    includes: Scope
    excludes: Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A whole profile; *flags* are those of seccomp(2), None where it names none."""

    default: Action
    default_data: int
    flags: int | None
    rules: tuple[SyscallRule, ...]


def parse(text: str, source: str) -> Profile:
    """Return the profile in *text*, JSON from *source*. Raises SpecInvalid with the field that is wrong."""
    try:
        plain: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecInvalid(
            f"{source} is no seccomp profile",
            seen=f"no JSON: {error}",
            mend="take a file in Docker's form: a table with defaultAction and syscalls",
        ) from error
    return _Reader(source).profile(plain)


class _Reader:
    """Reads JSON's values; each method takes the name of the field that they are from."""

    def __init__(self, source: str) -> None:
        self._source = source

    def profile(self, plain: object) -> Profile:
        top = self._table(plain, "the profile", _TOP)
        if top.get("architectures") and top.get("archMap"):
            raise self._wrong("archMap", "architectures is there too", "keep one of the two")
        if top.get("listenerPath"):
            raise self._wrong("listenerPath", "no listener is served here", "leave it out")
        if "defaultAction" not in top:
            raise self._wrong("defaultAction", "it is missing", f"write one of {', '.join(_ACTIONS)}")
        default = self._action(top["defaultAction"], "defaultAction")
        flags = [
            self._known(flag, f"flags[{at}]", _FLAGS)
            for at, flag in enumerate(self._list(top.get("flags"), "flags"))
        ]
        return Profile(
            default=default,
            default_data=self._data(
                default,
                (top.get("defaultErrnoRet"), "defaultErrnoRet"),
                (top.get("defaultErrno"), "defaultErrno"),
            ),
            flags=sum(set(flags)) if top.get("flags") is not None else None,
            rules=tuple(
                self._rule(entry, f"syscalls[{at}]")
                for at, entry in enumerate(self._list(top.get("syscalls"), "syscalls"))
            ),
        )

    def _rule(self, plain: object, field: str) -> SyscallRule:
        entry = self._table(plain, field, _ENTRY)
        names = self._texts(entry.get("names"), f"{field}.names")
        if entry.get("name"):
            if names:
                raise self._wrong(f"{field}.name", "names is there too", "keep one of the two")
            names = self._texts([entry["name"]], f"{field}.name")
        if not names or not all(names):
            raise self._wrong(f"{field}.names", "no name of a system call", 'write "names": ["read"]')
        if "action" not in entry:
            raise self._wrong(f"{field}.action", "it is missing", f"write one of {', '.join(_ACTIONS)}")
        action = self._action(entry["action"], f"{field}.action")
        return SyscallRule(
            names=names,
            action=action,
            data=self._data(
                action, (entry.get("errnoRet"), f"{field}.errnoRet"), (entry.get("errno"), f"{field}.errno")
            ),
            arguments=tuple(
                self._argument(one, f"{field}.args[{at}]")
                for at, one in enumerate(self._list(entry.get("args"), f"{field}.args"))
            ),
            includes=self._scope(entry.get("includes"), f"{field}.includes"),
            excludes=self._scope(entry.get("excludes"), f"{field}.excludes"),
        )

    def _argument(self, plain: object, field: str) -> ArgumentRule:
        entry = self._table(plain, field, _ARGUMENT)
        for name in ("index", "op"):
            if name not in entry:
                raise self._wrong(f"{field}.{name}", "it is missing", "write index, value and op")
        return ArgumentRule(
            index=self._number(entry["index"], f"{field}.index", _ARGUMENTS - 1),
            operator=self._known(entry["op"], f"{field}.op", _OPERATORS),
            value=self._number(entry.get("value", 0), f"{field}.value", _LARGEST_ARGUMENT),
            value_two=self._number(entry.get("valueTwo", 0), f"{field}.valueTwo", _LARGEST_ARGUMENT),
        )

    def _scope(self, plain: object, field: str) -> Scope:
        entry = self._table({} if plain is None else plain, field, _SCOPE)
        kernel = entry.get("minKernel")
        match = _VERSION.fullmatch(kernel) if isinstance(kernel, str) else None
        if kernel and match is None:
            raise self._wrong(f"{field}.minKernel", repr(kernel), 'write a version as "4.8"')
        return Scope(
            capabilities=tuple(
                name.upper().removeprefix("CAP_") for name in self._texts(entry.get("caps"), f"{field}.caps")
            ),
            architectures=self._texts(entry.get("arches"), f"{field}.arches"),
            kernel=(int(match[1]), int(match[2])) if match else None,
        )

    def _action(self, plain: object, field: str) -> Action:
        if plain == "SCMP_ACT_NOTIFY":
            raise self._wrong(
                field, "SCMP_ACT_NOTIFY, and no listener is served here", "choose another action"
            )
        return self._known(plain, field, _ACTIONS)

    def _data(self, action: Action, number: tuple[object, str], name: tuple[object, str]) -> int:
        """Return what goes with *action*: EPERM where neither *number* nor *name* says otherwise."""
        if number[0] is not None:
            limit = _LARGEST_ERRNO if action == "errno" else _LARGEST_DATA
            return self._number(number[0], number[1], limit)
        if name[0]:
            found = getattr(errno, name[0], None) if isinstance(name[0], str) else None
            if not isinstance(found, int):
                raise self._wrong(name[1], repr(name[0]), 'write the name of an error (errno(3)), as "EPERM"')
            return found
        return errno.EPERM

    def _known(self, plain: object, field: str, known: Mapping[str, _Known]) -> _Known:
        if not isinstance(plain, str) or plain not in known:
            raise self._wrong(field, repr(plain), f"write one of {', '.join(known)}")
        return known[plain]

    def _number(self, plain: object, field: str, largest: int) -> int:
        if not isinstance(plain, int) or isinstance(plain, bool) or not 0 <= plain <= largest:
            raise self._wrong(field, repr(plain), f"write a whole number from 0 to {largest}")
        return plain

    def _texts(self, plain: object, field: str) -> tuple[str, ...]:
        found = self._list(plain, field)
        for at, one in enumerate(found):
            if not isinstance(one, str):
                raise self._wrong(f"{field}[{at}]", repr(one), "write a text")
        return tuple(cast("list[str]", found))

    def _list(self, plain: object, field: str) -> list[object]:
        if plain is not None and not isinstance(plain, list):
            raise self._wrong(field, f"{type(plain).__name__}: {plain!r}"[:100], "write a list: [...]")
        return plain or []

    def _table(self, plain: object, field: str, known: frozenset[str]) -> Mapping[str, object]:
        if not isinstance(plain, dict):
            raise self._wrong(field, f"{type(plain).__name__}: {plain!r}"[:100], "write a table: {...}")
        for name in plain:
            if name not in known:
                raise self._wrong(
                    field, f"the unknown field {name!r}", f"it may have {', '.join(sorted(known))}"
                )
        return cast("Mapping[str, object]", plain)

    def _wrong(self, field: str, seen: str, mend: str) -> SpecInvalid:
        return SpecInvalid(f"{self._source}: {field} cannot be meant", seen=seen, mend=mend)
