"""Laws of profiles in Docker's form: what they come to, and what is told of one that cannot be meant."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Final

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.runtime.capabilities import DEFAULT
from pytest_containers.runtime.seccomp.filters import (
    UNCONFINED,
    default_rules,
    profile_rules,
    system_call_filter,
)
from pytest_containers.runtime.seccomp.numbers import AUDIT_ARCH, syscall_numbers
from pytest_containers.runtime.seccomp.program import write
from pytest_containers.seccomp_profile import parse
from tests.runtime.seccomp import oracle
from tests.runtime.seccomp.interpreter import Program

_DOCKERS: Final = Path(__file__).with_name("docker-default.json")
_MACHINE: Final = "x86_64"
_ARCH: Final = AUDIT_ARCH[_MACHINE]
_NUMBERS: Final = syscall_numbers(_MACHINE)
_KERNEL: Final = (6, 1)
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
_ANY: Final = {"defaultAction": "SCMP_ACT_ALLOW"}


def _program(
    document: object, capabilities: frozenset[str] = DEFAULT, kernel: tuple[int, int] = _KERNEL
) -> Program:
    profile = parse(json.dumps(document), "test")
    return Program(write(profile_rules(profile, _MACHINE, capabilities, kernel)))


def _answer(document: object, name: str, *arguments: int, capabilities: frozenset[str] = DEFAULT) -> int:
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    return _program(document, capabilities).run(_NUMBERS[name], _ARCH, padded)


def _rules(*rules: object, default: str = "SCMP_ACT_ALLOW") -> dict[str, object]:
    return {"defaultAction": default, "syscalls": [*rules]}


@pytest.mark.parametrize(
    "capabilities", [DEFAULT, frozenset(), DEFAULT | {"SYS_ADMIN"}], ids=["docker", "none", "admin"]
)
def test_dockers_own_file_is_read_as_libseccomp_does(capabilities: frozenset[str]) -> None:
    """Docker's profile as a file gives libseccomp's answers, upper halves of arguments included."""
    document = json.loads(_DOCKERS.read_text(encoding="utf-8"))
    ours = _program(document, capabilities)
    rules = oracle.rules_of(document, _NUMBERS, capabilities, "amd64")
    theirs = oracle.export(_MACHINE, _ERRNO | 1, rules)
    values = (0, 17, 37, 38, 39, 40, 41, 1 << 32, (1 << 32) + 40, 0x7E02_0000, 0xFFFF_FFFF)
    for number in range(max(_NUMBERS.values()) + 1):
        for value in values:
            arguments = (value, 0, 0, 0, 0, 0)
            assert ours.run(number, _ARCH, arguments) == theirs.run(number, _ARCH, arguments), (number, value)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
        ("SCMP_ACT_TRAP", 0x0003_0000),
        ("SCMP_ACT_ERRNO", 0x0005_0001),
        ("SCMP_ACT_TRACE", 0x7FF0_0001),
        ("SCMP_ACT_LOG", 0x7FFC_0000),
    ],
)
def test_action_is_what_the_kernel_calls_so(action: str, expected: int) -> None:
    """Each action of the form is one of the kernel's, and an error is EPERM where none is named."""
    assert _answer(_rules({"names": ["read"], "action": action}), "read") == expected
    assert _answer(_rules({"names": ["read"], "action": action}), "write") == _ALLOW


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"errnoRet": 38}, 38),
        ({"errno": "ENOSYS"}, 38),
        ({"errnoRet": 13, "errno": "ENOSYS"}, 13),
        ({"errnoRet": 0}, 0),
        ({"errno": ""}, 1),
    ],
)
def test_error_is_a_number_or_a_name(said: dict[str, object], expected: int) -> None:
    """The number of the OCI's form and the name of podman's are both read, the number first."""
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO", **said}
    assert _answer(_rules(rule), "read") == _ERRNO | expected
    default = {
        "defaultAction": "SCMP_ACT_ERRNO",
        **{f"default{n[0].upper()}{n[1:]}": v for n, v in said.items()},
    }
    assert _answer(default, "read") == _ERRNO | expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}}, True),
        ({"includes": {"caps": ["chown"]}}, True),
        ({"includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"includes": {"arches": ["amd64", "x32"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "6.1"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"includes": {"minKernel": "5.19"}}, True),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": {}, "excludes": None, "comment": "why"}, True),
    ],
)
def test_rule_counts_where_it_includes_all_and_excludes_nothing(
    scope: dict[str, object], *, expected: bool
) -> None:
    """Capabilities, architectures and the kernel's version decide whether a rule counts."""
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO", **scope}
    assert _answer(_rules(rule), "read") == (_ERRNO | 1 if expected else _ALLOW)


def test_comparisons_of_a_rule_all_hold_and_of_one_argument_any() -> None:
    """Comparisons of different arguments must all hold; of two of the same one either may, as in runc."""
    both = [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}, {"index": 1, "op": "SCMP_CMP_EQ", "value": 2}]
    either = [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}, {"index": 0, "op": "SCMP_CMP_EQ", "value": 2}]
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO"}
    answers = [_answer(_rules({**rule, "args": both}), "read", *given) for given in ((1, 2), (1, 3), (2, 2))]
    assert answers == [_ERRNO | 1, _ALLOW, _ALLOW]
    answers = [_answer(_rules({**rule, "args": either}), "read", *given) for given in ((1,), (2,), (3,))]
    assert answers == [_ERRNO | 1, _ERRNO | 1, _ALLOW]


def test_rule_without_comparisons_counts_before_one_with() -> None:
    """As in libseccomp the whole rule counts, wherever it stands, and of two the first."""
    compared = {
        "names": ["read"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 5,
        "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}],
    }
    first = {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 6}
    second = {**first, "errnoRet": 7}
    assert _answer(_rules(compared, first, second), "read", 1) == _ERRNO | 6
    assert _answer(_rules(second, compared, first), "read", 1) == _ERRNO | 7


def test_rule_that_does_as_the_default_counts_for_nothing() -> None:
    """A rule with the default's action leaves room for those that restrict, as in runc."""
    allowed = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    compared = {
        "names": ["read"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}],
    }
    assert _answer(_rules(allowed, compared), "read", 1) == _ERRNO | 1


@pytest.mark.parametrize(("default", "expected"), [("SCMP_ACT_ERRNO", 38), ("SCMP_ACT_KILL_PROCESS", None)])
def test_call_behind_the_table_is_not_there(default: str, expected: int | None) -> None:
    """A call that is too new to be known is ENOSYS where the default is an error, as in runc."""
    answer = _program({"defaultAction": default}).run(max(_NUMBERS.values()) + 1, _ARCH)
    assert answer == (0x8000_0000 if expected is None else _ERRNO | expected)


def test_name_that_the_machine_has_no_call_for_is_left_out() -> None:
    """Profiles are written for all machines: chown32 is no call here, and no mistake."""
    assert _answer(_rules({"names": ["chown32", "read"], "action": "SCMP_ACT_ERRNO"}), "read") == _ERRNO | 1


_READ: Final = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}


@pytest.mark.parametrize(
    ("document", "field", "seen"),
    [
        ([], "the profile", "list"),
        ({}, "defaultAction", "missing"),
        ({"defaultAction": "ALLOW"}, "defaultAction", "'ALLOW'"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction", "no listener"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}, "defaultErrnoRet", "5000"),
        ({**_ANY, "defaultErrnoRet": True}, "defaultErrnoRet", "True"),
        ({**_ANY, "defaultErrno": "ENOTHING"}, "defaultErrno", "'ENOTHING'"),
        ({**_ANY, "syscals": []}, "the profile", "'syscals'"),
        ({**_ANY, "syscalls": {}}, "syscalls", "dict"),
        ({**_ANY, "syscalls": ["read"]}, "syscalls[0]", "str"),
        ({**_ANY, "architectures": ["A"], "archMap": [{}]}, "archMap", "architectures"),
        ({**_ANY, "listenerPath": "/run/x"}, "listenerPath", "no listener"),
        ({**_ANY, "flags": ["SECCOMP_FILTER_FLAG_X"]}, "flags[0]", "FLAG_X"),
        (_rules(_READ, {"action": "SCMP_ACT_ALLOW"}), "syscalls[1].names", "no name"),
        (_rules({"names": [1], "action": "SCMP_ACT_ALLOW"}), "syscalls[0].names[0]", "1"),
        (_rules({"names": "read", "action": "SCMP_ACT_ALLOW"}), "syscalls[0].names", "str"),
        (_rules({**_READ, "name": "write"}), "syscalls[0].name", "names is there"),
        (_rules({"names": ["read"]}), "syscalls[0].action", "missing"),
        (_rules({"names": ["read"], "action": "SCMP_ACT_NOTIFY"}), "syscalls[0].action", "no listener"),
        (_rules({**_READ, "errnoRet": -1}), "syscalls[0].errnoRet", "-1"),
        (_rules({**_READ, "colour": 1}), "syscalls[0]", "'colour'"),
        (_rules({**_READ, "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}), "syscalls[0].args[0].index", "6"),
        (_rules({**_READ, "args": [{"index": 0, "op": "="}]}), "syscalls[0].args[0].op", "'='"),
        (_rules({**_READ, "args": [{"index": 0}]}), "syscalls[0].args[0].op", "missing"),
        (
            _rules({**_READ, "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 64}]}),
            "syscalls[0].args[0].value",
            "18446744073709551616",
        ),
        (
            _rules({**_READ, "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": "1"}]}),
            "syscalls[0].args[0].value",
            "'1'",
        ),
        (_rules({**_READ, "includes": {"caps": "X"}}), "syscalls[0].includes.caps", "str"),
        (_rules({**_READ, "excludes": {"minKernel": "six"}}), "syscalls[0].excludes.minKernel", "'six'"),
        (_rules({**_READ, "includes": {"arch": []}}), "syscalls[0].includes", "'arch'"),
    ],
)
def test_profile_that_cannot_be_meant_is_told_with_its_field(document: object, field: str, seen: str) -> None:
    """File and field are named, with what stands there."""
    with pytest.raises(SpecInvalid) as caught:
        parse(json.dumps(document), "strict.json")
    assert caught.value.what == f"strict.json: {field} cannot be meant"
    assert seen in caught.value.seen
    assert caught.value.mend


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"defaultAction": }'])
def test_profile_that_is_no_json_is_told(text: str) -> None:
    """What is no JSON is refused by the name of its file."""
    with pytest.raises(SpecInvalid, match=r"strict\.json is no seccomp profile"):
        parse(text, "strict.json")


def test_flags_of_a_profile_are_loaded_with_it() -> None:
    """Those it names count, and speculation is left allowed where it names none, as in runc."""
    plain, named = (
        system_call_filter(json.dumps({**_ANY, **more}), DEFAULT, last=False)
        for more in ({}, {"flags": ["SECCOMP_FILTER_FLAG_LOG"]})
    )
    assert plain is not None
    assert named is not None
    assert (plain.flags, named.flags) == (4, 2)


_NO_GROUPS: Final = json.dumps(_rules({"names": ["setpgid"], "action": "SCMP_ACT_ERRNO"}))


def test_profile_under_which_nothing_begins_is_refused() -> None:
    """A profile that refuses what every start calls says so, with the calls and a way out."""
    text = json.dumps(_rules({"names": ["setuid", "capset"], "action": "SCMP_ACT_ERRNO"}))
    with pytest.raises(SpecInvalid, match="no process can begin") as caught:
        system_call_filter(text, DEFAULT, last=False)
    assert "capset, setuid" in caught.value.seen
    assert "no_new_privs=True" in caught.value.mend
    assert system_call_filter(text, DEFAULT, last=True) is not None
    assert system_call_filter(_NO_GROUPS, DEFAULT, last=True) is not None
    with pytest.raises(SpecInvalid, match="no process can begin") as caught:
        system_call_filter(_NO_GROUPS, DEFAULT, last=True, init=True)
    assert "setpgid" in caught.value.seen
    with pytest.raises(SpecInvalid, match="no process can begin") as caught:
        system_call_filter('{"defaultAction": "SCMP_ACT_KILL"}', DEFAULT, last=True)
    assert "execve" in caught.value.seen


def test_filter_is_compiled_once_for_each_set_of_capabilities() -> None:
    """The same profile and capabilities give the very same program, others another one."""
    first, again = (system_call_filter(None, DEFAULT, last=False) for _ in range(2))
    other = system_call_filter(None, DEFAULT | {"SYS_ADMIN"}, last=False)
    assert first is again
    assert first is not None
    assert other is not None
    assert first.program != other.program
    assert first.program == write(default_rules(os.uname().machine, DEFAULT))
    assert system_call_filter(UNCONFINED, DEFAULT, last=False) is None


def test_error_of_the_default_profile_is_eperm() -> None:
    """A refused call is EPERM, which programs take for a missing right and not for a broken kernel."""
    assert default_rules(_MACHINE, DEFAULT).default == _ERRNO | errno.EPERM
