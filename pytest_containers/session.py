"""What this run owns: its engine, its images, and the way from an order to a container (floor 4).

Here alone, above the seam, is known that there are engines. One is opened when the first test
asks for something, and never by a run that asks for nothing.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pytest_containers.catalog import Catalog, Service
from pytest_containers.container import Container
from pytest_containers.engines.base import Engine, Network
from pytest_containers.errors import ImageNotFound, RegistryError, SpecInvalid, Unauthorized, Unsupported
from pytest_containers.exits import signal_number
from pytest_containers.inventory import RegistryAccess
from pytest_containers.options import default_store
from pytest_containers.order import Lifetime, Order
from pytest_containers.probe import Probe, default_probe, warm
from pytest_containers.progress import BuildEvent, BuildWatch, Telling, Watch, Watches
from pytest_containers.shelf import Shelf, warn
from pytest_containers.spec import ContainerSpec, ImageRecord, PullPolicy

__all__ = [
    "RunPlace",
    "Session",
    "Settings",
    "Telling",
    "native_engine",
    "preflight",
    "run_place",
]

_PULLS = ("missing", "always", "never")
_TRUE = ("1", "true", "yes", "on")
# A host with its port, and perhaps a path: what a registry's or a mirror's name is made of.
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9._/-]*)?")
# A name without registry, folder, tag and digest: it may be meant for a service or a folder as well.
_BARE = re.compile(r"[A-Za-z0-9._-]+")
_WITHOUT_REGISTRY = (
    "without a registry there are folders with a Dockerfile FROM host, archives (images.load), and mirrors"
    " (--containers-mirror)"
)
_FALSE = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlace:
    """Where a run lives: its folder, and the process whose end is the run's end."""

    folder: Path
    owner_pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of a run, as read from command line, environment and ini file."""

    engine: str
    pull: PullPolicy
    access: RegistryAccess
    lock: str
    store: Path
    timeout_s: float
    log_lines: int

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Settings:
        """Read the options by their names, an empty string being none. Raises SpecInvalid."""
        pull = given.get("pull") or "missing"
        if pull not in _PULLS:
            raise SpecInvalid(f"containers_pull is {pull!r}", mend=f"choose one of {', '.join(_PULLS)}")
        return cls(
            engine=given.get("engine") or "auto",
            pull=cast("PullPolicy", pull),
            access=RegistryAccess(
                mirrors=tuple(_mirror(text) for text in _words(given, "mirror")),
                insecure=frozenset(_host(text) for text in _words(given, "insecure")),
                certificates=tuple(_folder(text) for text in _words(given, "certificates")),
                offline=_boolean("offline", given.get("offline", "")),
            ),
            lock=_lock(given.get("lock", "")),
            store=Path(given.get("store") or default_store()).expanduser().absolute(),
            timeout_s=_number("timeout", given.get("timeout") or "60"),
            log_lines=int(_number("logs", given.get("logs") or "50")),
        )


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise SpecInvalid(f"containers_{name} is {text!r}", mend="write true or false")
    return text.lower() in _TRUE


def _words(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the values of an option that may be given several times, apart by commas or white space."""
    return tuple(given.get(name, "").replace(",", " ").split())


def _mirror(text: str) -> tuple[str, str]:
    registry, equals, place = text.rpartition("=")
    if (equals and not _PLACE.fullmatch(registry)) or not _PLACE.fullmatch(place):
        raise SpecInvalid(
            f"containers_mirror is {text!r}",
            mend="write REGISTRY=HOST[:PORT][/PREFIX], or HOST alone for a mirror of docker.io",
        )
    return registry or "docker.io", place.rstrip("/")


def _host(text: str) -> str:
    if "/" in text or not _PLACE.fullmatch(text):
        raise SpecInvalid(f"containers_insecure is {text!r}", mend="write HOST or HOST:PORT")
    return text.lower()


def _folder(text: str) -> str:
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise SpecInvalid(
            f"containers_certificates is {text!r}",
            seen="there is no such folder",
            mend="name a folder that holds HOST/ca.crt, as /etc/docker/certs.d does",
        )
    return str(path)


def _lock(text: str) -> str:
    path = Path(text).expanduser().absolute()
    if text and not path.is_file():
        raise SpecInvalid(
            f"containers_lock is {text!r}",
            seen="there is no such file",
            mend="make it: pytest-containers lock IMAGE ... --file FILE",
        )
    return str(path) if text else ""


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SpecInvalid(f"containers_{name} is {text!r}", mend="write a number, 0 or more")
    return value


def run_place(name: str, owner_pid: int) -> RunPlace:
    """Return the place of the run *name*, that ends with process *owner_pid*; nothing is made yet.

    Every process that gives the same name means the same run. A controller of workers chooses one
    without asking the engine, which it would have to import for that.
    """
    from pytest_containers.engines.native import fresh_run_folder

    return RunPlace(folder=fresh_run_folder().with_name(name), owner_pid=owner_pid)


def native_engine(settings: Settings, place: RunPlace) -> Engine:
    """Return the engine that *settings* names; nothing is started yet.

    Raises Unsupported for an engine that is not built in.
    """
    if settings.engine not in ("auto", "native"):
        raise Unsupported(
            f"there is no engine {settings.engine!r}",
            seen="built in: native",
            mend="use --containers-engine=auto, or install a plugin that brings this engine",
        )
    from pytest_containers.engines.native import NativeEngine

    return NativeEngine(
        store=settings.store,
        run_folder=place.folder,
        owner_pid=place.owner_pid,
        access=settings.access,
        lock=settings.lock,
    )


def preflight() -> tuple[tuple[str, bool, str], ...]:
    """Return what a sandbox needs of this machine: step, whether it works, and what was seen."""
    from pytest_containers.engines import native

    return native.preflight()


class Session:
    """One pytest process's part of a run; safe to be used by threads."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        open_engine: Callable[[], Engine],
        telling: Telling | None = None,
    ) -> None:
        self.settings = settings
        self._telling: Telling = telling or (lambda _: nullcontext(Watches()))
        self.catalog = catalog
        self._open_engine = open_engine
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._counts: Counter[str] = Counter()

    @property
    def engine(self) -> Engine:
        """The engine, opened when first asked for."""
        with self._lock:
            if self._engine is None:
                self._engine = self._open_engine()
            return self._engine

    @property
    def images(self) -> Shelf:
        """The images, under this run's settings."""
        return Shelf(self.engine.images, policy=self.settings.pull, offline=self.settings.access.offline)

    def prepare(self) -> None:
        """Begin to start the engine in the background, and load meanwhile what a wait will need."""
        self.engine.prepare()
        warm()

    def launch(self, order: Order, *, lifetime: Lifetime = "owner") -> Container:
        """Start what was ordered and return it ready; what fails leaves nothing behind.

        Raises Unsupported and SpecInvalid before anything starts, then what `Images.pull`,
        `Engine.create` and `Container.start` raise.
        """
        service, reference = self.catalog.find(order.image)
        self._refuse(order, lifetime)
        with self._telling(order.image) as watches:
            if order.record is not None:
                image = order.record
            elif folder := self.catalog.folder(order.image):
                image = self.images.build(
                    folder,
                    platform=order.platform,
                    pull=order.pull,
                    watch=_warning(watches.build),
                    transfer=watches.transfer,
                )
            else:
                image = self._pulled(order, reference, watches.transfer)
        spec = self._named(_with_service(order.spec, service), order, lifetime)
        _judge_stop_signal(spec, image)
        handle = self.engine.create(spec, image)
        try:
            container = Container(
                handle=handle,
                spec=spec,
                image=image,
                ready=self.probe(order, image),
                timeout_s=self.settings.timeout_s if order.timeout_s is None else order.timeout_s,
            )
            container.start()
        except BaseException:
            # One for the whole run is not this process's to remove: others may hold it.
            if lifetime == "owner":
                handle.remove()
            raise
        return container

    def _pulled(self, order: Order, reference: str, watch: Watch | None) -> ImageRecord:
        """Return an image by its name; an error tells where that was looked for, and what needs no registry.

        A registry cannot be asked where there is no network, or no registry: then the name, which may
        have been a slip of the pen, is the first thing to look at.
        """
        try:
            return self.images.pull(reference, policy=order.pull, platform=order.platform, watch=watch)
        except (ImageNotFound, RegistryError) as error:
            what, seen, mend = error.what, error.seen, error.mend
            bare = order.image == reference != "host" and _BARE.fullmatch(reference) is not None
            if bare:
                seen = f"{self.catalog.looked_for(reference)}\n{what}: {seen}"
                what = f"there is no service, folder or image {reference}"
                mend = "write the name of a service, ./folder of a Dockerfile, or an image with its tag"
            elif reference not in what:
                seen, what = f"{what}: {seen}", f"{reference} cannot be pulled"
            if isinstance(error, RegistryError) and not isinstance(error, Unauthorized):
                mend += f"; {_WITHOUT_REGISTRY}"
            raise type(error)(what, seen=seen, mend=mend, more=error.more) from error

    def probe(self, order: Order, image: ImageRecord) -> Probe:
        """Return what a container of *image* waits for that was ordered so.

        Raises SpecInvalid where ``ready=`` names a service that has no probe.
        """
        service, _ = self.catalog.find(order.image)
        if isinstance(order.ready, str):
            return self.catalog.probe(order.ready)
        if order.ready is not None:
            return order.ready
        if service is not None and service.ready is not None:
            return service.ready
        named = (*(service.ports if service else ()), *order.spec.ports)
        return default_probe(image.config.healthcheck, image.config.ports, named)

    def network(self, name: str | None = None, *, internal: bool = False) -> Network:
        """Make a network, with a name of its own where None. Raises SpecInvalid for a name taken."""
        if internal and "internal-networks" not in self.engine.features:
            raise Unsupported.of(self.engine.name, "internal-networks")
        return self.engine.network(name or self._counted("network"), internal=internal)

    def close(self) -> None:
        """End everything of this process; doing so twice is allowed."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _refuse(self, order: Order, lifetime: Lifetime) -> None:
        engine = self.engine
        for feature in order.needs(lifetime):
            if feature not in engine.features or feature == "volumes":
                named = f" with names ({', '.join(order.named_volumes)})" if feature == "volumes" else ""
                has = f"it has {', '.join(sorted(engine.features)) or 'no feature that can be missing'}"
                raise Unsupported.of(engine.name, feature + named, seen=has, mend=_instead(feature))

    def _named(self, spec: ContainerSpec, order: Order, lifetime: Lifetime) -> ContainerSpec:
        """Return *spec* with a name; that of a container of the run is the same in every process."""
        stem = _stem(order.image)
        name = f"{stem}-{order.fingerprint()}" if lifetime == "run" else ""
        return replace(spec, name=spec.name or name or self._counted(stem), lifetime=lifetime)

    def _counted(self, stem: str) -> str:
        with self._lock:
            self._counts[stem] += 1
            return f"{stem}-{self._counts[stem]}"


def _judge_stop_signal(spec: ContainerSpec, image: ImageRecord) -> None:
    """Raise SpecInvalid now for a stop signal of the image that stop() could not send."""
    if spec.stop_signal is not None or not image.config.stop_signal:
        return
    try:
        signal_number(image.config.stop_signal)
    except SpecInvalid as error:
        raise SpecInvalid(
            f"STOPSIGNAL of {image.reference} is {image.config.stop_signal!r}, which is not a signal",
            mend='name one that the process knows: stop_signal="SIGTERM"',
        ) from error


def _warning(watch: BuildWatch | None) -> BuildWatch:
    """Return what warns of a build's notices and hands everything else to *watch*."""

    def heard(event: BuildEvent) -> None:
        warn(event)
        if watch is not None and event.kind != "notice":
            watch(event)

    return heard


def _with_service(spec: ContainerSpec, service: Service | None) -> ContainerSpec:
    if service is None:
        return spec
    own_words = spec.command is not None or spec.entrypoint is not None
    return replace(
        spec,
        command=spec.command if own_words else service.command,
        env={**service.env, **spec.env},
        ports=tuple(dict.fromkeys((*service.ports, *spec.ports))),
    )


def _instead(feature: str) -> str:
    if feature == "volumes":
        return 'write a folder of this machine as "/path" or "./path" for a bind'
    return "leave it out, or choose another engine with --containers-engine"


def _stem(image: str) -> str:
    """Return the part of a reference that can begin a host name: ``redis`` of ``host:5000/team/redis:7``."""
    last = image.partition("@")[0].rstrip("/").rpartition("/")[2].partition(":")[0].lower()
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in last)
    return letters.strip("-")[:40] or "container"
