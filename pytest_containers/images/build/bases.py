"""What a stage begins with, and what COPY --from takes from: an image, the host, nothing, a stage."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol, Self

from pytest_containers.errors import ImageNotFound, RegistryError, SpecInvalid
from pytest_containers.images.build.cache import step_key
from pytest_containers.images.build.origins import Origin
from pytest_containers.images.build.stages import Plan
from pytest_containers.images.build.state import State
from pytest_containers.images.build.values import nearest
from pytest_containers.images.chains import host_chain
from pytest_containers.images.commit import in_oci_terms
from pytest_containers.images.digest import Digest
from pytest_containers.images.host import host_record
from pytest_containers.images.manifest import (
    BASE_KEY_ANNOTATION,
    MANIFEST_LIMIT_BYTES,
    Manifest,
    read_history,
)
from pytest_containers.images.platform import Platform
from pytest_containers.images.store import CONFIG_LIMIT_BYTES, Store
from pytest_containers.progress import Progress, Watch
from pytest_containers.spec import ImageConfig, ImageRecord

__all__ = ["Bases", "Pull"]

# Images on their way at the same time; each fetches several layers at once by itself.
_AT_ONCE: Final = 4


class Pull(Protocol):
    """Gives an image by its name, ready to start."""

    def __call__(self, reference: str, /, *, platform: str | None, watch: Watch) -> ImageRecord:
        """Return the image for *platform*; None is this machine's. *watch* hears how far it is."""


class Bases:
    """Finds bases for one plan, each image once; a context manager that ends what is on its way.

    Several are fetched at the same time. *transfer* hears how far each is.
    """

    def __init__(self, store: Store, plan: Plan, pull: Pull, transfer: Watch | None = None) -> None:
        self._store = store
        self._plan = plan
        self._pull = pull
        self._transfer = transfer
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="base")
        self._found: dict[tuple[str, str | None], Future[ImageRecord]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A pull of which nobody wants to know ends at its next event.
        self._ended.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def fetch(self, plan: Plan) -> None:
        """Begin to fetch every image that the stages of *plan* need and that is not on its way."""
        for stage in plan.stages:
            origins = [(stage.base, plan.platform_of(stage))]
            origins += [(origin, plan.platform) for step in stage.steps for origin in step.origins]
            for origin, platform in origins:
                if origin.kind == "image":
                    self._begun(origin.name, platform)

    def state(self, origin: Origin, built: Mapping[int, State], platform: Platform | None = None) -> State:
        """Return what *origin* stands for; an image is taken for *platform*, the target's where it is None.

        Raises what a pull raises, SpecInvalid for a named context.
        """
        match origin.kind:
            case "stage":
                state = built[origin.number]
                # Its arguments are inherited, and what its ENV set hides those of the same name.
                scope = state.scope.begin(state.config.env)
                config = replace(state.config, onbuild=())
                return replace(state, own_command=False, config=config, scope=scope)
            case "scratch":
                scope = self._plan.scope.begin(())
                config = ImageConfig(env=scope.env, workdir="/")
                return State(key=step_key("", "scratch"), scope=scope, config=config)
            case "host":
                return self._host()
            case "image":
                return self._image(self._pulled(origin.name, platform or self._plan.platform))
            case _:
                raise SpecInvalid(f"there is no context named {origin.name or 'context'}")

    def _pulled(self, name: str, platform: Platform) -> ImageRecord:
        """Return an image; where nobody has it, a stage of a like name may have been meant."""
        try:
            return self._begun(name, platform).result()
        except (ImageNotFound, RegistryError) as error:
            found = nearest(name, (stage.name for stage in self._plan.everything if stage.name))
            if not found:
                raise
            raise type(error)(error.what, seen=error.seen, mend=f"{found} or: {error.mend}") from error

    def _begun(self, name: str, platform: Platform) -> Future[ImageRecord]:
        native = self._plan.build_platform.distance(platform) == 0
        key = (name, None if native else str(platform))
        with self._lock:
            if key not in self._found:
                self._found[key] = self._threads.submit(self._pull, name, platform=key[1], watch=self._heard)
            return self._found[key]

    def _heard(self, event: Progress) -> None:
        if self._ended.is_set():
            raise CancelledError
        if self._transfer is not None:
            self._transfer(event)

    def triggers(self, origin: Origin, platform: Platform) -> tuple[str, ...]:
        """Return the ONBUILD instructions of an image; they run once and no further image inherits them."""
        return self._pulled(origin.name, platform).config.onbuild if origin.kind == "image" else ()

    def _host(self) -> State:
        record = host_record()
        scope = self._plan.scope.begin(record.config.env)
        base = host_chain(record.digest)
        config = replace(record.config, env=scope.env)
        return State(key=step_key("", base), scope=scope, config=config, base=base)

    def _image(self, record: ImageRecord) -> State:
        if not record.portable and not record.diff_ids:
            return self._host()
        self._store.layers(record)  # unpacked where they were not
        manifest = Manifest.parse(self._store.blobs.read(Digest.parse(record.digest), MANIFEST_LIMIT_BYTES))
        base = host_chain(manifest.annotations[BASE_KEY_ANNOTATION]) if manifest.base else None
        scope = self._plan.scope.begin(record.config.env)
        return State(
            # The layers and not the id, which changes with every time that the history tells: what
            # a step needs of the config is in its own key (BuildKit, source/containerimage/pull.go).
            key=step_key("", base or "", *record.diff_ids),
            scope=scope,
            # A PATH is always there, in the image as well.
            config=replace(record.config, env=scope.env, onbuild=()),
            base=base,
            layers=tuple(map(in_oci_terms, manifest.layers)),
            diff_ids=record.diff_ids,
            history=read_history(self._store.blobs.read(manifest.config.digest, CONFIG_LIMIT_BYTES)),
        )
