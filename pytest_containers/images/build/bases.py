"""What a stage begins with, and what COPY --from takes from: an image, the host, nothing, a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

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
from pytest_containers.spec import ImageConfig, ImageRecord

__all__ = ["Bases", "Pull"]


class Pull(Protocol):
    """Gives an image by its name, ready to start."""

    def __call__(self, reference: str, /, *, platform: str | None) -> ImageRecord:
        """Return the image for *platform*; None is this machine's."""


class Bases:
    """Finds bases for one plan."""

    def __init__(self, store: Store, plan: Plan, pull: Pull) -> None:
        self._store = store
        self._plan = plan
        self._pull = pull

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
        native = self._plan.build_platform.distance(platform) == 0
        try:
            return self._pull(name, platform=None if native else str(platform))
        except (ImageNotFound, RegistryError) as error:
            found = nearest(name, (stage.name for stage in self._plan.everything if stage.name))
            if not found:
                raise
            raise type(error)(error.what, seen=error.seen, mend=f"{found} or: {error.mend}") from error

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
