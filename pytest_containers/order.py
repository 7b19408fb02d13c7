"""What a test may say about a container, and what is meant by it (floor 4).

`Options` lists the keywords of ``container()``, `container_fixture()` and the ``container``
marker; `Order.of` reads them. Everything that can be judged without an engine is judged here, so
that a slip of the pen costs no start.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypedDict, TypeVar, Unpack, get_args

from pytest_containers.engines.base import Network
from pytest_containers.errors import SpecInvalid
from pytest_containers.exits import signal_number
from pytest_containers.hosts import extra_hosts_of, host_ports_of
from pytest_containers.probe import Probe, ProbeLike, as_probe, split
from pytest_containers.resources import LimitsLike, UlimitsLike, limits_of, size_bytes, ulimits_of
from pytest_containers.seccomp_profile import parse as parse_profile
from pytest_containers.spec import Bind, ContainerSpec, Limits, Port, PullPolicy

__all__ = ["Lifetime", "Options", "Order", "Scope"]

Scope = Literal["function", "class", "module", "package", "session", "run"]
Lifetime = Literal["owner", "run"]

_Argv = str | Sequence[str]
_Inside = str | PurePosixPath
_Host = str | os.PathLike[str]
_Item = TypeVar("_Item")
_Value = TypeVar("_Value")

# A host name's labels (RFC 1123, 2.1), since peers resolve containers by these names, and underscores,
# which DNS carries (RFC 2181, section 11) and compose files and Docker have in names of services.
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_MODES: Mapping[str, bool] = {"": False, "rw": False, "ro": True}
# What stands in the braces of an option that takes pairs.
_PAIRS: Mapping[str, str] = {
    "env": '"NAME": "value"',
    "volumes": '"./here": "/inside:ro"',
    "files": '"/inside/file": "content"',
    "labels": '"name": "value"',
}
# The fields of a spec of which the order says nothing.
_SETS = frozenset(("aliases", "binds", "cap_add", "cap_drop", "host_access", "ports"))
# HOST_NAME_MAX of sethostname(2).
_LONGEST_HOSTNAME = 64


class Options(TypedDict, total=False):
    """The keywords of a container; every one may be left out, and None means the same."""

    name: str | None
    command: _Argv | None
    entrypoint: _Argv | None
    env: Mapping[str, str] | None
    env_file: _Host | None
    user: str | None
    workdir: _Inside | None
    hostname: str | None
    ports: Iterable[int | str] | None
    volumes: Mapping[_Host, str] | None
    tmpfs: Iterable[str] | Mapping[str, int | str] | None
    files: Mapping[str, str | bytes | Path] | None
    network: str | Network | None
    aliases: Iterable[str] | None
    host_access: Iterable[int | str] | None
    extra_hosts: Mapping[str, str] | None
    ready: ProbeLike | str | None
    timeout: float | None
    limits: LimitsLike | None
    ulimits: UlimitsLike | None
    shm_size: int | str | None
    read_only: bool
    init: bool
    cap_add: Iterable[str] | None
    cap_drop: Iterable[str] | None
    privileged: bool
    no_new_privs: bool
    seccomp: _Host | None
    labels: Mapping[str, str] | None
    stop_signal: int | str | None
    stop_timeout: float | None
    storage: Literal["memory", "disk"] | None
    pull: PullPolicy | None
    platform: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One container as it was asked for.

    The name of *spec* is empty where the test gave none. *named_volumes* are the volumes that
    are no path of this machine. *ready* is a probe, or the name of a service with one.
    """

    image: str
    spec: ContainerSpec
    ready: Probe | str | None = None
    timeout_s: float | None = None
    pull: PullPolicy | None = None
    platform: str | None = None
    named_volumes: tuple[str, ...] = ()

    @classmethod
    def of(cls, image: str | os.PathLike[str], **options: Unpack[Options]) -> Order:
        """Read the arguments of a test.

        Raises TypeError for a keyword that `Options` does not have, SpecInvalid for a value that
        cannot be meant.
        """
        for keyword in options.keys() - Options.__annotations__.keys():
            raise TypeError(f"a container has no {keyword!r}; it has {', '.join(Options.__annotations__)}")
        binds, named = _volumes(_table("volumes", options.get("volumes")))
        ready, timeout = options.get("ready"), options.get("timeout")
        return cls(
            image=os.fspath(image),
            spec=_spec(options, binds),
            ready=ready if ready is None or isinstance(ready, str) else as_probe(ready),
            timeout_s=None if timeout is None else _seconds(timeout),
            pull=_policy(options.get("pull")),
            platform=options.get("platform"),
            named_volumes=named,
        )

    def needs(self, lifetime: Lifetime) -> tuple[str, ...]:
        """Return the features an engine must have for this, by their names in `Engine.features`."""
        wanted = {
            "init": self.spec.init,
            "limits": replace(self.spec.limits, storage_bytes=None) != Limits(),
            "volumes": bool(self.named_volumes),
            "tmpfs": bool(self.spec.tmpfs),
            "binds": bool(self.spec.binds),
            "host-access": bool(self.spec.host_access),
            "run-lifetime": lifetime == "run",
        }
        return tuple(feature for feature, is_wanted in wanted.items() if is_wanted)

    def fingerprint(self) -> str:
        """Return eight hexadecimal digits that tell this order from another one, in every process.

        The order in which pairs and sets were written does not matter; the probe is none of it.
        """
        told = repr((self.image, self.platform, _canonical(self.spec)))
        return hashlib.sha256(told.encode()).hexdigest()[:8]


def _canonical(value: object) -> object:
    """Return *value* as one that has the same `repr` however it was written."""
    if is_dataclass(value):
        return [(one.name, _set_or_value(one.name, getattr(value, one.name))) for one in fields(value)]
    if isinstance(value, Mapping):
        return sorted((key, repr(_canonical(item))) for key, item in value.items())
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return [_canonical(item) for item in value]
    return value


def _set_or_value(name: str, value: object) -> object:
    told = _canonical(value)
    return sorted(map(repr, told)) if name in _SETS and isinstance(told, list) else told


def _spec(options: Options, binds: tuple[Bind, ...]) -> ContainerSpec:
    name, hostname, user = options.get("name"), options.get("hostname"), options.get("user")
    command, entrypoint, workdir = options.get("command"), options.get("entrypoint"), options.get("workdir")
    network, signal, grace = options.get("network"), options.get("stop_signal"), options.get("stop_timeout")
    host_ports = host_ports_of(options.get("host_access"))
    spec = ContainerSpec(
        name="" if name is None else _name(name),
        hostname=None if hostname is None else _hostname(hostname),
        command=None if command is None else _argv(command),
        entrypoint=None if entrypoint is None else _entrypoint(entrypoint),
        env={**_env_file(options.get("env_file")), **_env(_table("env", options.get("env")))},
        user=None if user is None else str(user),
        workdir=None if workdir is None else _inside(workdir),
        ports=tuple(map(Port.parse, _several("ports", options.get("ports")))),
        binds=binds,
        tmpfs=_tmpfs(options.get("tmpfs")),
        files={
            _inside(path): _content(path, put) for path, put in _table("files", options.get("files")).items()
        },
        network=network.name if isinstance(network, Network) else network or "default",
        aliases=tuple(map(_name, _several("aliases", options.get("aliases")))),
        host_access=host_ports,
        extra_hosts=extra_hosts_of(options.get("extra_hosts"), host_ports),
        limits=_limits(options),
        ulimits=ulimits_of(options.get("ulimits")),
        read_only=options.get("read_only", False),
        init=options.get("init", False),
        cap_add=tuple(_several("cap_add", options.get("cap_add"))),
        cap_drop=tuple(_several("cap_drop", options.get("cap_drop"))),
        privileged=options.get("privileged", False),
        no_new_privs=options.get("no_new_privs", False),
        seccomp=_seccomp(options.get("seccomp")),
        labels=dict(_table("labels", options.get("labels"))),
        stop_signal=None if signal is None else str(signal_number(signal)),
        storage=_storage(options.get("storage")),
    )
    if (shm := options.get("shm_size")) is not None:
        spec = replace(spec, shm_bytes=_shm_bytes(shm))
    return spec if grace is None else replace(spec, stop_timeout_s=_seconds(grace))


def _several(keyword: str, given: Iterable[_Item] | None) -> Iterable[_Item]:
    """Return what was *given* for a keyword that takes several; raise SpecInvalid for a bare one."""
    if isinstance(given, str | bytes | int):
        raise SpecInvalid(f"{keyword}={given!r} is not a list", mend=f"write {keyword}=[{given!r}]")
    return given or ()


def _table(keyword: str, given: Mapping[_Item, _Value] | None) -> Mapping[_Item, _Value]:
    """Return what was *given* for a keyword that takes pairs; raise SpecInvalid for anything else."""
    if not isinstance(given or {}, Mapping):
        raise SpecInvalid(
            f"{keyword}={given!r} is not a mapping", mend=f"write {keyword}={{{_PAIRS[keyword]}}}"
        )
    return given or {}


def _policy(pull: PullPolicy | None) -> PullPolicy | None:
    policies: tuple[str, ...] = get_args(PullPolicy)
    if pull is not None and pull not in policies:
        raise SpecInvalid(f"{pull!r} does not say when to pull", mend=f"choose one of {', '.join(policies)}")
    return pull


def _limits(options: Options) -> Limits:
    limits = limits_of(options.get("limits"))
    if limits.storage_bytes is not None and options.get("storage") == "disk":
        raise SpecInvalid(
            'limits= has storage, and storage="disk" has the room of its file system',
            mend='leave out one of them: a limit of storage is for storage="memory"',
        )
    return limits


def _shm_bytes(size: int | str) -> int:
    if not (found := size_bytes(size)):
        raise SpecInvalid(f"shm_size={size!r} leaves no room", mend='write a size as "256m", or leave it out')
    return found


def _storage(storage: Literal["memory", "disk"] | None) -> Literal["memory", "disk"]:
    if storage not in (None, "memory", "disk"):
        raise SpecInvalid(
            f"storage={storage!r} does not say where a container writes",
            mend='choose "memory", the default, or "disk"',
        )
    return storage or "memory"


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SpecInvalid(
            f"{name!r} cannot be the name of a container",
            mend="peers resolve it: use letters, digits, hyphens, underscores and dots (RFC 1123)",
        )
    return name


def _hostname(name: str) -> str:
    if len(_name(name)) > _LONGEST_HOSTNAME:
        raise SpecInvalid(
            f"the host name {name} is too long",
            seen=f"{len(name)} characters",
            mend=f"take {_LONGEST_HOSTNAME} or fewer (sethostname(2))",
        )
    return name


def _argv(argv: _Argv) -> tuple[str, ...]:
    return split(argv) if argv else ()


def _entrypoint(argv: _Argv) -> tuple[str, ...]:
    """Return the words; one empty word clears the image's, as in a Dockerfile."""
    words = _argv(argv)
    return () if words == ("",) else words


def _inside(path: _Inside) -> str:
    if not str(path).startswith("/"):
        raise SpecInvalid(f"{path} is no absolute path inside a container", mend=f"write /{path}")
    if "\0" in str(path):
        raise SpecInvalid(f"{str(path)!r} is no path", mend="leave the zero byte out (path_resolution(7))")
    return str(path)


def _mount_point(path: _Inside) -> str:
    if not PurePosixPath(_inside(path)).parts[1:]:
        raise SpecInvalid(f"nothing can be laid over {path} of a container", mend="name a folder below it")
    return str(path)


def _seconds(value: float) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:  # which NaN is not either
        raise SpecInvalid(f"{value!r} is not a time to wait", mend="give seconds, 0 or more")
    return seconds


def _env(env: Mapping[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in f"{name}{value}":
            raise SpecInvalid(
                f"{name!r} cannot be a variable of the environment (environ(7))",
                mend="give a name without =, and no zero byte in name or value",
            )
    return {name: str(value) for name, value in env.items()}


def _env_file(path: _Host | None) -> dict[str, str]:
    """Read ``NAME=value`` lines; a bare NAME takes this process's value (docker run --env-file)."""
    if path is None:
        return {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SpecInvalid(
            f"env_file {path} cannot be read", seen=str(error), mend="name a file of NAME=value lines"
        ) from error
    env: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.lstrip().partition("=")
        if not name or name.startswith("#"):
            continue
        if equals:
            env[name] = value
        elif name.strip() in os.environ:
            env[name.strip()] = os.environ[name.strip()]
    return _env(env)


def _seccomp(profile: _Host | None) -> str | None:
    """Return the text of the profile in a file; it is read whole here, so that its mistakes are told here."""
    if profile is None or profile == "unconfined":
        return profile
    try:
        text = Path(profile).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpecInvalid(
            f"seccomp {profile} cannot be read",
            seen=str(error),
            mend='name a file with a profile in Docker\'s form, or "unconfined"',
        ) from error
    parse_profile(text, os.fspath(profile))
    return text


def _volumes(volumes: Mapping[_Host, str]) -> tuple[tuple[Bind, ...], tuple[str, ...]]:
    binds: list[Bind] = []
    named: list[str] = []
    for source, text in volumes.items():
        target, _, mode = text.partition(":")
        if mode not in _MODES:
            raise SpecInvalid(f"{text!r}: {mode!r} is no mode of a volume", mend="write :ro, :rw or nothing")
        given = os.fspath(source)
        if isinstance(source, str) and not given.startswith(("/", ".")):
            named.append(given)
        elif not os.path.exists(given):
            raise SpecInvalid(
                f"volume {given} does not exist on this machine",
                seen=f"nothing to show at {target}",
                mend="make it first, or mend its path",
            )
        else:
            place = os.path.realpath(given)
            binds.append(Bind(source=place, target=_mount_point(target), read_only=_MODES[mode]))
    return tuple(binds), tuple(named)


def _tmpfs(tmpfs: Iterable[str] | Mapping[str, int | str] | None) -> dict[str, int]:
    if isinstance(tmpfs, Mapping):
        return {_mount_point(path): size_bytes(size) for path, size in tmpfs.items()}
    return {_mount_point(path): 0 for path in _several("tmpfs", tmpfs)}


def _content(path: str, content: str | bytes | Path) -> bytes:
    if isinstance(content, Path):
        try:
            return content.read_bytes()
        except OSError as error:
            raise SpecInvalid(
                f"the content of {path} cannot be read",
                seen=str(error),
                mend="files= takes text, bytes, or the Path of a file of this machine",
            ) from error
    return content.encode() if isinstance(content, str) else content
