"""Debian's registry behind a proxy that does one wrong at one request: at each request once.

What passes by itself must not be noticed, and what does not must end as one clear error that leaves
nothing behind: the next try, with nothing in its way, succeeds.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers.errors import ImageError
from pytest_containers.images.pull import pull
from pytest_containers.images.push import push
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from tests.images.registry.conftest import Answer, Asked, Faulty

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_containers import ContainerFactory
    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Image, ImageMaker

pytestmark = pytest.mark.kernel

Forward = Callable[[], Answer]
Fault = Callable[[Forward], Answer]
_HOPS: Final = frozenset({"connection", "content-length", "date", "transfer-encoding"})
_COUNT: Final = itertools.count()


def _cut(forward: Forward) -> Answer:
    answer = forward()
    return replace(answer, cut=len(answer.body) // 2)


def _short(forward: Forward) -> Answer:
    answer = forward()
    body = answer.body[:-1]
    return replace(answer, body=body)


def _long(forward: Forward) -> Answer:
    answer = forward()
    return replace(answer, body=answer.body + b"!")


def _flipped(forward: Forward) -> Answer:
    answer = forward()
    middle = len(answer.body) // 2
    body = bytearray(answer.body)
    body[middle : middle + 1] = bytes(255 - byte for byte in body[middle : middle + 1])
    return replace(answer, body=bytes(body))


def _carried_out_and_cut(forward: Forward) -> Answer:
    forward()
    return Answer(status=0, length=False, cut=0)


def _cut_headers(forward: Forward) -> Answer:
    return Answer(raw=b"HTTP/1.1 %d Told\r\nServer: a\r\nX-Cut: in the mid" % forward().status)


def _status(status: int, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Answer(status=status, headers=named)


PASSING: Final[dict[str, Fault]] = {
    "hang-up": lambda _: Answer(status=0, length=False, cut=0),
    "hang-up after the deed": _carried_out_and_cut,
    "cut in the headers": _cut_headers,
    "cut in the middle": _cut,
    "held in the middle": lambda forward: replace(forward(), hold=threading.Event()),
    "429": _status(429, Retry_After="0"),
    "500": _status(500),
}
LASTING: Final[dict[str, Fault]] = {
    "a byte less": _short,
    "a byte more": _long,
    "a wrong byte": _flipped,
    "404": _status(404),
    "403": _status(403),
    "401 without a challenge": _status(401),
    "200 with nothing": _status(200),
    "redirect to metadata": _status(302, Location="http://169.254.169.254/x"),
    "redirect to nowhere": _status(307, Location="http://127.0.0.1:1/x"),
    "no HTTP": lambda _: Answer(status=999, headers={"Content-Length": "x"}, length=False, cut=0),
}


class Proxy(Faulty):
    """Passes every request on to *target*, but for number *at*, which *fault* answers; 0 is the first.

    With *chunks* the registry behind it asks for uploads in chunks. A request of more than *put_limit*
    bytes, or a PATCH of more than *patch_limit*, does not pass: 413, and 416 as ghcr.io has it.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target
        self._next = 0
        self._at: int | None = None
        self._fault: Fault = PASSING["500"]
        self._held: list[threading.Event] = []
        self.chunks = False
        self.put_limit = self.patch_limit = 1 << 40

    def spoil(self, at: int | None, fault: Fault) -> None:
        """Count from 0 again, and answer request number *at* by *fault*; none where it is None."""
        self._next, self._at, self._fault = 0, at, fault
        self.asked.clear()

    def release(self) -> None:
        """Let everybody go who is held."""
        for event in self._held:
            event.set()

    def decide(self, asked: Asked) -> Answer:
        """Return what the registry says, or the fault."""
        number, self._next = self._next, self._next + 1
        self.asked.append(asked)
        if number != self._at:
            return self._forward(asked)
        answer = self._fault(lambda: self._forward(asked))
        if answer.hold is not None:
            self._held.append(answer.hold)
            # A body that is not there cannot be held up.
            answer = answer if answer.body else replace(answer, hold=None)
        return answer

    def _forward(self, asked: Asked) -> Answer:
        if len(asked.body) > self.put_limit:
            return Answer(status=413)
        if asked.method == "PATCH" and len(asked.body) > self.patch_limit:
            return Answer(status=416)
        connection = http.client.HTTPConnection(self._target, timeout=30)
        try:
            connection.request(asked.method, asked.path, asked.body or None, dict(asked.headers))
            reply = connection.getresponse()
            headers = {name: value for name, value in reply.getheaders() if name.lower() not in _HOPS}
            if asked.method == "POST" and self.chunks:
                headers["OCI-Chunk-Min-Length"] = "1"
            return Answer(status=reply.status, headers=headers, body=reply.read())
        finally:
            connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The proxy, the registry behind it, and an image to move."""

    proxy: Proxy
    registry: str
    image: Image
    settings: Settings
    folder: Path
    repository: str = field(default_factory=lambda: f"app{next(_COUNT)}")

    def store(self) -> Store:
        """Return a new store."""
        return Store.open(self.folder / f"store-{next(_COUNT)}")

    def fill(self, host: str, repository: str) -> tuple[Store, Reference]:
        """Return a store that has the image, and its name at *host*."""
        store = self.store()
        return store, self.image.put(store, f"{host}/{repository}:1")

    def pushed(self) -> Reference:
        """Push the image past the proxy; return its pinned name by way of the proxy."""
        push(*self.fill(self.registry, self.repository), settings=self.settings)
        return Reference.parse(f"{self.proxy.host}/{self.repository}:1@{self.image.digest}")

    def arrived(self, repository: str) -> bool:
        """Tell whether the registry has manifest and blobs, which it has checked itself."""
        places = [f"blobs/{digest}" for digest in self.image.blobs]
        connection = http.client.HTTPConnection(self.registry, timeout=30)
        try:
            for place in (*places, "manifests/1"):
                headers = {"Accept": self.image.manifest.media_type}
                connection.request("GET", f"/v2/{repository}/{place}", headers=headers)
                reply = connection.getresponse()
                data = reply.read()
                if reply.status != 200:
                    return False
            return data == self.image.data
        finally:
            connection.close()

    def has(self, store: Store, reference: Reference) -> bool:
        """Tell whether a store has the whole image under a name."""
        record = store.find(reference)
        return record is not None and all(
            store.blobs.read(digest) == blob for digest, blob in self.image.blobs.items()
        )


@pytest.fixture(scope="module")
def behind(container: ContainerFactory, registry_image: str) -> str:
    """Return where Debian's registry listens, by the route that containers have here."""
    return f"{container(registry_image).ip}:5000"


@pytest.fixture
def scene(behind: str, make_image: ImageMaker, settings: Settings, tmp_path: Path) -> Iterator[Scene]:
    """Return a scene in which one request follows the other, and nothing is waited for."""
    proxy, ticks = Proxy(behind), itertools.count()
    # By this clock each piece of a body takes a second, and only a body in two pieces is too slow.
    one_by_one = replace(
        settings,
        parallel=1,
        insecure=frozenset({behind}),
        upload_chunk_bytes=6000,
        floor_bytes_per_s=1 << 20,
        floor_window_s=1.0,
        clock=lambda: float(next(ticks)),
    )
    image = make_image(b"".join(b"%d" % (n * n) for n in range(3000)))
    yield Scene(proxy=proxy, registry=behind, image=image, settings=one_by_one, folder=tmp_path)
    proxy.release()
    proxy.close()


@pytest.mark.parametrize("name", [*PASSING, *LASTING])
def test_pull_through_a_fault_is_right_or_refused(scene: Scene, name: str) -> None:
    """At whichever request it happens: what passes is overcome, the rest leaves no image and no harm."""
    reference = scene.pushed()
    scene.proxy.spoil(None, PASSING["500"])
    pull(scene.store(), reference, settings=scene.settings)
    requests = len(scene.proxy.asked)
    assert requests >= 4
    for at in range(requests):
        store = scene.store()
        scene.proxy.spoil(at, {**PASSING, **LASTING}[name])
        try:
            pull(store, reference, settings=scene.settings)
        except ImageError as error:
            if name in PASSING:
                pytest.fail(f"request {at}: {error}")
            assert store.list() == ()
            scene.proxy.spoil(None, PASSING["500"])
            pull(store, reference, settings=scene.settings)
        assert scene.has(store, reference), f"request {at}"


# The answers to an upload have no bodies that could be wrong.
@pytest.mark.parametrize("chunks", [False, True], ids=["whole", "chunks"])
@pytest.mark.parametrize("name", [*PASSING, *(name for name in LASTING if "byte" not in name)])
def test_push_through_a_fault_is_right_or_refused(scene: Scene, name: str, chunks: bool) -> None:
    """At whichever request it happens: what passes is overcome, after the rest a second push is whole."""
    scene.proxy.chunks = chunks
    store, target = scene.fill(scene.proxy.host, scene.repository)
    scene.proxy.spoil(None, PASSING["500"])
    push(store, target, settings=scene.settings)
    requests = len(scene.proxy.asked)
    assert requests >= (9 if chunks else 8)
    for at in range(requests):
        repository = f"{scene.repository}-{at}"
        store, target = scene.fill(scene.proxy.host, repository)
        scene.proxy.spoil(at, {**PASSING, **LASTING}[name])
        try:
            digest = push(store, target, settings=scene.settings)
        except ImageError as error:
            if name in PASSING:
                pytest.fail(f"request {at}: {error}")
            scene.proxy.spoil(None, PASSING["500"])
            digest = push(store, target, settings=scene.settings)
        assert digest == scene.image.digest
        assert scene.arrived(repository), f"request {at}"


@pytest.mark.parametrize(("put_limit", "patch_limit"), [(5000, 1 << 40), (5000, 1000), (700, 700)])
def test_push_past_a_limit_of_the_requests_size(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, put_limit: int, patch_limit: int
) -> None:
    """A proxy or registry that bounds requests gets chunks below its bound, and what arrives is whole."""
    monkeypatch.setattr("pytest_containers.images.upload._LEAST_CHUNK_BYTES", 64)
    scene.proxy.put_limit, scene.proxy.patch_limit = put_limit, patch_limit
    push(*scene.fill(scene.proxy.host, scene.repository), settings=scene.settings)
    assert scene.arrived(scene.repository)


def test_push_overcomes_a_cut_in_the_middle_of_a_put(scene: Scene, cutting: Cutting) -> None:
    """A connection that is cut while a layer is on its way ends in a whole layer."""
    # Debian's registry does not resume here: it answers the question how far the upload came by 404,
    # as its state token still says byte 0. So the upload begins again.
    push(*scene.fill(cutting.host, scene.repository), settings=scene.settings)
    assert cutting.cuts == 1
    assert scene.arrived(scene.repository)


class Cutting:
    """Passes bytes on to *target*, and cuts the first connection that carries more than *after_bytes*."""

    def __init__(self, target: str, after_bytes: int) -> None:
        self._target = target.split(":")
        self._after_bytes = after_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._target[0], int(self._target[1])), timeout=30)
                threading.Thread(target=self._answers, args=(server, client), daemon=True).start()
                threading.Thread(target=self._requests, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError), client, server:
            while piece := client.recv(2000):
                server.sendall(piece)
                passed += len(piece)
                if passed > self._after_bytes and not self.cuts:
                    self.cuts += 1
                    server.shutdown(socket.SHUT_RDWR)
                    client.shutdown(socket.SHUT_RDWR)
                    return

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := server.recv(2000):
                client.sendall(piece)


@pytest.fixture
def cutting(behind: str) -> Iterator[Cutting]:
    """Return what cuts a connection to Debian's registry behind some thousand bytes."""
    made = Cutting(behind, after_bytes=6000)
    yield made
    made.close()
