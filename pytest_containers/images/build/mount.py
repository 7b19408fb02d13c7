"""``RUN --mount``: what is seen inside one command and stays in no layer.

Types, keys and defaults: https://docs.docker.com/reference/dockerfile/#run---mount.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.values import boolean, csv_fields, nearest, size_bytes, unsigned

__all__ = ["Mount", "MountFlag", "MountKind", "Sharing"]

MountKind = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]

_KINDS: Final = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARINGS: Final = ("shared", "private", "locked")
# Each spelling of a key with the one used here.
_KEYS: Final[Mapping[str, str]] = {
    **{key: key for key in "type from source target readonly readwrite required".split()},
    **{key: key for key in "size id sharing mode uid gid env".split()},
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_SWITCHES: Final = frozenset({"readonly", "readwrite", "required"})
_SECRETS: Final = "/run/secrets"
_AGENTS: Final = "/run/buildkit/ssh_agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount of a RUN.

    *origin* is the stage, image or context it comes from, empty for the build context; for a
    cache or tmpfs without one it begins empty. *source* is a path there, or the secret's id.
    *size_bytes* 0 is no limit. None of *mode*, *uid*, *gid* is the kind's default. *env* names
    the variable that gets a secret; with no *target* besides, no file is made. Writes to a bind
    that is not *read_only* are discarded.
    """

    kind: MountKind = "bind"
    origin: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = True
    id: str = ""
    sharing: Sharing = "shared"
    required: bool = False
    size_bytes: int = 0
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None

    def resolved(self, workdir: str, ordinal: int = 0) -> Mount:
        """Return the mount with its defaults filled in; *target* is then absolute, or empty for none.

        A relative target stands below *workdir*. *ordinal* counts the RUN's ssh mounts from 0.
        Raises SpecInvalid for the target ``/``, and an ssh mount with a source.
        """
        if self.kind == "secret":
            return self._secret(workdir)
        if self.kind == "ssh":
            return self._ssh(workdir, ordinal)
        target = posixpath.normpath(posixpath.join("/", workdir, self.target)).replace("//", "/", 1)
        if target == "/":
            raise SpecInvalid("a mount cannot have the target /", mend="mount it at a folder below")
        if self.kind != "cache":
            return replace(self, target=target)
        name = self.id or posixpath.normpath(self.target or ".")
        mode = 0o755 if self.mode is None else self.mode
        return replace(self, target=target, id=name, mode=mode, uid=self.uid or 0, gid=self.gid or 0)

    def _secret(self, workdir: str) -> Mount:
        name = self.source or self.id or posixpath.basename(self.target)
        if not name:
            raise SpecInvalid("a secret mount has no name", mend="write --mount=type=secret,id=NAME")
        target = self.target
        if not target and self.env is None:
            target = f"{_SECRETS}/{posixpath.basename(name.rstrip('/')) or name}"
        return replace(
            self,
            id=name,
            source="",
            target=posixpath.join("/", workdir, target) if target else "",
            env=name if self.env == "" else self.env,
            mode=0o400 if self.mode is None else self.mode,
            uid=self.uid or 0,
            gid=self.gid or 0,
        )

    def _ssh(self, workdir: str, ordinal: int) -> Mount:
        if self.source:
            raise SpecInvalid("an ssh mount takes no source", mend="name the agent by id=")
        return replace(
            self,
            id=self.id or "default",
            target=posixpath.join("/", workdir, self.target or f"{_AGENTS}.{ordinal}"),
            mode=0o600 if self.mode is None else self.mode,
            uid=self.uid or 0,
            gid=self.gid or 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFlag:
    """The value of a ``--mount`` as written, and its ``from``, which is known before any expansion."""

    text: str
    origin: str = ""

    @classmethod
    def parse(cls, text: str) -> MountFlag:
        """Read what does not wait for variables; raise SpecInvalid for a variable in ``from``."""
        origin = ""
        for field in csv_fields(text):
            key, equals, value = field.partition("=")
            if key.lower() == "from" and equals:
                if "$" in value[:-1]:
                    raise SpecInvalid(
                        f"a mount's from cannot have a variable: {value}",
                        mend="begin a stage with FROM and that variable, and name the stage here",
                    )
                origin = value
        return cls(text=text, origin=origin)

    def mount(self, expand: Callable[[str], str]) -> Mount:
        """Return the mount; *expand* replaces the variables of one value.

        The keys are read in order: ``required`` and ``size`` stand behind the ``type`` that
        knows them. Raises SpecInvalid for an unknown key or value, and what the type forbids.
        """
        mount = Mount()
        chosen = sharing = False
        for field in csv_fields(self.text):
            key, value = _read_field(field)
            if value is not None:
                value = expand(value)
            chosen = chosen or key in {"readonly", "readwrite"}
            sharing = sharing or key == "sharing"
            mount = _with(mount, key, value)
        if not chosen:
            mount = replace(mount, read_only=mount.kind not in {"cache", "tmpfs"})
        _check(mount, sharing=sharing)
        return mount


def _read_field(field: str) -> tuple[str, str | None]:
    """Return the key in its canonical spelling and the value, None for a key alone."""
    spelled, equals, value = field.partition("=")
    key = _KEYS.get(spelled.lower(), "")
    if not equals and key not in _SWITCHES:
        raise SpecInvalid(f"the mount option {field!r} has no value", mend="write KEY=VALUE")
    if not key:
        mend = nearest(spelled.lower(), _KEYS) or f"a mount knows {', '.join(sorted(_KEYS))}"
        raise SpecInvalid(f"unknown mount option {spelled!r}", mend=mend)
    return key, value if equals else None


def _with(mount: Mount, key: str, value: str | None) -> Mount:
    """Return *mount* with one option more."""
    if key in _SWITCHES:
        return _with_switch(mount, key, True if value is None else boolean(value, f"a mount's {key}"))
    text = value or ""
    what = f"a mount's {key}"
    match key:
        case "type":
            return replace(mount, kind=cast("MountKind", _one_of(text, _KINDS, what)))
        case "sharing":
            return replace(mount, sharing=cast("Sharing", _one_of(text, _SHARINGS, what)))
        case "size":
            if mount.kind != "tmpfs":
                raise _misplaced(mount, key, "tmpfs")
            return replace(mount, size_bytes=size_bytes(text, what))
        case "mode":
            return replace(mount, mode=unsigned(text, what, base=8))
        case "uid":
            return replace(mount, uid=unsigned(text, what))
        case "gid":
            return replace(mount, gid=unsigned(text, what))
        case _:
            return _with_text(mount, key, text)


def _with_text(mount: Mount, key: str, text: str) -> Mount:
    match key:
        case "from":
            return replace(mount, origin=text)
        case "source":
            return replace(mount, source=text)
        case "target":
            return replace(mount, target=text)
        case "id":
            return replace(mount, id=text)
        case _:
            return replace(mount, env=text)


def _with_switch(mount: Mount, key: str, truth: bool) -> Mount:
    if key == "required":
        if mount.kind not in {"secret", "ssh"}:
            raise _misplaced(mount, key, "secret or ssh")
        return replace(mount, required=truth)
    return replace(mount, read_only=truth if key == "readonly" else not truth)


def _one_of(text: str, known: tuple[str, ...], what: str) -> str:
    if text.lower() in known:
        return text.lower()
    mend = nearest(text.lower(), known) or f"it is one of {', '.join(known)}"
    raise SpecInvalid(f"{what} cannot be {text!r}", mend=mend)


def _misplaced(mount: Mount, key: str, kinds: str) -> SpecInvalid:
    return SpecInvalid(
        f"a {mount.kind} mount has no option {key}", mend=f"it is for type={kinds}, which stands before it"
    )


def _check(mount: Mount, *, sharing: bool) -> None:
    """Raise SpecInvalid for options that do not go together."""
    if mount.kind in {"bind", "tmpfs"}:
        for key, value in (("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)):
            if value is not None:
                raise SpecInvalid(f"a {mount.kind} mount has no option {key}", mend="leave it out")
    if sharing and mount.kind != "cache":
        raise SpecInvalid(f"a {mount.kind} mount has no option sharing", mend="leave it out")
    if mount.kind == "secret":
        if mount.origin:
            raise SpecInvalid("a secret mount has no option from", mend="leave it out")
        if mount.source and mount.id:
            raise SpecInvalid("a secret mount has both source and id", mend="leave one of them out")
        if not (mount.source or mount.id or mount.target):
            raise SpecInvalid("a secret mount has no name", mend="write --mount=type=secret,id=NAME")
