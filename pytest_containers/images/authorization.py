"""A registry's challenges and what answers them: Basic, or a bearer token from its token server.

Sources: RFC 9110 section 11 (challenges), RFC 7617 (Basic), and distribution's
docs/content/spec/auth/token.md and oauth.md (bearer tokens, scopes, refresh tokens).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from pytest_containers.errors import ImageError, RegistryError, Unauthorized
from pytest_containers.images.credentials import Credential, Keychain, Secret, SecretBytes
from pytest_containers.images.document import Fields
from pytest_containers.images.origin import Origin, check_hop, printable
from pytest_containers.images.transport import Reply, Transport

__all__ = ["Authorizer", "Challenge", "challenges"]

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - the grammar of RFC 9110, 5.6.2
_PARAMETER = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
# The ="s that may end it are not those of a parameter: nothing stands behind them.
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=[\s,]|$)")
_ANSWER_LIMIT_BYTES = 1 << 20
# token.md: a token without expires_in holds 60 seconds. Ours are renewed a little before.
_DEFAULT_LIFE_S = 60
_MARGIN_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way in that a registry offers; *scheme* is in lower case, as are parameters' names."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    header: Secret
    until: float


def challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """Read WWW-Authenticate headers, in order; what cannot be read is left out."""
    found: list[Challenge] = []
    for value in values:
        at = 0
        while scheme := _SCHEME.match(value, at):
            at = scheme.end()
            parameters: dict[str, str] = {}
            # A scheme's one word (RFC 9110, 11.2, token68), which none of ours has, is passed over.
            if word := _TOKEN68.match(value, at):
                at = word.end()
            while parameter := _PARAMETER.match(value, at):
                at = parameter.end()
                quoted = re.sub(r"\\(.)", r"\1", parameter[2]) if parameter[2] is not None else parameter[3]
                parameters.setdefault(parameter[1].lower(), quoted)
            found.append(Challenge(scheme=scheme[1].lower(), parameters=parameters))
    return tuple(found)


class Authorizer:
    """What is shown to one registry; safe between threads. Credentials are read when first asked for."""

    def __init__(self, *, host: str, origin: Origin, transport: Transport, keychain: Keychain) -> None:
        self._host = host
        self._origin = origin
        self._transport = transport
        self._keychain = keychain
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._credential: Credential | None = None
        self._looked = ""
        self._grants: dict[frozenset[str], _Grant] = {}

    def header(self, scopes: Iterable[str]) -> Secret | None:
        """Return the Authorization header for *scopes*; None before the registry has asked for one."""
        with self._lock:
            challenge = self._challenge
            if challenge is None:
                return None
            grant = self._grants.get(frozenset(scopes))
            if grant is None or grant.until <= self._transport.settings.clock():
                grant = self._grant(challenge, tuple(scopes))
            return grant.header if grant is not None else None

    def answer(self, reply: Reply, scopes: tuple[str, ...], shown: Secret | None, repository: str) -> bool:
        """Take a reply of status 401 to heart; return whether the request is worth a second try."""
        offered = [
            c for c in challenges(reply.headers("WWW-Authenticate")) if c.scheme in ("bearer", "basic")
        ]
        with self._lock:
            key = frozenset(scopes)
            newer = self._grants.get(key)
            if newer is not None and newer.header != shown:
                return True
            if not offered:
                return False
            self._look(repository)
            # Bearer before Basic where both are offered: it shows the password to fewer.
            self._challenge = min(offered, key=lambda challenge: challenge.scheme != "bearer")
            self._grants.pop(key, None)
            # The registry's own scopes go first: it knows best which are missing.
            named = tuple(self._challenge.parameters.get("scope", "").split())
            grant = self._grant(self._challenge, tuple(dict.fromkeys((*named, *scopes))))
            if grant is None or grant.header == shown:
                return False
            self._grants[key] = grant
            return True

    @property
    def looked(self) -> str:
        """Where credentials were looked for, for a message."""
        return self._looked or "no credentials were asked for"

    def redacted(self, text: str) -> str:
        """Return *text* with every secret that was shown cut out of it."""
        credential = self._credential
        secrets = list(credential.secrets) if credential is not None else []
        secrets += [str(grant.header).partition(" ")[2] for grant in tuple(self._grants.values())]
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***") if secret else text
        return text

    def _look(self, repository: str) -> None:
        if not self._looked:
            self._credential, self._looked = self._keychain.find(self._host, repository)

    def _grant(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Grant | None:
        credential = self._credential
        if challenge.scheme == "basic":
            if credential is None or not credential.password:
                return None
            grant = _Grant(header=credential.basic, until=float("inf"))
        elif credential is not None and credential.registry_token:
            grant = _Grant(header=Secret(f"Bearer {credential.registry_token}"), until=float("inf"))
        else:
            grant = self._fetch(challenge, scopes)
        self._grants[frozenset(scopes)] = grant
        return grant

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Grant:
        realm = challenge.parameters.get("realm", "")
        if not realm:
            raise RegistryError(f"{self._host} asks for a token and does not say where to get one")
        check_hop(self._origin, Origin.of(realm), self._transport.settings.insecure)
        service = challenge.parameters.get("service", "")
        reply, answer = self._transport.whole(
            lambda: self._exchange(realm, service, scopes) or self._ask(realm, service, scopes),
            _ANSWER_LIMIT_BYTES,
        )
        said, answer = Secret(answer.decode("utf-8", "replace")), SecretBytes()
        if reply.status != 200:
            kind = Unauthorized if reply.status in (400, 401, 403) else RegistryError
            raise kind(
                f"{self._host} gives no token",
                seen=f"{printable(realm)} answers {reply.status}; {self._looked}",
                mend=f"check the credentials for {self._host}",
            )
        return _read_grant(said, self._host, self._transport.settings.clock())

    def _exchange(self, realm: str, service: str, scopes: tuple[str, ...]) -> Reply | None:
        """Turn an identity token into an access token (oauth.md); None where that is not possible."""
        if self._credential is None or not self._credential.identity_token:
            return None
        fields = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": "pytest-containers",
            "scope": " ".join(scopes),
            "refresh_token": self._credential.identity_token,
        }
        form = Secret(urlencode(fields))
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(form))}
        # Made inside the call, so that no frame of a traceback holds it as bytes.
        reply = self._transport.send("POST", realm, headers=headers, body=lambda: [form.encode("ascii")])
        # A token server of before OAuth2 has no POST (go-containerregistry, transport/bearer.go).
        if reply.status not in (404, 405):
            return reply
        reply.close()
        return None

    def _ask(self, realm: str, service: str, scopes: tuple[str, ...]) -> Reply:
        credential = self._credential
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        headers: dict[str, str] = {}
        if credential is not None and credential.password:
            query.append(("account", credential.username))
            headers["Authorization"] = credential.basic
        glue = "&" if "?" in realm else "?"
        return self._transport.send(
            "GET", realm + (glue + urlencode(query) if query else ""), headers=headers
        )


def _read_grant(said: Secret, host: str, now: float) -> _Grant:
    try:
        fields = Fields.parse(said, "the token server's answer")
        token = Secret(fields.text("token") or fields.text("access_token"))
        life_s = fields.whole("expires_in") or _DEFAULT_LIFE_S
    except ImageError as error:
        # The cause may quote the answer, token and all.
        raise RegistryError(f"{host} gives no token", seen=error.what) from None
    if not token or not token.isascii() or not token.isprintable():
        raise RegistryError(f"{host} gives no token", seen="neither token nor access_token in the answer")
    return _Grant(header=Secret(f"Bearer {token}"), until=now + max(life_s - _MARGIN_S, 1))
