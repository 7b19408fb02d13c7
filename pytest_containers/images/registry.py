"""One registry, spoken to in the words of the distribution specification.

Source: github.com/opencontainers/distribution-spec, spec.md. Credentials are shown to the
registry's own origin and to the token server it names, never to where it redirects.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial

from pytest_containers.errors import (
    DigestMismatch,
    ImageError,
    ImageNotFound,
    RegistryError,
    Unauthorized,
)
from pytest_containers.images.authorization import Authorizer
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.digest import Digest
from pytest_containers.images.document import Fields
from pytest_containers.images.manifest import ACCEPTED, MANIFEST_LIMIT_BYTES, Descriptor
from pytest_containers.images.origin import Origin, check_hop, printable, resolved
from pytest_containers.images.reference import DEFAULT_REGISTRY
from pytest_containers.images.transport import Body, Reply, Sink, Transport

__all__ = ["Registry", "check_digest", "pull_scope", "push_scope"]

# Docker Hub's name and the host that speaks its protocol differ since 2013.
_API_HOSTS: Mapping[str, str] = {DEFAULT_REGISTRY: "registry-1.docker.io"}
_ERROR_LIMIT_BYTES = 64 << 10


class Registry:
    """A registry, or a mirror of one: *place* is ``host[:port][/prefix]``. Safe between threads."""

    def __init__(self, place: str, *, transport: Transport, keychain: Keychain) -> None:
        bare = place.removeprefix("https://").removeprefix("http://").rstrip("/")
        self.host, _, prefix = bare.partition("/")
        self._prefix = prefix + "/" if prefix else ""
        self._transport = transport
        self._keychain = keychain
        self._lock = threading.Lock()
        self._met: tuple[str, Authorizer] | None = None

    def __str__(self) -> str:
        return self.host + ("/" + self._prefix.rstrip("/") if self._prefix else "")

    def manifest(self, repository: str, target: str) -> tuple[bytes, str]:
        """Return a manifest's bytes and Content-Type; *target* is a tag or a digest.

        The bytes are checked against *target* where it is a digest. For a tag nothing is there to
        check against: too many registries send a wrong Docker-Content-Digest (go-containerregistry,
        pkg/v1/remote/fetcher.go). Raises ImageNotFound, DigestMismatch, Unauthorized, RegistryError.
        """
        what = f"{self}/{repository}{'@' if ':' in target else ':'}{target}"

        def ask() -> Reply:
            reply = self.request(
                "GET",
                f"{repository}/manifests/{target}",
                pull_scope(self._prefix + repository),
                # One header for all: some registries read the first only.
                headers={"Accept": ", ".join(ACCEPTED)},
            )
            if reply.status == 200:
                return reply
            with reply:
                raise self.refusal(reply, what)

        reply, data = self._transport.whole(ask, MANIFEST_LIMIT_BYTES)
        if ":" in target:
            check_digest(data, Digest.parse(target), what)
        return data, reply.header("Content-Type")

    def fetch(self, repository: str, descriptor: Descriptor, sink: Sink) -> None:
        """Download a blob into *sink*, going on where a connection breaks.

        The size is checked here, the digest by the sink's owner. Raises ImageNotFound,
        DigestMismatch, Unauthorized, RegistryError.
        """
        what = f"blob {descriptor.digest} of {self}/{repository}"

        def open_at(offset: int) -> Reply:
            reply = self.request(
                "GET",
                f"{repository}/blobs/{descriptor.digest}",
                pull_scope(self._prefix + repository),
                headers={"Range": f"bytes={offset}-"} if offset else {},
            )
            if reply.status in (200, 206, 416):
                return reply
            with reply:
                raise self.refusal(reply, what)

        self._transport.download(open_at, sink, descriptor.size, what)

    def fetch_foreign(self, descriptor: Descriptor, sink: Sink) -> None:
        """Download a foreign layer from the addresses its descriptor names, without credentials."""
        here, errors = Origin.of(self._meet()[0]), list[ImageError]()
        for url in descriptor.urls:
            what = f"foreign layer {descriptor.digest} at {printable(url)}"
            try:
                check_hop(here, Origin.of(url), self._transport.settings.insecure)
                self._transport.download(partial(self._open_foreign, url, what), sink, descriptor.size, what)
            except ImageError as error:
                errors.append(error)
            else:
                return
        raise errors[-1]

    def _open_foreign(self, url: str, what: str, offset: int) -> Reply:
        reply = self._transport.send("GET", url, headers={"Range": f"bytes={offset}-"} if offset else {})
        if reply.status in (200, 206, 416):
            return reply
        with reply:
            raise self.refusal(reply, what)

    def has_blob(self, repository: str, digest: Digest, scopes: tuple[str, ...]) -> bool:
        """Tell whether the repository holds a blob; an answer that is neither counts as no."""
        with self.request("HEAD", f"{repository}/blobs/{digest}", scopes) as reply:
            return reply.status == 200

    def put_manifest(self, repository: str, target: str, data: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its digest; return the digest of *data*."""
        what = f"{self}/{repository}:{target}"
        reply = self.request(
            "PUT",
            f"{repository}/manifests/{target}",
            push_scope(self._prefix + repository),
            headers={"Content-Type": media_type},
            body=data,
        )
        with reply:
            if reply.status not in (200, 201, 202):
                raise self.refusal(reply, what)
        # 201 is what a registry says (spec.md, "Pushing Manifests"); whoever says 200 may be none.
        if reply.status != 201:
            self._check_there(repository, target, what)
        return Digest.of(data)

    def _check_there(self, repository: str, target: str, what: str) -> None:
        scopes, headers = push_scope(self._prefix + repository), {"Accept": ", ".join(ACCEPTED)}
        with self.request("HEAD", f"{repository}/manifests/{target}", scopes, headers=headers) as reply:
            if reply.status != 200:
                raise RegistryError(
                    f"{what} was taken and is not there", seen=f"status {reply.status} from {self}"
                )

    def request(
        self,
        method: str,
        path: str,
        scopes: tuple[str, ...],
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        attempts: int = 0,
    ) -> Reply:
        """Make a request, answering the registry's challenge once; the caller closes the reply.

        *path* is below ``/v2/``, or the whole URL of a Location. Raises Unauthorized where the
        challenge cannot be answered, RegistryError where no answer comes.
        """
        base, authorizer = self._meet()
        url = path if "://" in path else f"{base}/v2/{self._prefix}{path}"
        # A Location elsewhere is on its own: our credentials are not for it.
        ours = Origin.of(url) == Origin.of(base)
        for again in (False, True):
            shown = authorizer.header(scopes) if ours else None
            everything = {**(headers or {}), **({"Authorization": shown} if shown else {})}
            reply = self._transport.send(method, url, headers=everything, body=body, attempts=attempts)
            if reply.status != 401 or not ours:
                return reply
            with reply:
                if again or not authorizer.answer(reply, scopes, shown, self._prefix + path):
                    raise self.refusal(reply, f"{self}/{path}" if path != url else f"{self}")
        raise RegistryError(f"{self} asks for credentials again and again")

    def location(self, reply: Reply) -> str:
        """Return where a reply's Location leads, checked; raise RegistryError without one.

        It may be relative and may carry a query: it is resolved and never rebuilt (spec.md,
        "Pushing blobs").
        """
        target = reply.header("Location")
        if not target:
            raise RegistryError(
                f"{self} does not say where to upload to", seen=f"status {reply.status}, no Location"
            )
        url = resolved(reply.url, target)
        check_hop(Origin.of(reply.url), Origin.of(url), self._transport.settings.insecure)
        return url

    def refusal(self, reply: Reply, what: str) -> ImageError:
        """Return what a reply other than success means, in the registry's own words."""
        seen = f"status {reply.status} from {self}" + (f" ({reply.tries} tries)" if reply.tries > 1 else "")
        said = self._said(reply)
        if said:
            seen += f": {said}"
        if reply.status in (401, 403):
            looked = self._met[1].looked if self._met else ""
            return Unauthorized(
                f"{what} is not for us",
                seen=f"{seen}; {looked}",
                mend=f"log in to {self.host}, or check the name: a registry may hide what does not exist",
            )
        if reply.status == 404:
            return ImageNotFound(f"{what} does not exist", seen=seen, mend="check the name and the tag")
        wait = reply.header("Retry-After")
        if reply.status == 429:
            return RegistryError(
                f"{what}: {self} has had too many requests",
                seen=seen + (f"; it asks to wait {wait[:40]} s" if wait else ""),
                mend="log in for a higher limit, or name a mirror",
            )
        return RegistryError(f"{what} was refused", seen=seen)

    def _said(self, reply: Reply) -> str:
        """Return the messages of an error's body (spec.md, "Error Codes"), secrets cut out."""
        try:
            errors = Fields.parse(reply.read(_ERROR_LIMIT_BYTES), "the error").each("errors")
            said = "; ".join(f"{e.text('code')} {e.text('message')}".strip() for e in errors)
        except ImageError:
            return ""
        if self._met:
            said = self._met[1].redacted(said)
        return "".join(c for c in said if c.isprintable())[:300]

    def _meet(self) -> tuple[str, Authorizer]:
        """Return the base URL, found out once, and who answers this registry's challenges."""
        with self._lock:
            if self._met is None:
                base = self._base()
                authorizer = Authorizer(
                    host=self.host, origin=Origin.of(base), transport=self._transport, keychain=self._keychain
                )
                self._met = (base, authorizer)
            return self._met

    def _base(self) -> str:
        host = _API_HOSTS.get(self.host, self.host)
        secure, plain = f"https://{host}", f"http://{host}"
        if not self._transport.settings.plain(Origin.of(plain)):
            return secure
        # Where plain http is allowed TLS may still be spoken. A Go server tells a plain request
        # so with status 400, others hang up; only then is https tried.
        try:
            with self._transport.send("GET", plain + "/v2/", attempts=1) as reply:
                if reply.status != 400:
                    return plain
        except RegistryError:
            pass
        try:
            self._transport.send("GET", secure + "/v2/", attempts=1).close()
        except RegistryError as error:
            return (
                secure if "cannot be trusted" in error.what and "WRONG_VERSION" not in error.seen else plain
            )
        return secure


def pull_scope(repository: str) -> tuple[str, ...]:
    """Return the token scope that reads a repository (distribution, auth/scope.md)."""
    return (f"repository:{repository}:pull",)


def push_scope(repository: str, *sources: str) -> tuple[str, ...]:
    """Return the scopes that write a repository and read those that blobs are mounted from."""
    return (
        f"repository:{repository}:pull,push",
        *(scope for source in sources for scope in pull_scope(source)),
    )


def check_digest(data: bytes, digest: Digest, what: str) -> None:
    """Raise DigestMismatch where *data* is not what *digest* names."""
    if not digest.matches(data):
        raise DigestMismatch(
            f"{what} is not what its digest says",
            seen=f"{len(data)} bytes of digest {Digest.of(data)}",
            mend="the registry is damaged, or somebody changes what it sends; nothing was kept",
        )
