"""What a RUN sees besides its layers: binds, caches, tmpfs, secrets, ssh agents and its script.

Nothing of it comes near a layer: each lies in a workspace of its own, or in the store, and is
bound into the command's. So writes to a bind are discarded, and no file that is bound is the
user's own (BuildKit, solver/llbsolver/mounts).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pytest_containers.errors import HostError, SpecInvalid
from pytest_containers.images.build.agent import forwarded
from pytest_containers.images.build.context import Content, Context
from pytest_containers.images.build.instruction import Copy
from pytest_containers.images.build.layertar import LayerTar
from pytest_containers.images.build.lowers import LowerTree
from pytest_containers.images.build.mount import Mount
from pytest_containers.images.build.placing import Placement, place
from pytest_containers.images.build.runner import Command, Workspace
from pytest_containers.images.build.source import Location
from pytest_containers.images.build.state import State
from pytest_containers.images.build.values import nearest
from pytest_containers.images.build.volumes import Volumes
from pytest_containers.images.decompress import PIECE_BYTES
from pytest_containers.images.layer import apply
from pytest_containers.spec import Bind

__all__ = ["Grants", "Mounted", "Mounts", "Opens", "Source", "missing"]


class Opens(Protocol):
    """Opens a workspace over the layers of a state, or over nothing; its files are gone at its end."""

    def __call__(
        self, state: State | None, command: Command | None, *, storage: Literal["memory", "disk"] = "disk"
    ) -> AbstractContextManager[Workspace]:
        """Return the workspace; what is written there lies in memory or on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What a build may see of its caller: *secrets* by id, *ssh* agents' sockets by id."""

    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    ssh: Mapping[str, str] = field(default_factory=dict)


class Source:
    """One mount, resolved, and where it is from: a state's files, a context, or nothing."""

    def __init__(self, mount: Mount, origin: State | Context | None, location: Location) -> None:
        self.mount = mount
        self._origin = origin
        self._copy = Copy(
            location=location,
            text="",
            # A mount's source is a path: what a COPY would take for a wildcard stands for itself.
            sources=(re.sub(r"([*?\[\]\\])", r"\\\1", mount.source) or ".",),
            target="/tree",
        )
        self._content: Content | None = None

    @property
    def content(self) -> str:
        """What stands for the source's content in a key; raise SpecInvalid where it is not there."""
        if isinstance(self._origin, Context):
            return self._known(self._origin).digest
        return self._origin.key if self._origin else ""

    def _known(self, context: Context) -> Content:
        if self._content is None:
            self._content = context.content(self._copy)
        return self._content

    @contextlib.contextmanager
    def open(self, opens: Opens) -> Iterator[tuple[Workspace, str]]:
        """Yield a workspace with the source's files, and the path where they are there."""
        if isinstance(self._origin, Context):
            with opens(None, None) as workspace, tempfile.TemporaryFile() as file:
                tar = LayerTar(file)
                known = self._known(self._origin)
                selection = known.selection or self._origin.select(self._copy, expected=known.digest)
                place(Placement(tar, LowerTree(())), self._copy, selection, "/", None)
                tar.close()
                file.seek(0)
                workspace.write("/", file)
                yield workspace, "/tree"
        else:
            with opens(self._origin, None) as workspace:
                yield workspace, f"/{self.mount.source.lstrip('/')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A RUN's mounts as a container takes them.

    *env* are the secrets that it gets as variables, *defaults* variables that it may have already.
    """

    binds: tuple[Bind, ...] = ()
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    defaults: Mapping[str, str] = field(default_factory=dict)


class Mounts:
    """Makes a RUN's mounts for as long as it runs; *sockets* opens a folder of the run's."""

    def __init__(
        self,
        volumes: Volumes,
        grants: Grants,
        opens: Opens,
        sockets: Callable[[], AbstractContextManager[Path]],
    ) -> None:
        self._volumes = volumes
        self._grants = grants
        self._opens = opens
        self._sockets = sockets

    @property
    def secrets(self) -> Mapping[str, bytes]:
        """The values of the secrets that a RUN may see, by id."""
        return self._grants.secrets

    @contextlib.contextmanager
    def prepare(self, sources: tuple[Source, ...], script: tuple[str, str]) -> Iterator[Mounted]:
        """Make the mounts; what is made for this command alone is gone at the end.

        *script* is the path of a program that comes along, and its text; both empty for none.
        """
        with contextlib.ExitStack() as scope:
            made = _Making(self._volumes, self._grants, self._opens, self._sockets, scope)
            # In the order of the names, so that no two commands wait for each other.
            for source in sorted(sources, key=_volume_name):
                made.add(source)
            if script[0]:
                made.add_file(script[0], script[1].encode("utf-8", "surrogateescape"), mode=0o755)
            yield Mounted(binds=tuple(made.binds), tmpfs=made.tmpfs, env=made.env, defaults=made.defaults)


def _volume_name(source: Source) -> str:
    """Return the name of the folder behind a cache mount: as in BuildKit, one for each initial content."""
    mount = source.mount
    if mount.kind != "cache":
        return ""
    begins = (mount.source, source.content) if source.content else (mount.uid, mount.gid, mount.mode)
    whole = "\0".join(map(str, (mount.id, *begins)))
    return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class _Making:
    """The mounts of one command while they are made; *scope* ends them."""

    def __init__(
        self,
        volumes: Volumes,
        grants: Grants,
        opens: Opens,
        sockets: Callable[[], AbstractContextManager[Path]],
        scope: contextlib.ExitStack,
    ) -> None:
        self._volumes = volumes
        self._grants = grants
        self._opens = opens
        self._sockets = sockets
        self._scope = scope
        self._held: dict[str, Path] = {}
        self._files: Workspace | None = None
        self.binds: list[Bind] = []
        self.tmpfs: dict[str, int] = {}
        self.env: dict[str, str] = {}
        self.defaults: dict[str, str] = {}

    def add(self, source: Source) -> None:
        mount = source.mount
        match mount.kind:
            case "tmpfs":
                self.tmpfs[mount.target] = mount.size_bytes
            case "cache":
                self._cache(source)
            case "secret":
                self._secret(mount)
            case "ssh":
                self._ssh(mount)
            case _:
                workspace, path = self._scope.enter_context(source.open(self._opens))
                self.binds.append(workspace.bind(path, mount.target, read_only=mount.read_only))

    def _cache(self, source: Source) -> None:
        mount, name = source.mount, _volume_name(source)
        if name not in self._held:

            def fill(path: Path) -> None:
                _begin(path, source, self._opens)

            self._held[name] = self._scope.enter_context(self._volumes.hold(name, mount.sharing, fill))
        bind = Bind(source=str(self._held[name]), target=mount.target, read_only=mount.read_only)
        self.binds.append(bind)

    def _secret(self, mount: Mount) -> None:
        content = self._grants.secrets.get(mount.id)
        if content is None:
            if mount.required:
                raise missing("secret", mount.id, self._grants.secrets)
            return
        if mount.env is not None:
            self.env[mount.env] = content.decode("utf-8", "surrogateescape")
        if mount.target:
            self.add_file(mount.target, content, mode=mount.mode or 0, owner=(mount.uid or 0, mount.gid or 0))

    def add_file(self, target: str, content: bytes, *, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
        """Show a file at *target*; it lies in memory alone."""
        if self._files is None:
            self._files = self._scope.enter_context(self._opens(None, None, storage="memory"))
        name = str(len(self.binds))
        with io.BytesIO() as tar:
            with tarfile.open(fileobj=tar, mode="w") as writer:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), mode
                entry.uid, entry.gid = owner
                writer.addfile(entry, io.BytesIO(content))
            tar.seek(0)
            self._files.write("/", tar)
        self.binds.append(self._files.bind(f"/{name}", target, read_only=True))

    def _ssh(self, mount: Mount) -> None:
        agent = self._grants.ssh.get(mount.id)
        if agent is None:
            if mount.required:
                raise missing("ssh", mount.id, self._grants.ssh)
            return
        folder = self._scope.enter_context(self._sockets())
        path = self._scope.enter_context(forwarded(agent, folder, mount))
        self.binds.append(Bind(source=str(path), target=mount.target))
        self.defaults.setdefault("SSH_AUTH_SOCK", mount.target)


def missing(kind: Literal["secret", "ssh"], name: str, known: Mapping[str, object]) -> SpecInvalid:
    """Return the error for a required secret or agent that the caller has not passed."""
    told = {"secret": f"the secret {name}", "ssh": f"the ssh agent {name}"}[kind]
    passed = {"secret": "secrets=", "ssh": "ssh="}[kind]
    return SpecInvalid(
        f"{told} is required",
        seen=f"{passed} has {', '.join(sorted(known))}" if known else f"nothing was passed in {passed}",
        mend=nearest(name, known) or f"pass it in {passed}",
    )


def _begin(path: Path, source: Source, opens: Opens) -> None:
    """Make the folder of a new cache mount at *path*, empty or with what its source has."""
    mount = source.mount
    if not source.content:
        path.mkdir()
        try:
            os.chown(path, mount.uid or 0, mount.gid or 0)
        except PermissionError as error:
            # chown(2): EPERM without CAP_CHOWN. What a RUN needs beside it is told the same way.
            raise HostError(
                "a cache mount of a build needs root on this machine",
                seen=f"pytest runs as user {os.geteuid()}",
                mend='run it as root: sudo -E env "PATH=$PATH" pytest',
            ) from error
        path.chmod(0o755 if mount.mode is None else mount.mode)
        return
    with source.open(opens) as (workspace, where), tempfile.TemporaryFile() as tar:
        workspace.read(where, tar)
        tar.seek(0)
        unpacked = path.with_name("unpacked")
        unpacked.mkdir()
        apply(iter(lambda: tar.read(PIECE_BYTES), b""), unpacked, parents=())
        name = os.path.basename(where.rstrip("/"))
        (unpacked / name).rename(path)
        if name:
            unpacked.rmdir()
