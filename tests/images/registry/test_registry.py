"""One registry: challenges answered, credentials kept in place, refusals told in its own words."""

from __future__ import annotations

import base64
import json
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from pytest_containers.errors import ImageNotFound, RegistryError, Unauthorized
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.pull import pull
from pytest_containers.images.push import push
from pytest_containers.images.reference import Reference
from pytest_containers.images.registry import Registry
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings, Transport

if TYPE_CHECKING:
    from pathlib import Path

    from tests.images.registry.conftest import Answer, Asked, Faulty, ImageMaker
    from tests.plugins.registries import RegistryStarter

PASSWORD = "pa55w0rd"


def logged_in(settings: Settings, host: str, entry: dict[str, str] | None = None) -> Settings:
    """Return settings whose user has logged in to *host*."""
    auth = {"auth": base64.b64encode(f"alice:{PASSWORD}".encode()).decode()}
    config = json.dumps({"auths": {host: entry or auth}})
    return replace(settings, environ={**settings.environ, "DOCKER_AUTH_CONFIG": config})


def guard(faulty: Faulty, wanted: str, challenge: str) -> None:
    """Let *faulty* give its manifest ``app:latest`` only to requests with *wanted* as Authorization."""

    def act(asked: Asked) -> Answer:
        if asked.headers.get("authorization") == wanted:
            return faulty.answer(body=b"{}")
        refused = faulty.refusal(401, "UNAUTHORIZED")
        return replace(refused, headers={"WWW-Authenticate": challenge})

    faulty.on("GET", "/v2/app/manifests/latest", act)


def read(faulty: Faulty, settings: Settings) -> bytes:
    """Return the manifest ``app:latest`` of *faulty*."""
    with Transport(settings) as transport:
        registry = Registry(faulty.host, transport=transport, keychain=Keychain(environ=settings.environ))
        return registry.manifest("app", "latest")[0]


def query(asked: Asked) -> dict[str, list[str]]:
    """Return the query of a request."""
    return parse_qs(urlsplit(asked.path).query)


def test_basic_challenge_is_answered(faulty: Faulty, settings: Settings) -> None:
    """A registry that asks for Basic gets user and password, on the second request and not before."""
    wanted = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
    guard(faulty, wanted, 'Basic realm="x"')
    assert read(faulty, logged_in(settings, faulty.host)) == b"{}"
    shown = [asked.headers.get("authorization") for asked in faulty.asked if "manifests" in asked.path]
    assert shown == [None, wanted]


@pytest.mark.kernel
def test_basic_challenge_of_the_real_registry(
    start_registry: RegistryStarter, make_image: ImageMaker, store: Store, settings: Settings, tmp_path: Path
) -> None:
    """Debian's registry with a password file takes our push and pull, and refuses who has none."""
    host = start_registry(password=True)
    reference = make_image(b"x").put(store, f"{host}/app")
    auth = {"username": "alice", "password": "secret"}
    push(store, reference, settings=logged_in(settings, host, auth))
    second = Store.open(tmp_path / "second")
    with pytest.raises(Unauthorized, match="no credential file"):
        pull(second, reference, settings=settings)
    with pytest.raises(Unauthorized):
        pull(second, reference, settings=logged_in(settings, host, {"username": "alice", "password": "no"}))
    assert pull(second, reference, settings=logged_in(settings, host, auth)).reference == str(reference)


@pytest.mark.parametrize("member", ["token", "access_token"])
def test_bearer_token_is_fetched_for_the_scope(
    faulty: Faulty, other: Faulty, settings: Settings, member: str
) -> None:
    """The token server is asked for this repository; both names of the answer's member are taken."""
    guard(faulty, "Bearer t0k", f'Bearer realm="{other.url}/token",service="reg"')
    other.on("GET", "/token", other.answer(body=json.dumps({member: "t0k"}).encode()))
    assert read(faulty, settings) == b"{}"
    assert query(other.asked[0]) == {"service": ["reg"], "scope": ["repository:app:pull"]}
    assert "authorization" not in other.asked[0].headers


def test_bearer_token_that_breaks_off_is_asked_for_again(
    faulty: Faulty, other: Faulty, settings: Settings
) -> None:
    """A token server's answer that is cut short is no refusal."""
    guard(faulty, "Bearer t0k", f'Bearer realm="{other.url}/token"')
    whole = other.answer(body=b'{"token": "t0k"}')
    other.on("GET", "/token", replace(whole, cut=5), whole)
    assert read(faulty, settings) == b"{}"


def test_bearer_scope_of_the_registry_goes_first(faulty: Faulty, other: Faulty, settings: Settings) -> None:
    """A scope that the challenge names is asked for before our own."""
    guard(faulty, "Bearer t", f'Bearer realm="{other.url}/token",scope="repository:real/app:pull"')
    other.on("GET", "/token", other.answer(body=b'{"token": "t"}'))
    read(faulty, settings)
    assert query(other.asked[0])["scope"] == ["repository:real/app:pull", "repository:app:pull"]


def test_bearer_token_server_gets_the_password(faulty: Faulty, other: Faulty, settings: Settings) -> None:
    """Who has logged in shows so to the token server that the registry names."""
    guard(faulty, "Bearer t", f'Bearer realm="{other.url}/token?a=1"')
    other.on("GET", "/token", other.answer(body=b'{"token": "t"}'))
    read(faulty, logged_in(settings, faulty.host))
    assert other.asked[0].headers["authorization"].startswith("Basic ")
    assert query(other.asked[0])["account"] == ["alice"]
    assert query(other.asked[0])["a"] == ["1"]


def test_bearer_identity_token_is_exchanged(faulty: Faulty, other: Faulty, settings: Settings) -> None:
    """An identity token goes into the body of a POST, never into a URL (oauth.md)."""
    guard(faulty, "Bearer t", f'Bearer realm="{other.url}/token",service="reg"')
    other.on("POST", "/token", other.answer(body=b'{"access_token": "t"}'))
    read(faulty, logged_in(settings, faulty.host, {"identitytoken": PASSWORD}))
    form = parse_qs(other.asked[0].body.decode())
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == [PASSWORD]
    assert PASSWORD not in other.asked[0].path


def test_bearer_identity_token_falls_back_to_get(faulty: Faulty, other: Faulty, settings: Settings) -> None:
    """A token server without POST is asked as before OAuth2."""
    guard(faulty, "Bearer t", f'Bearer realm="{other.url}/token"')
    other.on("GET", "/token", other.answer(body=b'{"token": "t"}'))
    read(faulty, logged_in(settings, faulty.host, {"identitytoken": PASSWORD}))
    assert [asked.method for asked in other.asked] == ["POST", "GET"]


def test_bearer_registry_token_is_shown_as_it_is(faulty: Faulty, other: Faulty, settings: Settings) -> None:
    """A stored access token needs no token server."""
    guard(faulty, f"Bearer {PASSWORD}", f'Bearer realm="{other.url}/token"')
    read(faulty, logged_in(settings, faulty.host, {"registrytoken": PASSWORD}))
    assert other.asked == []


def test_bearer_token_is_used_until_it_is_refused(faulty: Faulty, other: Faulty, settings: Settings) -> None:
    """One token serves many requests; a refused one is replaced, once."""
    tokens = ["first", "second"]
    other.on("GET", "/token", *(other.answer(body=json.dumps({"token": token}).encode()) for token in tokens))
    challenge = f'Bearer realm="{other.url}/token"'
    with Transport(settings) as transport:
        registry = Registry(faulty.host, transport=transport, keychain=Keychain(environ=settings.environ))
        guard(faulty, "Bearer first", challenge)
        for _ in range(3):
            registry.manifest("app", "latest")
        assert len(other.asked) == 1
        guard(faulty, "Bearer second", challenge)
        registry.manifest("app", "latest")
        assert len(other.asked) == 2


@pytest.mark.parametrize(("told", "life_s"), [({"expires_in": 300}, 290), ({"expires_in": 5}, 1), ({}, 50)])
def test_bearer_token_is_renewed_before_its_end(
    faulty: Faulty, other: Faulty, settings: Settings, told: dict[str, int], life_s: int
) -> None:
    """Ten seconds before a token ends the next request brings a new one; no word means a minute."""
    now = [1000.0]
    guard(faulty, "Bearer t", f'Bearer realm="{other.url}/token"')
    other.on("GET", "/token", other.answer(body=json.dumps({"token": "t", **told}).encode()))
    with Transport(replace(settings, clock=lambda: now[0])) as transport:
        registry = Registry(faulty.host, transport=transport, keychain=Keychain(environ=settings.environ))
        registry.manifest("app", "latest")
        now[0] += life_s - 0.5
        registry.manifest("app", "latest")
        assert len(other.asked) == 1
        now[0] += 1
        registry.manifest("app", "latest")
        assert len(other.asked) == 2


def test_bearer_is_taken_before_basic(faulty: Faulty, other: Faulty, settings: Settings) -> None:
    """Where a registry offers both, the password goes to the token server alone."""
    guard(faulty, "Bearer t", f'Basic realm="x", Bearer realm="{other.url}/token"')
    other.on("GET", "/token", other.answer(body=b'{"token": "t"}'))
    assert read(faulty, logged_in(settings, faulty.host)) == b"{}"


@pytest.mark.parametrize(
    ("realm", "word"),
    [
        ("http://192.0.2.1/token", "leads on"),
        ("http://169.254.169.254/token", "leads on"),
        ("https://169.254.169.254/token", "leads on"),
        ("file:///etc/passwd", "not an http or https URL"),
        ("//x", "not an http or https URL"),
        ("", "does not say where"),
    ],
)
def test_bearer_realm_elsewhere_gets_nothing(
    faulty: Faulty, settings: Settings, realm: str, word: str
) -> None:
    """A token server by plain http, or at an address of the machine's own, is never asked."""
    guard(faulty, "Bearer t", f'Bearer realm="{realm}"')
    with pytest.raises(RegistryError, match=word):
        read(faulty, logged_in(settings, faulty.host))


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (401, b"", "answers 401"),
        (403, b"", "answers 403"),
        (404, b"", "answers 404"),
        (200, b"no json", "not JSON"),
        (200, b"{}", "neither token nor access_token"),
        (200, b'{"token": "a\\nb"}', "neither token nor access_token"),
        (200, b'{"token": 5}', "not a string"),
    ],
)
def test_bearer_token_that_is_none(
    faulty: Faulty, other: Faulty, settings: Settings, status: int, body: bytes, word: str
) -> None:
    """A token server that gives none is one error that names the registry."""
    guard(faulty, "Bearer t", f'Bearer realm="{other.url}/token"')
    other.on("GET", "/token", other.answer(status=status, body=body))
    with pytest.raises(RegistryError, match=word) as caught:
        read(faulty, settings)
    assert faulty.host in str(caught.value)


def test_denied_image_says_where_credentials_were_looked_for(faulty: Faulty, settings: Settings) -> None:
    """Without credentials the error says which places were looked at, and how to log in."""
    guard(faulty, "never", 'Basic realm="x"')
    with pytest.raises(Unauthorized, match="no credential file on this machine") as caught:
        read(faulty, settings)
    assert f"log in to {faulty.host}" in str(caught.value)


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Digest realm=x"])
def test_challenge_that_we_cannot_answer(faulty: Faulty, settings: Settings, challenge: str) -> None:
    """A challenge of another scheme is refused after one request."""
    guard(faulty, "never", challenge)
    with pytest.raises(Unauthorized):
        read(faulty, logged_in(settings, faulty.host))
    assert len([asked for asked in faulty.asked if "manifests" in asked.path]) == 1


def test_credentials_stay_with_the_registry_when_it_redirects(
    faulty: Faulty, other: Faulty, make_image: ImageMaker, store: Store, settings: Settings
) -> None:
    """A blob that the registry sends us elsewhere for is fetched there without Authorization."""
    image = make_image(b"x")
    faulty.hold("app", image)
    blob = image.manifest.layers[0].digest
    location = {"Location": f"{other.url}/storage?signature=s"}

    def act(asked: Asked) -> Answer:
        if "authorization" not in asked.headers:
            return replace(faulty.refusal(401, "NO"), headers={"WWW-Authenticate": 'Basic realm="x"'})
        return faulty.answer(status=307, headers=location)

    faulty.on("GET", f"/v2/app/blobs/{blob}", act)
    other.on("GET", "/storage", other.ranged(image.blobs[blob]))
    pull(store, Reference.parse(f"{faulty.host}/app"), settings=logged_in(settings, faulty.host))
    assert [asked.path for asked in other.asked] == ["/storage?signature=s"]
    assert "authorization" not in other.asked[0].headers


def test_secrets_show_in_no_message_and_no_traceback(
    faulty: Faulty, other: Faulty, settings: Settings
) -> None:
    """A registry that echoes what it was shown, and a traceback with every local, tell no secret."""
    token = "t0ken-of-the-server"
    guard(faulty, "never", f'Bearer realm="{other.url}/token"')

    def echo(asked: Asked) -> Answer:
        shown = asked.headers.get("authorization", "")
        challenge = {"WWW-Authenticate": f'Bearer realm="{other.url}/token"'}
        return faulty.refusal(403 if shown else 401, "DENIED", f"not for {shown}", challenge)

    faulty.on("GET", "/v2/app/manifests/latest", echo)
    other.on("GET", "/token", other.answer(body=json.dumps({"token": token}).encode()))
    known = logged_in(settings, faulty.host)
    with pytest.raises(Unauthorized) as caught:
        read(faulty, known)
    assert "not for Bearer ***" in str(caught.value)
    _assert_silent(caught.value, token)


def test_secrets_show_in_no_traceback_of_a_broken_connection(faulty: Faulty, settings: Settings) -> None:
    """Also where the connection breaks while the secret is being sent."""
    guard(faulty, "never", 'Basic realm="x"')
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    refused = replace(faulty.refusal(401, "NO"), headers=challenge)
    faulty.on("GET", "/v2/app/manifests/latest", refused, faulty.answer(length=False, cut=0, status=0))
    with pytest.raises(RegistryError, match="broke off") as caught:
        read(faulty, logged_in(settings, faulty.host))
    _assert_silent(caught.value, base64.b64encode(f"alice:{PASSWORD}".encode()).decode())


def _assert_silent(error: BaseException, secret: str) -> None:
    """Fail where the whole traceback, locals included, shows the secret or the password."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    # The first frames are the test's own, which knows the secrets.
    del shown.stack[:2]
    text = "".join(shown.format())
    assert secret not in text
    assert PASSWORD not in text


def test_refusal_of_too_many_requests_says_how_long(faulty: Faulty, settings: Settings) -> None:
    """A rate limit is told as one, with the wait that the registry asks for, after one request."""
    limit = faulty.refusal(429, "TOOMANYREQUESTS", "pull rate limit", {"Retry-After": "3600"})
    faulty.on("GET", "/v2/app/manifests/latest", limit)
    with pytest.raises(RegistryError, match="wait 3600 s") as caught:
        read(faulty, settings)
    assert "pull rate limit" in str(caught.value)
    assert len(faulty.paths("GET")) == 2


def test_refusal_tells_how_often_was_asked(faulty: Faulty, settings: Settings) -> None:
    """A registry that stays overloaded, or breaks off each time, is told with the number of tries."""
    path = "/v2/app/manifests/latest"
    faulty.on("GET", path, faulty.refusal(503, "UNAVAILABLE"))
    with pytest.raises(RegistryError, match=rf"status 503 from {faulty.host} \(4 tries\)"):
        read(faulty, settings)
    faulty.on("GET", path, faulty.answer(status=0, length=False, cut=0))
    with pytest.raises(RegistryError, match=r"\(4 tries\)"):
        read(faulty, settings)
    faulty.on("GET", path, faulty.refusal(404, "UNKNOWN"))
    with pytest.raises(ImageNotFound) as caught:
        read(faulty, settings)
    assert "tries" not in str(caught.value)


def test_refusal_is_told_in_the_registrys_words(faulty: Faulty, settings: Settings) -> None:
    """Code and message of the error's body are shown, without control characters."""
    faulty.on("GET", "/v2/app/manifests/latest", faulty.refusal(400, "NAME_INVALID", "bad \x1b[31mname"))
    with pytest.raises(RegistryError, match=r"NAME_INVALID bad \[31mname"):
        read(faulty, settings)


@pytest.mark.parametrize("body", [b"<html>", b"", b'{"errors": 1}', b"\xff"])
def test_refusal_without_words_is_told_by_its_status(faulty: Faulty, settings: Settings, body: bytes) -> None:
    """An error page of something in between is no reason to fail twice."""
    faulty.on("GET", "/v2/app/manifests/latest", faulty.answer(status=404, body=body))
    with pytest.raises(ImageNotFound, match="status 404"):
        read(faulty, settings)


def test_docker_hub_is_spoken_to_at_its_other_name(other: Faulty, settings: Settings) -> None:
    """docker.io's protocol is spoken by registry-1.docker.io, by TLS and nothing else."""
    proxied = replace(settings, environ={"https_proxy": other.url}, attempts=1)
    with Transport(proxied) as transport, pytest.raises(RegistryError):
        Registry("docker.io", transport=transport, keychain=Keychain(environ={})).manifest("library/x", "y")
    assert [(asked.method, asked.path) for asked in other.asked] == [("CONNECT", "registry-1.docker.io:443")]
