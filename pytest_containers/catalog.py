"""What a bare name means: services with their image, their settings and their probe (floor 4).

The entries of ``catalog.toml`` come with the package; a project adds its own, or replaces one,
under ``[tool.pytest-containers.services.NAME]`` in its ``pyproject.toml``. Their probes speak the
service's own protocol from the test process: a log line lies when a server starts twice, and a
port opens before the server answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pytest_containers.errors import SpecInvalid
from pytest_containers.probe import Probe, all_of, command, exchange, healthcheck, http, log, port
from pytest_containers.spec import Port, Stream
from pytest_containers.spelling import similar

__all__ = ["Catalog", "Service"]

_Table = Mapping[str, object]
_KEYS = frozenset({"image", "env", "command", "ports", "ready"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One entry: what is laid under a test's own arguments when it names the service."""

    name: str
    image: str
    env: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] | None = None
    ports: tuple[Port, ...] = ()
    ready: Probe | None = None

    @property
    def repository(self) -> str:
        """The image without tag and digest."""
        return _repository(self.image)


class Catalog:
    """The known services, by name; folders are those of the *project*, or of where the process runs."""

    def __init__(self, services: Mapping[str, Service], project: Path | None = None) -> None:
        self._services = dict(services)
        self._project = project

    @classmethod
    def read(cls, project: Path | None = None) -> Catalog:
        """Read the package's own services and those of the ``pyproject.toml`` in folder *project*.

        Raises SpecInvalid for an entry that cannot be meant.
        """
        own = _toml(Path(__file__).with_name("catalog.toml"))
        services = {name: _service(name, table) for name, table in own.items()}
        path = None if project is None else project / "pyproject.toml"
        if path is not None and path.is_file():
            tool = _table(_toml(path).get("tool", {}), "tool")
            settings = _table(tool.get("pytest-containers", {}), "tool.pytest-containers")
            entries = _table(settings.get("services", {}), "tool.pytest-containers.services")
            services.update({name: _service(name, table) for name, table in entries.items()})
        return cls(services, project)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all services, sorted."""
        return tuple(sorted(self._services))

    def find(self, image: str) -> tuple[Service | None, str]:
        """Return the service that *image* names, and the image reference to start.

        ``redis`` is the service with its own tag; ``redis:6`` and ``redis@sha256:...`` are the
        service with another one. What names no service is returned as it is.
        """
        repository = _repository(image)
        for service in self._services.values():
            if repository in (service.name, service.repository):
                rest = image[len(repository) :]
                return service, service.repository + rest if rest else service.image
        return None, image

    def probe(self, name: str) -> Probe:
        """Return the probe of the service *name*. Raises SpecInvalid where there is none."""
        service = self._services.get(name)
        if service is None or service.ready is None:
            known = (one.name for one in self._services.values() if one.ready is not None)
            raise SpecInvalid(
                f"ready={name!r} names no service with a probe",
                seen=f"services: {', '.join(sorted(known))}",
                mend="name one of these, or give a probe: port(), http(), log() and their kin",
            )
        return service.ready

    def folder(self, image: str) -> Path | None:
        """Return the folder with the Dockerfile that makes *image*, None for what is a reference.

        What begins with a dot, a slash or a tilde is a path; another name is a folder's where that
        has a Dockerfile, and no service has the name. Where neither has it, it is the project's.
        """
        service, name = self.find(image)
        path = Path(name).expanduser()
        places = self._places(path)
        if name.startswith((".", "/", "~")):
            if not places:
                raise SpecInvalid(
                    f"{path} leads nowhere: the working folder is gone", mend="write a full path"
                )
            return next((place for place in places if place.is_dir()), places[0])
        if service is not None:
            return None
        return next((place for place in places if _has_dockerfile(place)), None)

    def _places(self, path: Path) -> list[Path]:
        """Return what a relative *path* may mean; the working folder may be gone (getcwd(2), ENOENT)."""
        try:
            here: Path | None = Path.cwd()
        except FileNotFoundError:
            here = None
        places = [place / path for place in (self._project, here) if place is not None]
        return list(dict.fromkeys(places)) or ([path] if path.is_absolute() else [])

    def looked_for(self, name: str) -> str:
        """Return where a bare *name*, which is no service, was looked for, for a person to read."""
        meant = similar(name, self._services)
        services = f"no service {name} ({f'did you mean {meant}?' if meant else ', '.join(self.names)})"
        places = ", ".join(str(place / "Dockerfile") for place in self._places(Path(name))) or "folder at all"
        return f"{services}\nno folder {name}: there is no {places}"


def _has_dockerfile(folder: Path) -> bool:
    # docker build takes the name in lower case where the usual one is not there.
    return (folder / "Dockerfile").is_file() or (folder / "dockerfile").is_file()


def _repository(image: str) -> str:
    """Return a reference without digest and tag; a colon before the last slash is a port."""
    name = image.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name


def _toml(path: Path) -> _Table:
    import tomllib

    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise SpecInvalid(f"{path} is not TOML", seen=str(error)) from error


def _table(value: object, place: str) -> _Table:
    if not isinstance(value, dict):
        raise SpecInvalid(f"[{place}] has to be a table", seen=repr(value))
    return cast("_Table", value)


def _service(name: str, entry: object) -> Service:
    place = f"services.{name}"
    table = _table(entry, place)
    unknown = sorted(table.keys() - _KEYS)
    if unknown or not isinstance(table.get("image"), str):
        seen = f"unknown: {', '.join(unknown)}" if unknown else "no image"
        raise SpecInvalid(f"[{place}] is no service", seen=seen, mend=f"keys: {', '.join(sorted(_KEYS))}")
    words = _list(table, "command", place)
    return Service(
        name=name,
        image=str(table["image"]),
        env={key: str(value) for key, value in _table(table.get("env", {}), f"{place}.env").items()},
        command=tuple(map(str, words)) if words else None,
        ports=tuple(Port.parse(str(number)) for number in _list(table, "ports", place)),
        ready=_ready(_table(table["ready"], f"{place}.ready"), place) if "ready" in table else None,
    )


def _list(table: _Table, key: str, place: str) -> list[object]:
    value = table.get(key, [])
    if not isinstance(value, list):
        raise SpecInvalid(f"{key} of [{place}] has to be a list", seen=repr(value))
    return value


def _ready(table: _Table, place: str) -> Probe:
    readers: Mapping[str, Callable[[_Table], Probe]] = {
        "port": lambda given: port(*_numbers(given)),
        "http": lambda given: http(
            _text(given, "port"),
            _text(given, "path", "/"),
            status=int(_text(given, "status", "200")),
            expect=_bytes(given, "expect") or None,
        ),
        "log": lambda given: log(
            _text(given, "pattern"),
            times=int(_text(given, "times", "1")),
            stream=cast("Stream | None", given.get("stream")),
        ),
        "exchange": lambda given: exchange(
            _text(given, "port"), send=_bytes(given, "send"), expect=_bytes(given, "expect") or None
        ),
        "command": lambda given: command(_text(given, "argv")),
        "healthcheck": lambda _: healthcheck(),
    }
    probes: list[Probe] = []
    for kind, given in table.items():
        if kind not in readers:
            raise SpecInvalid(f"[{place}.ready] has no probe {kind!r}", mend=f"probes: {', '.join(readers)}")
        try:
            probes.append(readers[kind](_table(given, f"{place}.ready.{kind}")))
        except (KeyError, ValueError) as error:
            raise SpecInvalid(f"[{place}.ready.{kind}] is no probe", seen=str(error)) from error
    return probes[0] if len(probes) == 1 else all_of(*probes)


def _numbers(given: _Table) -> list[str]:
    ports = given["ports"]
    return [str(number) for number in ports] if isinstance(ports, list) else [str(ports)]


def _text(given: _Table, key: str, default: str | None = None) -> str:
    return str(given[key] if default is None else given.get(key, default))


def _bytes(given: _Table, key: str) -> bytes:
    # Latin-1 maps U+0000 to U+00FF onto single bytes, so TOML's \u escapes can write any byte.
    return str(given.get(key, "")).encode("latin-1")
