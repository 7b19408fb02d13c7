"""Login and logout: proven first, kept where docker keeps it, and shown nowhere."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageError, ReferenceInvalid, RegistryError, SpecInvalid, Unauthorized
from pytest_containers.images.credentials import HUB_KEY, Keychain
from pytest_containers.images.login import login, logout
from pytest_containers.images.pull import pull
from pytest_containers.images.push import push
from pytest_containers.images.store import Store

if TYPE_CHECKING:
    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Answer, Asked, Faulty, ImageMaker
    from tests.plugins.registries import RegistryStarter

CHALLENGE = {"WWW-Authenticate": 'Basic realm="test"'}


def config_of(settings: Settings) -> Path:
    """Return Docker's file in the test's home folder."""
    return Path(settings.environ["HOME"]) / ".docker" / "config.json"


def write_config(settings: Settings, content: Mapping[str, object]) -> Path:
    """Put *content* in that file."""
    path = config_of(settings)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def packed(name: str, secret: str) -> dict[str, str]:
    """Return an entry as docker writes it."""
    return {"auth": base64.b64encode(f"{name}:{secret}".encode()).decode()}


def helper(settings: Settings, name: str, script: str) -> Settings:
    """Put a credential helper on the PATH that keeps what it is told in a file."""
    folder = Path(settings.environ["HOME"])
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\ncd {folder}\n{script}")
    program.chmod(0o755)
    return replace(settings, environ={**settings.environ, "PATH": f"{folder}:/usr/bin:/bin"})


KEEPER = """
case $1 in
store) cat > kept ;;
get) read key; grep -q "\\"$key\\"" kept 2>/dev/null && cat kept || { echo not found; exit 1; } ;;
erase) rm -f kept ;;
esac
"""


@pytest.mark.kernel
def test_login_to_the_real_registry_opens_it(
    start_registry: RegistryStarter, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """After it a push and a pull need nothing else; after the logout they are refused again."""
    registry = start_registry(password=True)
    name = make_image(b"one").put(store, f"{registry}/app:1")
    with pytest.raises(Unauthorized):
        push(store, name, settings=settings)
    kept_at = login(registry, "alice", "secret", settings=settings)
    assert kept_at == str(config_of(settings))
    assert push(store, name, settings=settings) == pull(store, name, settings=settings).digest
    assert logout(registry, keychain=Keychain(environ=settings.environ))
    with pytest.raises(Unauthorized):
        pull(store, name, settings=settings)


@pytest.mark.kernel
def test_wrong_password_is_refused_and_not_kept(start_registry: RegistryStarter, settings: Settings) -> None:
    """The registry judges before anything is written, and the message does not show what was wrong."""
    registry = start_registry(password=True)
    with pytest.raises(Unauthorized, match="alice") as caught:
        login(registry, "alice", "s3cret-not", settings=settings)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "s3cret-not" not in shown.replace('"s3cret-not"', "")
    assert base64.b64encode(b"alice:s3cret-not").decode() not in shown
    assert not config_of(settings).exists()


def test_login_answers_a_token_server(faulty: Faulty, settings: Settings) -> None:
    """A registry with bearer tokens is proven by a token that was given for the password."""

    def token(asked: Asked) -> Answer:
        right = asked.headers.get("authorization") == "Basic " + packed("eve", "x")["auth"]
        return faulty.answer(body=b'{"token": "t"}') if right else faulty.answer(status=401)

    def ping(asked: Asked) -> Answer:
        if asked.headers.get("authorization") == "Bearer t":
            return faulty.answer()
        realm = {"WWW-Authenticate": f'Bearer realm="{faulty.url}/token",service="s"'}
        return faulty.answer(status=401, headers=realm)

    faulty.on("GET", "/v2/", ping)
    faulty.on("GET", "/token", token)
    login(faulty.host, "eve", "x", settings=settings)
    assert json.loads(config_of(settings).read_text()) == {"auths": {faulty.host: packed("eve", "x")}}
    with pytest.raises(Unauthorized, match="eve"):
        login(faulty.host, "eve", "y", settings=settings)


def test_file_keeps_what_else_is_in_it(faulty: Faulty, settings: Settings) -> None:
    """Only the registry's own entry changes, whatever it was called; the file is for its owner alone."""
    auths = {"r.example": packed("a", "b"), f"https://{faulty.host}/v1/": packed("old", "old")}
    path = write_config(settings, {"psFormat": "x", "auths": auths, "credHelpers": {"other": "vault"}})
    path.chmod(0o644)
    login(faulty.host, "eve", "x:ü", settings=settings)
    assert json.loads(path.read_text()) == {
        "psFormat": "x",
        "auths": {"r.example": packed("a", "b"), faulty.host: packed("eve", "x:ü")},
        "credHelpers": {"other": "vault"},
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["config.json"]
    credential, _ = Keychain(environ=settings.environ).find(faulty.host)
    assert credential is not None
    assert (credential.username, str(credential.password)) == ("eve", "x:ü")


def test_new_file_is_private_with_its_folder(faulty: Faulty, settings: Settings) -> None:
    """Nobody else may list the folder or read the file, whatever the umask."""
    login(f"http://{faulty.host}/v2/", "eve", "x", settings=settings)
    path = config_of(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0


@pytest.mark.kernel
def test_file_stays_its_owners_under_sudo(faulty: Faulty, settings: Settings) -> None:
    """Root, who logs in for a user, leaves the file and a new one to the user."""
    path = write_config(settings, {})
    os.chown(path, 1234, 1235)
    os.chown(path.parent, 1234, 1235)
    for again in (False, True):
        login(faulty.host, "eve", "x", settings=settings)
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if not again:
            path.unlink()


def test_linked_file_stays_a_link(faulty: Faulty, settings: Settings) -> None:
    """Who keeps the file elsewhere and links to it finds the entry there."""
    path = write_config(settings, {})
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")
    login(faulty.host, "eve", "x", settings=settings)
    assert path.is_symlink()
    assert faulty.host in json.loads((path.parent.parent / "elsewhere").read_text())["auths"]


def test_chosen_file_is_written(faulty: Faulty, settings: Settings, tmp_path: Path) -> None:
    """The first place that is read is the one that is written."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        chosen = tmp_path / name.lower()
        path = chosen if name == "REGISTRY_AUTH_FILE" else chosen / "config.json"
        environ = {**settings.environ, name: str(chosen)}
        assert login(faulty.host, "eve", "x", settings=replace(settings, environ=environ)) == str(path)
        assert faulty.host in json.loads(path.read_text())["auths"]


@pytest.mark.parametrize("way", ["credsStore", "credHelpers"])
def test_helper_keeps_the_secret_where_one_is_named(faulty: Faulty, settings: Settings, way: str) -> None:
    """The file has a mark and no secret; the helper gives it to a pull and forgets it at the logout."""
    settings = helper(settings, "keeper", KEEPER)
    named: object = "keeper" if way == "credsStore" else {faulty.host: "keeper"}
    path = write_config(settings, {way: named, "auths": {faulty.host: packed("old", "old")}})
    assert login(faulty.host, "eve", "x", settings=settings) == "docker-credential-keeper"
    assert json.loads(path.read_text()) == {way: named, "auths": {faulty.host: {}}}
    kept = path.parent.parent / "kept"
    assert json.loads(kept.read_text()) == {"ServerURL": faulty.host, "Username": "eve", "Secret": "x"}
    chain = Keychain(environ=settings.environ)
    credential, _ = chain.find(faulty.host)
    assert credential is not None
    assert credential.username == "eve"
    assert logout(faulty.host, keychain=chain)
    assert not kept.exists()
    assert json.loads(path.read_text()) == {way: named, "auths": {}}
    assert not logout(faulty.host, keychain=chain)


def test_helper_that_fails_keeps_nothing_and_tells_nothing(faulty: Faulty, settings: Settings) -> None:
    """What a helper says in its trouble may hold what it was given."""
    settings = helper(settings, "keeper", "cat >&2; exit 1")
    path = write_config(settings, {"credsStore": "keeper"})
    with pytest.raises(ImageError, match="docker-credential-keeper failed") as caught:
        login(faulty.host, "eve", "s3cret", settings=settings)
    assert "s3cret" not in str(caught.value)
    assert json.loads(path.read_text()) == {"credsStore": "keeper"}


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "https://index.docker.io/v1/"])
def test_docker_hub_has_one_entry(settings: Settings, name: str) -> None:
    """Its old URL is its key in every file; a logout removes every spelling."""
    path = write_config(settings, {"auths": {HUB_KEY: packed("a", "b"), "docker.io": {}, "r.example": {}}})
    assert logout(name, keychain=Keychain(environ=settings.environ))
    assert json.loads(path.read_text()) == {"auths": {"r.example": {}}}


@pytest.mark.parametrize("name", ["", "redis", "a b.example", "r.example/team", "r.example:x"])
def test_what_is_no_registry_is_refused(settings: Settings, name: str) -> None:
    """A name of an image or of nothing is not written into a file as a registry."""
    for act in (lambda: login(name, "eve", "x", settings=settings), lambda: logout(name)):
        with pytest.raises(ReferenceInvalid, match="not a registry"):
            act()


@pytest.mark.parametrize(("name", "secret"), [("", "x"), ("eve", ""), ("e:ve", "x"), ("eve", "x\r\ny: z")])
def test_credentials_that_cannot_be_sent_are_refused(
    faulty: Faulty, settings: Settings, name: str, secret: str
) -> None:
    """A colon would move the border between name and password, a line end that of the header."""
    with pytest.raises(SpecInvalid):
        login(faulty.host, name, secret, settings=settings)
    assert faulty.asked == []


def test_broken_file_is_not_overwritten(faulty: Faulty, settings: Settings) -> None:
    """A file that cannot be read is somebody's; the error names it."""
    path = write_config(settings, {})
    path.write_text("{ broken")
    with pytest.raises(ImageError, match=r"config\.json"):
        login(faulty.host, "eve", "x", settings=settings)
    assert path.read_text() == "{ broken"


def test_login_offline_is_refused(settings: Settings) -> None:
    """Nothing can be proven without the registry."""
    with pytest.raises(RegistryError, match="offline"):
        login("r.example", "eve", "x", settings=replace(settings, offline=True))


_LOGIN = """
import os, sys
from pytest_containers.images.login import login
from pytest_containers.images.transport import Settings
login(sys.argv[1], "eve", "x", settings=Settings(environ={"HOME": sys.argv[2]}))
"""


def test_eight_logins_at_once_keep_every_entry(
    faulty: Faulty, settings: Settings, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """Each adds its own registry to the file that the others change."""
    port = faulty.host.rpartition(":")[2]
    hosts = [f"127.0.0.{number}:{port}" for number in range(1, 2)] + [f"localhost:{port}"]
    logins = [python(_LOGIN, host, settings.environ["HOME"]) for host in hosts * 4]
    assert [each.communicate(timeout=60)[1] for each in logins] == [""] * 8
    assert sorted(json.loads(config_of(settings).read_text())["auths"]) == sorted(hosts)
