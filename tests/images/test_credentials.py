"""Credentials: where they are found, for whom, and that they show nowhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_containers.images.credentials import HUB_KEY, Credential, Keychain, Secret


def packed(user: str, password: str) -> dict[str, str]:
    """Return an entry as `docker login` stores it."""
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def keychain(
    home: Path, config: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Keychain:
    """Return a keychain over a home folder that has *config* as Docker's."""
    if config is not None:
        (home / ".docker").mkdir(exist_ok=True)
        (home / ".docker" / "config.json").write_text(json.dumps(config))
    return Keychain(environ={"HOME": str(home), **(environ or {})})


def helper(folder: Path, name: str, script: str) -> str:
    """Put a credential helper into *folder*; return a PATH that finds it."""
    program = folder / f"docker-credential-{name}"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def user_of(found: tuple[Credential | None, str]) -> str:
    """Return whose credential was found, empty for none."""
    return found[0].username if found[0] else ""


@pytest.mark.parametrize(
    ("key", "registry", "found"),
    [
        ("ghcr.io", "ghcr.io", "eve"),
        ("https://ghcr.io", "ghcr.io", "eve"),
        ("https://ghcr.io/v2/", "ghcr.io", "eve"),
        ("127.0.0.1:5000", "127.0.0.1:5000", "eve"),
        (HUB_KEY, "docker.io", "eve"),
        ("docker.io", "docker.io", "eve"),
        ("ghcr.io", "docker.io", ""),
        ("example", "ghcr.io.example", ""),
        ("ghcr.io:5000", "ghcr.io", ""),
        (HUB_KEY, "index.docker.io.example", ""),
    ],
)
def test_credentials_are_for_their_own_host(tmp_path: Path, key: str, registry: str, found: str) -> None:
    """An entry is shown to the host it names, in every spelling of it, and to nobody else."""
    assert user_of(keychain(tmp_path, {"auths": {key: packed("eve", "x")}}).find(registry)) == found


def test_credentials_of_a_repository_come_before_those_of_its_host(tmp_path: Path) -> None:
    """The longest path that has an entry wins (containers-auth.json(5))."""
    chain = keychain(
        tmp_path, {"auths": {"r.example": packed("host", "x"), "r.example/team": packed("team", "x")}}
    )
    assert user_of(chain.find("r.example", "team/app")) == "team"
    assert user_of(chain.find("r.example", "teams/app")) == "host"


def test_credentials_keep_colons_and_letters(tmp_path: Path) -> None:
    """The first colon ends the name; a password may hold more of them, and any letter."""
    credential, _ = keychain(tmp_path, {"auths": {"r": packed("eve", "a:b:ü")}}).find("r")
    assert credential is not None
    assert str(credential.password) == "a:b:ü"
    assert base64.b64decode(credential.basic.partition(" ")[2]).decode() == "eve:a:b:ü"


@pytest.mark.parametrize(
    ("entry", "attribute"),
    [
        ({"username": "eve", "password": "x"}, "password"),
        ({"identitytoken": "x"}, "identity_token"),
        ({"registrytoken": "x"}, "registry_token"),
    ],
)
def test_credentials_come_in_several_forms(tmp_path: Path, entry: dict[str, str], attribute: str) -> None:
    """Plain members and tokens are read as docker writes them."""
    credential, _ = keychain(tmp_path, {"auths": {"r": entry}}).find("r")
    assert getattr(credential, attribute) == "x"


def test_credentials_come_from_the_first_place_that_has_them(tmp_path: Path) -> None:
    """DOCKER_AUTH_CONFIG, then REGISTRY_AUTH_FILE, then Docker's file, then podman's."""
    places = {name: {"auths": {"r": packed(name, "x")}} for name in ("inline", "chosen", "docker", "xdg")}
    (tmp_path / "chosen.json").write_text(json.dumps(places["chosen"]))
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers" / "auth.json").write_text(json.dumps(places["xdg"]))
    environ = {
        "DOCKER_AUTH_CONFIG": json.dumps(places["inline"]),
        "REGISTRY_AUTH_FILE": str(tmp_path / "chosen.json"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    found = []
    for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "docker"):
        found.append(user_of(keychain(tmp_path, places["docker"], environ).find("r")))
        environ.pop(name, None)
    environ["DOCKER_CONFIG"] = str(tmp_path / "nowhere")
    found.append(user_of(keychain(tmp_path, None, environ).find("r")))
    assert found == ["inline", "chosen", "docker", "xdg"]


def test_credentials_from_a_helper(tmp_path: Path) -> None:
    """The helper named for a host is asked for that host, in the helpers' protocol."""
    path = helper(tmp_path, "vault", 'read host; echo "{\\"Username\\":\\"$1-$host\\",\\"Secret\\":\\"s\\"}"')
    chain = keychain(tmp_path, {"credHelpers": {"r.example": "vault"}}, {"PATH": path})
    credential, _ = chain.find("r.example")
    assert credential == Credential(username="get-r.example", password=Secret("s"))


def test_credentials_from_a_store_are_asked_by_the_hub_key(tmp_path: Path) -> None:
    """Docker Hub's entry has its old URL as its name in every store; a token's user is marked."""
    script = f'read host; [ "$host" = {HUB_KEY} ] && echo \'{{"Username":"<token>","Secret":"t"}}\''
    chain = keychain(
        tmp_path, {"credsStore": "desk", "auths": {HUB_KEY: {}}}, {"PATH": helper(tmp_path, "desk", script)}
    )
    credential, _ = chain.find("docker.io")
    assert credential == Credential(identity_token=Secret("t"))


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("echo credentials not found in native keychain; exit 1", "nothing for r"),
        ("echo locked >&2; exit 3", "failed (locked)"),
        ("echo no json with s3cret", "not JSON"),
        ("exit 0", "not JSON"),
    ],
)
def test_credentials_from_a_helper_that_has_none(tmp_path: Path, script: str, word: str) -> None:
    """A helper that fails leaves the pull anonymous, and the sentence says why."""
    chain = keychain(tmp_path, {"credHelpers": {"r": "vault"}}, {"PATH": helper(tmp_path, "vault", script)})
    credential, looked = chain.find("r")
    assert credential is None
    assert word in looked
    assert "s3cret" not in looked


@pytest.mark.parametrize("name", ["../../bin/sh", "a b", "", "-x"])
def test_credentials_helper_is_a_plain_name(tmp_path: Path, name: str) -> None:
    """A configuration cannot name a program outside the PATH as its helper."""
    credential, looked = keychain(tmp_path, {"credHelpers": {"r": name}}).find("r")
    assert credential is None
    assert "not the name of a credential helper" in looked


def test_credentials_helper_that_is_not_installed(tmp_path: Path) -> None:
    """A missing helper is told by name."""
    chain = keychain(tmp_path, {"credHelpers": {"r": "gone"}}, {"PATH": str(tmp_path)})
    assert "docker-credential-gone cannot be run" in chain.find("r")[1]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "not JSON"),
        ('{"auths": {"r": {"auth": "%%%"}}}', "auth is not base64"),
        ('{"auths": []}', "auths is not an object"),
        ('{"credHelpers": {"r": 1}}', "r is not a string"),
    ],
)
def test_credentials_file_that_is_broken_is_told(tmp_path: Path, content: str, word: str) -> None:
    """A broken file does not end a pull that may need no credential; the sentence names it."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(content)
    credential, looked = keychain(tmp_path).find("r")
    assert credential is None
    assert word in looked
    assert "config.json" in looked


def test_credentials_show_in_no_repr(tmp_path: Path) -> None:
    """Neither a credential nor a keychain tells its secrets when printed."""
    credential = Credential(username="eve", password=Secret("p4ss"), identity_token=Secret("t0ken"))
    chain = keychain(tmp_path, None, {"DOCKER_AUTH_CONFIG": '{"auths": {"r": {"password": "p4ss"}}}'})
    shown = repr((credential, chain, credential.basic, chain.find("r"), {"Authorization": credential.basic}))
    assert "p4ss" not in shown
    assert "t0ken" not in shown
    assert credential.basic.partition(" ")[2] not in shown
