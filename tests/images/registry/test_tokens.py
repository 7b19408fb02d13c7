"""Bearer tokens at Debian's registry, which checks each by its signature, audience, time and scope."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from pytest_containers.errors import RegistryError, Unauthorized
from pytest_containers.images.pull import pull
from pytest_containers.images.push import push
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Answer, Asked, Faulty, Image, ImageMaker
    from tests.plugins.authority import Authority
    from tests.plugins.registries import RegistryStarter

pytestmark = pytest.mark.kernel

_SERVICE: Final = "the suite's registry"
_ISSUER: Final = "the suite's token server"
_BASIC: Final = "Basic " + base64.b64encode(b"alice:pa55w0rd").decode()
# Distribution takes a token for a minute longer than it says (registry/auth/token, Leeway).
_EXPIRED_S: Final = -120


@dataclass(slots=True)
class TokenServer:
    """A token server that knows alice; *lives* are the lives in seconds of the next tokens, else 300.

    To all others it gives tokens without any right, as token.md wants it. *asked* are the scopes of
    each token, *given* the tokens themselves.
    """

    faulty: Faulty
    authority: Authority
    asked: list[list[str]] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    lives: list[int] = field(default_factory=list)

    @property
    def configuration(self) -> Mapping[str, str]:
        """What the registry has to be told."""
        return {"realm": f"{self.faulty.url}/token", "service": _SERVICE, "issuer": _ISSUER}

    def answer(self, asked: Asked) -> Answer:
        """Give a token (distribution, docs/content/spec/auth/token.md and jwt.md)."""
        query = parse_qs(urlsplit(asked.path).query)
        shown = asked.headers.get("authorization")
        if shown is not None and shown != _BASIC:
            return self.faulty.refusal(401, "UNAUTHORIZED")
        self.asked.append(query.get("scope", []))
        now = int(time.time())
        claims = {
            "iss": _ISSUER,
            "sub": "alice" if shown else "",
            "aud": query["service"][0],
            "iat": now + _EXPIRED_S,
            "nbf": now + _EXPIRED_S,
            "exp": now + (self.lives.pop(0) if self.lives else 300),
            "jti": str(uuid.uuid4()),
            "access": [_access(scope) for scope in self.asked[-1]] if shown else [],
        }
        self.given.append(self.authority.token(claims))
        # A life of its own is not told: the client learns of an early end from the registry.
        return self.faulty.answer(body=json.dumps({"token": self.given[-1], "expires_in": 300}).encode())


def _access(scope: str) -> dict[str, object]:
    kind, name, actions = scope.split(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}


@pytest.fixture
def tokens(faulty: Faulty, authority: Authority) -> TokenServer:
    """Return a token server whose tokens the registries of this process take."""
    server = TokenServer(faulty=faulty, authority=authority)
    faulty.on("GET", "/token", server.answer)
    return server


@pytest.fixture
def registry(tokens: TokenServer, start_registry: RegistryStarter) -> str:
    """Return a registry that lets in who has a token."""
    return start_registry(token=tokens.configuration)


@pytest.fixture
def image(make_image: ImageMaker) -> Image:
    """Return an image of two layers."""
    return make_image(b"one", b"two")


@pytest.fixture
def alice(settings: Settings, registry: str) -> Settings:
    """Return settings with alice's login."""
    return _login(settings, registry, "pa55w0rd")


def _login(settings: Settings, registry: str, password: str) -> Settings:
    entry = {registry: {"username": "alice", "password": password}}
    environ = {**settings.environ, "DOCKER_AUTH_CONFIG": json.dumps({"auths": entry})}
    return replace(settings, environ=environ)


def test_token_opens_the_real_registry(
    tokens: TokenServer, registry: str, alice: Settings, image: Image, store: Store, tmp_path: Path
) -> None:
    """A push and a pull each fetch one token, for what they do and nothing else."""
    name = image.put(store, f"{registry}/app:1")
    assert push(store, name, settings=alice) == image.digest
    assert pull(Store.open(tmp_path / "other"), name, settings=alice).digest == image.digest
    # The registry's own wish comes first, and for HEAD that is to read.
    assert tokens.asked == [["repository:app:pull", "repository:app:pull,push"], ["repository:app:pull"]]


def test_token_covers_source_and_target_of_a_mount(
    tokens: TokenServer, registry: str, alice: Settings, image: Image, store: Store
) -> None:
    """A layer of another repository is mounted by one token for both, and does not travel."""
    push(store, image.put(store, f"{registry}/first"), settings=alice)
    second = image.put(store, f"{registry}/second")
    for layer in image.manifest.layers:
        store.blobs.path(layer.digest).write_bytes(b"not what it was")
    tokens.asked.clear()
    assert push(store, second, settings=alice) == image.digest
    assert tokens.asked == [
        ["repository:second:pull", "repository:second:pull,push"],
        ["repository:second:pull,push", "repository:first:pull"],
    ]


def test_token_that_has_expired_is_renewed_in_the_middle_of_a_push(
    tokens: TokenServer, registry: str, alice: Settings, image: Image, store: Store
) -> None:
    """The registry calls a token of the push expired, a new one is fetched, and the push goes on."""
    push(store, image.put(store, f"{registry}/first"), settings=alice)
    tokens.asked.clear()
    # The first token of the second push is good, that for its mounts is old when it arrives.
    tokens.lives = [300, _EXPIRED_S]
    assert push(store, image.put(store, f"{registry}/second"), settings=alice) == image.digest
    assert [scopes for scopes in tokens.asked if "repository:first:pull" in scopes] == tokens.asked[1:]
    assert len(tokens.asked) == 3


@pytest.mark.parametrize("login", ["a wrong password", None])
def test_token_is_not_had_by_others(
    tokens: TokenServer,
    registry: str,
    settings: Settings,
    image: Image,
    store: Store,
    login: str | None,
) -> None:
    """A wrong password and nobody at all are refused, and no secret is told."""
    name = image.put(store, f"{registry}/app:1")
    theirs = settings if login is None else _login(settings, registry, login)
    with pytest.raises(Unauthorized) as caught:
        push(store, name, settings=theirs)
    told = str(caught.value)
    assert registry in told
    assert not any(secret in told for secret in ("a wrong password", *tokens.given))


def test_token_of_a_stranger_is_refused(
    tokens: TokenServer,
    registry: str,
    stranger: Authority,
    alice: Settings,
    image: Image,
    store: Store,
) -> None:
    """What another authority has signed does not open the registry, whatever it says."""
    tokens.authority = stranger
    with pytest.raises(Unauthorized, match="is not for us"):
        push(store, image.put(store, f"{registry}/app:1"), settings=alice)
    with pytest.raises(Unauthorized, match="is not for us"):
        pull(store, Reference.parse(f"{registry}/another:1"), settings=alice)


Certify = Callable[[str, "Authority | None"], "Settings"]


@pytest.fixture
def certify(settings: Settings, authority: Authority, tmp_path: Path) -> Certify:
    """Return what makes settings that trust the authority, and show a certificate where there is one."""

    def made(registry: str, client: Authority | None) -> Settings:
        root = tmp_path / f"certs-{uuid.uuid4()}"
        folder = root / registry
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(authority.pem())
        if client is not None:
            (folder / "client.cert").write_bytes(client.pem())
            (folder / "client.key").write_bytes(client.key_pem())
        return replace(settings, certificates=(root,))

    return made


def test_client_certificate_opens_the_real_registry(
    start_registry: RegistryStarter,
    authority: Authority,
    certify: Certify,
    image: Image,
    store: Store,
    tmp_path: Path,
) -> None:
    """A registry that wants certificates (``tls.clientcas``) takes a push and a pull of who has one."""
    registry = start_registry(tls=authority, clients=authority)
    name, ours = image.put(store, f"{registry}/app:1"), certify(registry, authority)
    assert push(store, name, settings=ours) == image.digest
    assert pull(Store.open(tmp_path / "other"), name, settings=ours).digest == image.digest


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_client_certificate_of_nobody_known_is_refused(
    start_registry: RegistryStarter,
    authority: Authority,
    stranger: Authority,
    certify: Certify,
    image: Image,
    store: Store,
    who: str,
) -> None:
    """Without a certificate, or with one of another authority, the error speaks of certificates."""
    registry = start_registry(tls=authority, clients=authority)
    name = image.put(store, f"{registry}/app:1")
    theirs = certify(registry, None if who == "nobody" else stranger)
    with pytest.raises(RegistryError, match=registry) as caught:
        push(store, name, settings=theirs)
    assert "certificate" in str(caught.value)
