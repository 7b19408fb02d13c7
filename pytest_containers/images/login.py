"""Log in and out: prove credentials to a registry, and keep them where docker keeps them.

The form is that of Docker's ``config.json``: an entry below ``auths``, or a credential helper's where
the file names one for the registry (``credHelpers``) or for all (``credsStore``), as in
github.com/docker/cli, cli/config/configfile/file.go. What else the file holds stays as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_containers._files import write_atomic
from pytest_containers.errors import ImageError, ReferenceInvalid, RegistryError, SpecInvalid, Unauthorized
from pytest_containers.images.credentials import (
    Credential,
    Keychain,
    Secret,
    SecretBytes,
    entry_keys,
    host_key,
    run_helper,
)
from pytest_containers.images.document import Fields
from pytest_containers.images.reference import Reference
from pytest_containers.images.registry import Registry
from pytest_containers.images.transport import Settings, Transport

__all__ = ["login", "logout"]

_PRIVATE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown(Keychain):
    """A keychain with one credential, for whoever asks: it is given to one registry alone."""

    credential: Credential

    def find(self, registry: str, repository: str = "") -> tuple[Credential | None, str]:
        where = f"{registry}/{repository}".rstrip("/")
        return self.credential, f"the credentials given for {where}"


def login(
    registry: str,
    username: str,
    secret: str,
    *,
    settings: Settings | None = None,
    keychain: Keychain | None = None,
) -> str:
    """Show user name and password (or access token) to a registry, and keep them where it takes them.

    Return where they are kept: a file's path, or a credential helper's name. A registry that asks
    for no credentials takes any, as with docker. Raises Unauthorized, RegistryError; ReferenceInvalid
    for what is no registry, SpecInvalid for an empty name or password, ImageError where the file
    cannot be read or written. Nothing is kept then.
    """
    secret = Secret(secret)
    credential = _credential(username, secret)
    host = _registry(registry)
    settings = settings or Settings()
    _prove(host, credential, settings)
    keychain = keychain or Keychain(environ=settings.environ)
    with _config(keychain.place) as (path, values):
        return _keep(path, values, host, credential, keychain)


def logout(registry: str, *, keychain: Keychain | None = None) -> bool:
    """Forget the credentials for a registry; tell whether there were any.

    Only the place that `login` writes is changed. Raises ReferenceInvalid, ImageError.
    """
    host = _registry(registry)
    keychain = keychain or Keychain()
    if not keychain.place.exists():
        return False
    with _config(keychain.place) as (path, values):
        fields = Fields(values=values, place=str(path))
        there = False
        for helper, key in _helpers(fields, host):
            name = SecretBytes(key.encode())
            if run_helper(helper, "get", name, keychain.environ) is not None:
                there = True
                run_helper(helper, "erase", name, keychain.environ)
        auths = dict(fields.fields("auths").values)
        kept = {name: entry for name, entry in auths.items() if not _means(name, host)}
        if kept != auths:
            there = True
            _write(path, {**values, "auths": kept})
        return there


def _registry(text: str) -> str:
    """Return the registry as a reference names it; raise ReferenceInvalid."""
    host = host_key(text)
    if host in entry_keys("docker.io", "") or text in entry_keys("docker.io", ""):
        return "docker.io"
    try:
        if Reference.parse(f"{host}/any").registry == host:
            return host
    except ReferenceInvalid as error:
        raise ReferenceInvalid(f"{text[:200]!r} is not a registry", seen=error.seen) from error
    raise ReferenceInvalid(
        f"{text[:200]!r} is not a registry", mend="write a host name with a dot or a port, as host:5000"
    )


def _credential(username: str, secret: Secret) -> Credential:
    if not username or not secret:
        raise SpecInvalid("a login needs a user name and a password", mend="an access token is a password")
    # RFC 7617, 2: the first colon ends the name.
    if ":" in username or not (username + secret).isprintable():
        raise SpecInvalid(
            "user name or password cannot be sent", seen="a colon in the name, or a control character"
        )
    return Credential(username=username, password=secret)


def _prove(host: str, credential: Credential, settings: Settings) -> None:
    if settings.offline:
        raise RegistryError(f"no login to {host}", seen="offline: no registry is asked")
    with Transport(settings) as transport:
        registry = Registry(host, transport=transport, keychain=_Shown(credential=credential, environ={}))
        try:
            # distribution-spec, "Determining Support": 200 at /v2/ for whoever may come in.
            with registry.request("GET", "", ()) as reply:
                if reply.status != 200:
                    raise registry.refusal(reply, f"the login to {host}")
        except Unauthorized as error:
            raise Unauthorized(
                f"{host} does not take these credentials for {credential.username!r}",
                seen=error.seen,
                mend="check name and password; with two-factor login it is an access token that counts",
            ) from error


def _keep(
    path: Path, values: dict[str, object], host: str, credential: Credential, keychain: Keychain
) -> str:
    fields = Fields(values=values, place=str(path))
    key = entry_keys(host, "")[0]
    entry: dict[str, str] = {"auth": Secret(credential.basic.removeprefix("Basic "))}
    kept_at = str(path)
    if helper := next(_helpers(fields, host), None):
        name, key = helper
        said = {"ServerURL": key, "Username": credential.username, "Secret": credential.password}
        if run_helper(name, "store", SecretBytes(json.dumps(said).encode()), keychain.environ) is None:
            raise ImageError(f"docker-credential-{name} did not keep the credentials for {host}")
        # An empty entry is docker's mark that the helper has one.
        entry, kept_at = {}, f"docker-credential-{name}"
    auths = {name: old for name, old in fields.fields("auths").values.items() if not _means(name, host)}
    _write(path, {**values, "auths": {**auths, key: entry}})
    return kept_at


def _helpers(fields: Fields, host: str) -> Iterator[tuple[str, str]]:
    """Yield the helpers in charge of a registry, the first one first, with its name for the entry."""
    keys = entry_keys(host, "")
    named = fields.table("credHelpers")
    yield from ((named[key], key) for key in keys if key in named)
    if store := fields.text("credsStore"):
        yield store, keys[0]


def _means(name: str, host: str) -> bool:
    keys = entry_keys(host, "")
    return name in keys or host_key(name) in keys


@contextlib.contextmanager
def _config(place: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """Yield the file, links followed, and what is in it, with no other login or logout beside."""
    path = place.resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The folder itself is what is locked: no lock file is left beside other people's files.
            fcntl.flock(folder, fcntl.LOCK_EX)
            text = Secret(path.read_text("utf-8")) if path.exists() else Secret("{}")
            yield path, dict(Fields.parse(text.strip() or "{}", str(path)).values)
        finally:
            os.close(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"the credentials in {path} cannot be changed", seen=str(error)) from None


def _write(path: Path, values: dict[str, object]) -> None:
    text = json.dumps(values, indent="\t", ensure_ascii=False) + "\n"
    # Under sudo the file stays its user's, who could not read it any more; a new one is the folder's owner's.
    before = (path if path.exists() else path.parent).stat()
    write_atomic(path, SecretBytes(text.encode("utf-8")), mode=_PRIVATE)
    if os.geteuid() == 0:
        os.chown(path, before.st_uid, before.st_gid)
