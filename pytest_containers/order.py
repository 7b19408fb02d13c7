"""What a test may say about a container, and what is meant by it (floor 4).

`Options` lists the keywords of ``container()``, `container_fixture()` and the ``container``
marker; `Order.of` reads them. Everything that can be judged without an engine is judged here, so
that a slip of the pen costs no start.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, TypedDict, TypeVar, Unpack, get_args

from pytest_containers.engines.base import Network
from pytest_containers.errors import SpecInvalid
from pytest_containers.exits import signal_number
from pytest_containers.hosts import extra_hosts_of, host_ports_of
from pytest_containers.probe import Probe, ProbeLike, as_probe, split
from pytest_containers.resources import LimitsLike, UlimitsLike, limits_of, size_bytes, ulimits_of
from pytest_containers.seccomp_profile import parse as parse_profile
from pytest_containers.spec import Bind, ContainerSpec, FileEntry, ImageRecord, Limits, Port, PullPolicy
from pytest_containers.spelling import refuse_unknown
from pytest_containers.variables import Environment, environment

__all__ = ["Content", "Image", "Lifetime", "Options", "Order", "Scope"]

Scope = Literal["function", "class", "module", "package", "session", "run"]
Lifetime = Literal["owner", "run"]

_Argv = str | Sequence[str]
_Inside = str | PurePosixPath
_Host = str | os.PathLike[str]
Image = str | os.PathLike[str] | ImageRecord
_Bytes = str | bytes | Path
Content = _Bytes | tuple[_Bytes, int]
_Item = TypeVar("_Item")
_Value = TypeVar("_Value")

# A host name's labels (RFC 1123, 2.1), since peers resolve containers by these names, and underscores,
# which DNS carries (RFC 2181, section 11) and compose files and Docker have in names of services.
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
# The longest domain name as it is written (RFC 1035, 2.3.4).
_LONGEST_NAME = 253
# Permissions with set-user-ID, set-group-ID and sticky bit (chmod(2)).
_MODE_BITS = 0o7777
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
# Words of a volume's mode that mean nothing here: SELinux labels, and consistency on a Mac.
_HINTS = frozenset(("z", "Z", "cached", "delegated", "consistent"))


class Options(TypedDict, total=False):
    """The keywords of a container; every one may be left out, and None means the same."""

    name: str | None
    command: _Argv | None
    entrypoint: _Argv | None
    env: Environment | None
    env_file: _Host | None
    user: str | int | None
    workdir: _Inside | None
    hostname: str | None
    ports: Iterable[int | str] | None
    volumes: Mapping[_Host, str | Mapping[str, str]] | Sequence[str] | None
    tmpfs: Iterable[str] | Mapping[str, int | str] | None
    files: Mapping[str, Content] | None
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
    labels: Mapping[str, str] | Sequence[str] | None
    stop_signal: int | str | None
    stop_timeout: float | None
    storage: Literal["memory", "disk"] | None
    pull: PullPolicy | None
    platform: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One container as it was asked for.

    The name of *spec* is empty where the test gave none. *named_volumes* are the volumes that
    are no path of this machine. *ready* is a probe, or the name of a service with one. *record* is
    the image itself, where the test holds it.
    """

    image: str
    record: ImageRecord | None = None
    spec: ContainerSpec
    ready: Probe | str | None = None
    timeout_s: float | None = None
    pull: PullPolicy | None = None
    platform: str | None = None
    named_volumes: tuple[str, ...] = ()

    @classmethod
    def of(cls, image: Image, **options: Unpack[Options]) -> Order:
        """Read the arguments of a test.

        Raises UnknownKeyword, which is a TypeError too, for a keyword that `Options` does not have,
        SpecInvalid for a value that cannot be meant.
        """
        refuse_unknown("container", options, (*Options.__annotations__, "scope"))
        binds, named = _volumes(options.get("volumes"))
        ready, timeout = options.get("ready"), options.get("timeout")
        return cls(
            image=_image(image),
            record=image if isinstance(image, ImageRecord) else None,
            spec=_spec(options, binds),
            ready=ready if ready is None or isinstance(ready, str) else as_probe(ready),
            timeout_s=None if timeout is None else _seconds(timeout),
            pull=_policy(options.get("pull")),
            platform=_text("platform", options.get("platform")),
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
            "host-network": self.spec.network == "host",
            "no-network": self.spec.network == "none",
            "run-lifetime": lifetime == "run",
        }
        return tuple(feature for feature, is_wanted in wanted.items() if is_wanted)

    def fingerprint(self) -> str:
        """Return eight hexadecimal digits that tell this order from another one, in every process.

        The order in which pairs and sets were written does not matter; the probe is none of it.
        """
        image = self.record.id if self.record else self.image
        told = repr((image, self.platform, _canonical(self.spec)))
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
    host_ports = host_ports_of(options.get("host_access"), _network(network))
    spec = ContainerSpec(
        name="" if name is None else _name(name),
        hostname=None if hostname is None else _hostname(hostname),
        command=None if command is None else _argv(command),
        entrypoint=None if entrypoint is None else _entrypoint(entrypoint),
        env={**_env_file(options.get("env_file")), **environment(options.get("env"))},
        user=_user(user),
        workdir=None if workdir is None else _inside(workdir),
        ports=_ports(options.get("ports")),
        binds=binds,
        tmpfs=_tmpfs(options.get("tmpfs")),
        files=_files(_table("files", options.get("files"))),
        network=_network(network),
        aliases=tuple(map(_name, _several("aliases", options.get("aliases")))),
        host_access=host_ports,
        extra_hosts=extra_hosts_of(options.get("extra_hosts"), host_ports),
        limits=_limits(options),
        ulimits=ulimits_of(options.get("ulimits")),
        read_only=_switch("read_only", options.get("read_only", False)),
        init=options.get("init", False),
        cap_add=_words("cap_add", options.get("cap_add")),
        cap_drop=_words("cap_drop", options.get("cap_drop")),
        privileged=_switch("privileged", options.get("privileged", False)),
        no_new_privs=_switch("no_new_privs", options.get("no_new_privs", False)),
        seccomp=_seccomp(options.get("seccomp")),
        labels=_labels(options.get("labels")),
        stop_signal=None if signal is None else str(signal_number(signal)),
        storage=_storage(options.get("storage")),
    )
    if (shm := options.get("shm_size")) is not None:
        spec = replace(spec, shm_bytes=_shm_bytes(shm))
    return spec if grace is None else replace(spec, stop_timeout_s=_seconds(grace))


def _several(keyword: str, given: Iterable[_Item] | None) -> Iterable[_Item]:
    """Return what was *given* for a keyword that takes several; raise SpecInvalid for a bare one."""
    if given is not None and (isinstance(given, str | bytes) or not isinstance(given, Iterable)):
        raise SpecInvalid(f"{keyword}={given!r} is not a list", mend=f"write {keyword}=[{given!r}]")
    return given or ()


def _table(keyword: str, given: Mapping[_Item, _Value] | Sequence[str] | None) -> Mapping[_Item, _Value]:
    """Return what was *given* for a keyword that takes pairs; raise SpecInvalid for anything else."""
    if given is not None and not isinstance(given, Mapping):
        raise SpecInvalid(
            f"{keyword}={given!r} is not a mapping", mend=f"write {keyword}={{{_PAIRS[keyword]}}}"
        )
    return given or {}


def _image(image: object) -> str:
    """Return the name of an image; a path is a folder, also one without a slash."""
    if isinstance(image, ImageRecord):
        return image.reference
    text: object = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise SpecInvalid(
            f"{image!r} is not an image",
            mend='write a name as "redis:7", a folder as "./app", or what images.build() returns',
        )
    return text if isinstance(image, str) or os.path.isabs(text) else os.path.join(".", text)


def _text(keyword: str, given: object) -> str | None:
    if not isinstance(given, str | None):
        raise SpecInvalid(f"{keyword}={given!r} is not a text", mend=f'write {keyword}="..."')
    return given


def _user(user: object) -> str | None:
    if isinstance(user, bool) or not isinstance(user, str | int | None):
        raise SpecInvalid(f"user={user!r} is not a user", mend='write "app", 1000 or "1000:1000"')
    return None if user is None else str(user)


def _switch(keyword: str, given: object) -> bool:
    if not isinstance(given, bool | None):
        raise SpecInvalid(f"{keyword}={given!r} is neither True nor False", mend=f"write {keyword}=True")
    return bool(given)


def _words(keyword: str, given: Iterable[str] | None) -> tuple[str, ...]:
    words = tuple(_several(keyword, given))
    for word in words:
        _text(keyword, word)
    return words


def _network(network: object) -> str:
    if isinstance(network, Network):
        return network.name
    if not isinstance(network, str | None):
        raise SpecInvalid(
            f"network={network!r} is not a network",
            mend='a container is on one: its name, what network() returned, "host" or "none"',
        )
    return network or "default"


def _ports(ports: Iterable[int | str] | None) -> tuple[Port, ...]:
    """Read ports; a mapping is what others publish by, where this machine's port is nobody's to choose."""
    if isinstance(ports, Mapping) and any(value is not None for value in ports.values()):
        raise SpecInvalid(
            f"ports={dict(ports)!r} chooses ports of this machine",
            mend=f"write ports={list(ports)!r}, and let the test ask address(): nothing can collide then",
        )
    return tuple(map(Port.parse, _several("ports", ports)))


def _labels(labels: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if isinstance(labels, Sequence) and not isinstance(labels, str | bytes):
        return {name: text for name, _, text in (str(label).partition("=") for label in labels)}
    table = _table("labels", labels)
    return {str(name): str(text) for name, text in table.items()}


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


def _name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
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
        seconds = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):  # which NaN is not either
        raise SpecInvalid(f"{value!r} is not a time to wait", mend="give seconds, 0 or more")
    return seconds


def _env_file(path: _Host | None) -> dict[str, str | None]:
    """Read ``NAME=value`` lines; a bare NAME takes this process's value (docker run --env-file)."""
    if path is None:
        return {}
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, TypeError, RuntimeError) as error:
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
    return environment(env)


def _seccomp(profile: _Host | None) -> str | None:
    """Return the text of the profile in a file; it is read whole here, so that its mistakes are told here."""
    if profile is None or profile == "unconfined":
        return profile
    try:
        text = Path(profile).read_text(encoding="utf-8")
    except (OSError, ValueError, TypeError) as error:
        raise SpecInvalid(
            f"seccomp {profile} cannot be read",
            seen=str(error),
            mend='name a file with a profile in Docker\'s form, or "unconfined"',
        ) from error
    parse_profile(text, os.fspath(profile))
    return text


def _volumes(
    volumes: Mapping[_Host, str | Mapping[str, str]] | Sequence[str] | None,
) -> tuple[tuple[Bind, ...], tuple[str, ...]]:
    binds: list[Bind] = []
    named: list[str] = []
    for source, target, mode in _mounts(volumes):
        words = [word for word in mode.split(",") if word not in _HINTS]
        if len(words) > 1 or not set(words) <= _MODES.keys():
            raise SpecInvalid(
                f"{f'{target}:{mode}'!r}: {mode!r} is no mode of a volume", mend="write :ro, :rw or nothing"
            )
        given = os.path.expanduser(source)
        if isinstance(source, str) and not given.startswith(("/", ".")):
            named.append(given)
        elif "\0" in given or not os.path.exists(given):
            raise SpecInvalid(
                f"volume {source} does not exist on this machine",
                seen=f"nothing to show at {target}",
                mend="make it first, or mend its path",
            )
        else:
            place = os.path.realpath(given)
            read_only = any(_MODES[word] for word in words)
            binds.append(Bind(source=place, target=_mount_point(target), read_only=read_only))
    return tuple(binds), tuple(named)


def _mounts(
    volumes: Mapping[_Host, str | Mapping[str, str]] | Sequence[str] | None,
) -> Iterator[tuple[_Host, str, str]]:
    """Yield source, target and mode of each volume, in our spelling, docker-py's or compose's."""
    if isinstance(volumes, Sequence) and not isinstance(volumes, str | bytes):
        for line in volumes:
            source, colon, rest = str(line).partition(":")
            if not colon:
                raise SpecInvalid(
                    f"{line!r} is no volume",
                    mend='write volumes={"./here": "/inside:ro"}; tmpfs= needs no folder',
                )
            inside, _, mode = rest.partition(":")
            yield source, inside, mode
        return
    for place, text in _table("volumes", volumes).items():
        yield (place, *_target(place, text))


def _target(place: object, text: object) -> tuple[str, str]:
    """Return where a volume is seen, and its mode."""
    if isinstance(text, Mapping):  # as docker-py has it: {"bind": ..., "mode": ...}
        bind = text.get("bind")
        if text.keys() - {"bind", "mode"} or not isinstance(bind, str):
            raise SpecInvalid(f"{dict(text)!r} is no volume", mend='write "/inside" or "/inside:ro"')
        return bind, str(text.get("mode", ""))
    if not isinstance(text, str | PurePath) or not isinstance(place, str | os.PathLike):
        raise SpecInvalid(f"{text!r} is no place of a volume", mend='write volumes={"./here": "/inside:ro"}')
    target, _, mode = str(text).partition(":")
    return target, mode


def _tmpfs(tmpfs: Iterable[str] | Mapping[str, int | str] | None) -> dict[str, int]:
    if isinstance(tmpfs, str):
        raise SpecInvalid(f"tmpfs={tmpfs!r} is not a list", mend=f"write tmpfs=[{tmpfs!r}]")
    if isinstance(tmpfs, Mapping):
        return {_mount_point(path): _size(size) for path, size in tmpfs.items()}
    pairs = (str(line).partition(":") for line in _several("tmpfs", tmpfs))
    return {_mount_point(path): _size(size) for path, _, size in pairs}


def _size(size: int | str | None) -> int:
    """Read a size in bytes, also as mount(8) and docker write it: ``size=64m``; none is 0."""
    if size is None or (isinstance(size, str) and not size.strip()):
        return 0
    return size_bytes(size.strip().removeprefix("size=") if isinstance(size, str) else size)


def _files(files: Mapping[str, Content]) -> dict[str, bytes | FileEntry]:
    found: dict[str, bytes | FileEntry] = {}
    for path, put in files.items():
        place = _inside(path).rstrip("/")
        if not place:
            raise SpecInvalid("files= has '/'", mend='name a path below it: files={"/etc/app.conf": ...}')
        content, given = put if isinstance(put, tuple) and len(put) == 2 else (put, None)
        mode = None if given is None else _permissions(given)
        if isinstance(content, Path):
            found.update(_of_host(place, content.expanduser(), mode))
        elif isinstance(content, str | bytes):
            raw = content.encode() if isinstance(content, str) else content
            found[place] = raw if mode is None else FileEntry(content=raw, mode=mode)
        else:
            raise SpecInvalid(
                f"{put!r} is no content of {path}",
                mend="files= takes text, bytes, the Path of a file or folder, or one of these with a mode",
            )
    return found


def _permissions(mode: object) -> int:
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= _MODE_BITS:
        raise SpecInvalid(f"{mode!r} is not the mode of a file", mend="write an octal number: 0o755")
    return mode


def _of_host(place: str, path: Path, mode: int | None) -> Iterator[tuple[str, FileEntry]]:
    """Yield what a file or folder of this machine puts into a container; links in a folder stay links."""
    try:
        status = path.stat()
        if not path.is_dir():
            yield place, FileEntry(content=path.read_bytes(), mode=_mode(status, mode))
            return
        yield place, FileEntry(kind="folder", mode=stat.S_IMODE(status.st_mode))
        for one in sorted(path.iterdir()):
            below = f"{place}/{one.name}"
            if one.is_symlink():
                yield below, FileEntry(kind="link", target=os.readlink(one), mode=0o777)
            else:
                yield from _of_host(below, one, mode)
    except OSError as error:
        raise SpecInvalid(
            f"the content of {place} cannot be read",
            seen=str(error),
            mend="files= takes text, bytes, or the Path of a file or folder of this machine",
        ) from error


def _mode(status: os.stat_result, mode: int | None) -> int:
    return stat.S_IMODE(status.st_mode) if mode is None else mode
