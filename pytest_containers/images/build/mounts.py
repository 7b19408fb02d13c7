"""What a RUN sees besides its layers: binds of the context, caches, tmpfs and secrets."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_containers._files import locked
from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.cache import StepCache
from pytest_containers.images.build.mount import Mount
from pytest_containers.spec import Bind

__all__ = ["Mounted", "Mounts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A RUN's mounts as a container takes them; *env* are the secrets that it gets as variables."""

    binds: tuple[Bind, ...] = ()
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class Mounts:
    """Makes a RUN's mounts for as long as it runs."""

    def __init__(self, cache: StepCache, context: Path, secrets: Mapping[str, bytes]) -> None:
        self._cache = cache
        self._context = context
        self._secrets = secrets

    @contextlib.contextmanager
    def prepare(self, mounts: tuple[Mount, ...]) -> Iterator[Mounted]:
        """Make *mounts*, resolved; what is made for this command alone is gone at the end."""
        binds: list[Bind] = []
        tmpfs: dict[str, int] = {}
        env: dict[str, str] = {}
        with contextlib.ExitStack() as scope:
            for mount in mounts:
                match mount.kind:
                    case "tmpfs":
                        tmpfs[mount.target] = mount.size_bytes
                    case "cache":
                        binds.append(self._cached(mount, scope))
                    case "secret":
                        self._secret(mount, scope, binds, env)
                    case _:
                        binds.append(self._bind(mount))
            yield Mounted(binds=tuple(binds), tmpfs=tmpfs, env=env)

    def _cached(self, mount: Mount, scope: contextlib.ExitStack) -> Bind:
        folder = self._cache.volume(mount.id)
        if mount.sharing == "private":
            folder = Path(scope.enter_context(tempfile.TemporaryDirectory(dir=folder.parent)))
        if mount.sharing == "locked":
            scope.enter_context(locked(folder.with_suffix(".lock"), timeout_s=3600.0))
        os.chown(folder, mount.uid or 0, mount.gid or 0)
        folder.chmod(0o755 if mount.mode is None else mount.mode)
        return Bind(source=str(folder), target=mount.target, read_only=mount.read_only)

    def _secret(
        self, mount: Mount, scope: contextlib.ExitStack, binds: list[Bind], env: dict[str, str]
    ) -> None:
        content = self._secrets.get(mount.id)
        if content is None:
            if mount.required:
                raise SpecInvalid(f"the secret {mount.id} is required", mend="pass it in secrets=")
            return
        if mount.env is not None:
            env[mount.env] = content.decode("utf-8", "surrogateescape")
        if mount.target:
            folder = Path(scope.enter_context(tempfile.TemporaryDirectory()))
            path = folder / "secret"
            path.touch(mode=0o600)
            path.write_bytes(content)
            os.chown(path, mount.uid or 0, mount.gid or 0)
            path.chmod(0o400 if mount.mode is None else mount.mode)
            binds.append(Bind(source=str(path), target=mount.target, read_only=True))

    def _bind(self, mount: Mount) -> Bind:
        """Bind a folder or file of the context; writes are refused, where BuildKit discards them."""
        root = self._context.resolve()
        source = (root / mount.source.lstrip("/")).resolve()
        if source != root and root not in source.parents:
            raise SpecInvalid(
                f"{mount.source} leads out of the build context", mend="name a path inside of it"
            )
        if not source.exists():
            raise SpecInvalid(f"there is no {mount.source} in the build context to mount")
        return Bind(source=str(source), target=mount.target, read_only=True)
