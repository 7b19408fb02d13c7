"""What this machine's user has to show to a registry, from where docker and podman keep it.

Order: ``DOCKER_AUTH_CONFIG`` (the content itself), ``REGISTRY_AUTH_FILE``, Docker's ``config.json``
(below ``DOCKER_CONFIG`` or ``~/.docker``), podman's ``auth.json`` (containers-auth.json(5)). In one
file a credential helper that is named for the host comes before a stored entry, as in
github.com/docker/cli, cli/config/configfile/file.go. Nothing is read before a registry asks.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_containers.errors import ImageError
from pytest_containers.images.document import Fields
from pytest_containers.images.reference import DEFAULT_REGISTRY

__all__ = [
    "HUB_KEY",
    "Credential",
    "Keychain",
    "Secret",
    "SecretBytes",
    "entry_keys",
    "host_key",
    "run_helper",
]

HUB_KEY = "https://index.docker.io/v1/"
_HUB_KEYS = (HUB_KEY, DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io")
# The user name by which a helper says that the secret is an identity token (docker-credential-helpers).
_TOKEN_USER = "<token>"  # noqa: S105 - a marker, no password
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HELPER_TIMEOUT_S = 30.0


class Secret(str):
    """A string that shows neither in a repr nor in the locals of a traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class SecretBytes(bytes):
    """Bytes with a secret in them, for what takes no string; shown nowhere either."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "b'***'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """User and password, or a token in their place.

    *identity_token* is exchanged for an access token (OAuth2 refresh token); *registry_token* is
    an access token already.
    """

    username: str = ""
    password: Secret = field(default=Secret(""), repr=False)
    identity_token: Secret = field(default=Secret(""), repr=False)
    registry_token: Secret = field(default=Secret(""), repr=False)

    @property
    def basic(self) -> Secret:
        """The value of an Authorization header of scheme Basic (RFC 7617), UTF-8."""
        pair = f"{self.username}:{self.password}".encode()
        return Secret("Basic " + base64.b64encode(pair).decode("ascii"))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in a message."""
        both = (self.password, self.identity_token, self.registry_token, self.basic.removeprefix("Basic "))
        return tuple(str(secret) for secret in both if secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keychain:
    """The places to look for credentials, in order; see the module's text for the defaults."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    home: Path | None = None

    def find(self, registry: str, repository: str = "") -> tuple[Credential | None, str]:
        """Return the credential for *registry*, and a sentence on where was looked.

        *repository* narrows it: podman's files may hold an entry for a path below a registry. A
        file or helper that is broken is told in the sentence and the next place is tried, since
        most pulls need no credential at all.
        """
        seen: list[str] = []
        for place, content in self._documents():
            try:
                credential = _from_file(Fields.parse(content, place), registry, repository, self.environ)
            except ImageError as error:
                seen.append(f"{error.what} ({error.seen})" if error.seen else error.what)
                continue
            if credential is not None:
                return credential, f"credentials from {place}"
            seen.append(f"nothing for {registry} in {place}")
        return None, "; ".join(seen) or "no credential file on this machine"

    @property
    def place(self) -> Path:
        """The file that a login writes: the first that is read."""
        return next(self._files())

    def _documents(self) -> Iterator[tuple[str, str]]:
        inline = Secret(self.environ.get("DOCKER_AUTH_CONFIG", ""))
        if inline.strip():
            yield "DOCKER_AUTH_CONFIG", inline
        for path in self._files():
            try:
                yield str(path), Secret(path.read_text("utf-8", "replace"))
            except FileNotFoundError:
                continue
            except OSError as error:
                # Becomes "... is not JSON" with the reason, in the caller's sentence.
                yield f"{path} ({error.strerror})", ""

    def _files(self) -> Iterator[Path]:
        home = self.home or Path(self.environ.get("HOME") or "/")
        if chosen := self.environ.get("REGISTRY_AUTH_FILE"):
            yield Path(chosen)
        yield Path(self.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
        if runtime := self.environ.get("XDG_RUNTIME_DIR"):
            yield Path(runtime) / "containers" / "auth.json"
        yield Path(self.environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"


def _from_file(file: Fields, registry: str, repository: str, environ: Mapping[str, str]) -> Credential | None:
    for key in entry_keys(registry, repository):
        if key in file.table("credHelpers"):
            return _ask_helper(file.table("credHelpers")[key], key, environ)
    if stored := _from_auths(file.fields("auths"), registry, repository):
        return stored
    store = file.text("credsStore")
    return _ask_helper(store, entry_keys(registry, "")[0], environ) if store else None


def entry_keys(registry: str, repository: str) -> tuple[str, ...]:
    """Return the names an entry may have, the most special first: repository, its parents, host."""
    if registry in _HUB_KEYS:
        return _HUB_KEYS
    parts = repository.split("/") if repository else []
    paths = ["/".join([registry, *parts[:length]]) for length in range(len(parts), 0, -1)]
    return (*paths, registry)


def _from_auths(auths: Fields, registry: str, repository: str) -> Credential | None:
    plain = {host_key(name): name for name in auths.values}
    for key in entry_keys(registry, repository):
        name = key if key in auths.values else plain.get(key)
        if name is None:
            continue
        credential = _from_entry(auths.fields(name))
        if credential is not None:
            return credential
    return None


def host_key(name: str) -> str:
    """Return the host that an entry's name means: old docker wrote ``https://host/v1/``."""
    bare = name.removeprefix("https://").removeprefix("http://").rstrip("/")
    return bare.removesuffix("/v1").removesuffix("/v2")


def _from_entry(entry: Fields) -> Credential | None:
    username, password = entry.text("username"), entry.text("password")
    packed = entry.text("auth")
    if packed:
        try:
            pair = base64.b64decode(packed, validate=True).decode("utf-8").rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            # The cause would carry the bytes into a traceback.
            raise ImageError(f"{entry.place}: auth is not base64 of user:password") from None
        username, _, password = pair.partition(":")
    identity, registry_token = entry.text("identitytoken"), entry.text("registrytoken")
    if not (password or identity or registry_token):
        # `docker login` with a credential store leaves an empty entry behind as a mark.
        return None
    return Credential(
        username=username,
        password=Secret(password),
        identity_token=Secret(identity),
        registry_token=Secret(registry_token),
    )


def _ask_helper(name: str, key: str, environ: Mapping[str, str]) -> Credential | None:
    said = run_helper(name, "get", SecretBytes(key.encode()), environ)
    if said is None:
        return None
    answer = _helper_answer(said, f"docker-credential-{name}")
    username, secret = answer.text("Username"), Secret(answer.text("Secret"))
    if username == _TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username=username, password=secret) if secret else None


def run_helper(name: str, action: str, said: SecretBytes, environ: Mapping[str, str]) -> bytes | None:
    """Run ``docker-credential-NAME ACTION`` on *said*; return its output, None where it has no entry.

    Source: github.com/docker/docker-credential-helpers, README. Raises ImageError.
    """
    if _HELPER_NAME.fullmatch(name) is None:
        raise ImageError(f"{name[:80]!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    path = shutil.which(program, path=environ.get("PATH"))
    if path is None:
        raise ImageError(f"{program} cannot be run", seen="it is in no folder of PATH")
    try:
        done = subprocess.run(
            [path, action],
            input=said,
            capture_output=True,
            timeout=_HELPER_TIMEOUT_S,
            env=dict(environ),
            check=False,
        )
    except OSError as error:
        raise ImageError(f"{program} cannot be run", seen=error.strerror or "") from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"{program} did not answer within {_HELPER_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        # Helpers say so on stdout: "credentials not found in native keychain".
        answer = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
        if "not found" in answer:
            return None
        # What it was given may come back in its complaint.
        seen = answer[:200] if action != "store" else f"exit code {done.returncode}"
        raise ImageError(f"{program} failed", seen=seen)
    return done.stdout


def _helper_answer(said: bytes, program: str) -> Fields:
    try:
        return Fields.parse(said, f"the answer of {program}")
    except ImageError:
        raise ImageError(f"the answer of {program} is not JSON") from None
