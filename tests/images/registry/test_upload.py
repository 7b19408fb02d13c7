"""The upload of one blob: its states, and what happens when one of them breaks."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import RegistryError, Unauthorized
from pytest_containers.images import manifest as m
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.digest import Digest
from pytest_containers.images.registry import Registry
from pytest_containers.images.transport import Transport
from pytest_containers.images.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_containers.images.store import Store
    from pytest_containers.images.transport import Settings
    from tests.images.registry.conftest import Answer, Asked, Faulty

BLOB = bytes(range(250)) * 4
PLACE = "/v2/app/blobs/uploads/1"


class Taker:
    """A registry's side of one upload: it keeps what comes in order.

    *drop* is how many PUTs and chunks are half taken and end as a failure; *limit* the bytes of a
    request above which *too_large* is answered; *least* the chunk size that it announces.
    """

    def __init__(self, faulty: Faulty, digest: str) -> None:
        self.faulty = faulty
        self.digest = digest
        self.held = bytearray()
        self.drop = 0
        self.limit = 1 << 40
        self.too_large = 413
        self.least = 0
        faulty.on("HEAD", f"/v2/app/blobs/{digest}", faulty.answer(status=404))
        faulty.on("POST", "/v2/app/blobs/uploads/", self.begin)
        faulty.on("PATCH", PLACE, self.patch)
        faulty.on("GET", PLACE, self.state)
        faulty.on("PUT", PLACE, self.finish)
        faulty.on("DELETE", PLACE, faulty.answer(status=204))

    def where(self) -> dict[str, str]:
        """Return the headers of an answer in the middle of the upload."""
        return {"Location": f"{PLACE}?state={len(self.held)}", "Range": f"0-{max(len(self.held) - 1, 0)}"}

    def begin(self, _: Asked) -> Answer:
        """Answer a POST."""
        self.held.clear()
        asked_for = {"OCI-Chunk-Min-Length": str(self.least)} if self.least else {}
        return self.faulty.answer(status=202, headers={"Location": f"{PLACE}?state=0", **asked_for})

    def patch(self, asked: Asked) -> Answer:
        """Take one chunk."""
        match = re.fullmatch("([0-9]+)-([0-9]+)", asked.headers["content-range"])
        assert match is not None
        assert int(match[2]) - int(match[1]) + 1 == len(asked.body)
        if int(match[1]) != len(self.held) or asked.path != f"{PLACE}?state={len(self.held)}":
            return self.faulty.refusal(416, "RANGE_INVALID")
        if len(asked.body) > self.limit:
            return self.faulty.refusal(self.too_large, "SIZE_INVALID")
        if self._dropped(asked):
            return self.faulty.answer(status=502)
        self.held += asked.body
        return self.faulty.answer(status=202, headers=self.where())

    def state(self, _: Asked) -> Answer:
        """Answer how far the upload came."""
        return self.faulty.answer(status=204, headers=self.where())

    def finish(self, asked: Asked) -> Answer:
        """Close the upload."""
        if len(asked.body) > self.limit:
            return self.faulty.refusal(413, "SIZE_INVALID")
        if self._dropped(asked):
            return self.faulty.answer(status=502)
        self.held += asked.body
        right = bytes(self.held) == BLOB and f"digest={self.digest.replace(':', '%3A')}" in asked.path
        return self.faulty.answer(status=201 if right else 400)

    def _dropped(self, asked: Asked) -> bool:
        if not self.drop:
            return False
        self.drop -= 1
        self.held += asked.body[: len(asked.body) // 2]
        return True


def upload(
    faulty: Faulty,
    store: Store,
    settings: Settings,
    sources: Sequence[str] = (),
    digest: Digest | None = None,
) -> None:
    """Upload the blob into ``app``, under its sha256 digest where no other is given."""
    with Transport(settings) as transport:
        registry = Registry(faulty.host, transport=transport, keychain=Keychain(environ=settings.environ))
        one = Upload(
            registry=registry,
            repository="app",
            blobs=store.blobs,
            transport=transport,
            sources=lambda _: sources,
        )
        name = digest or store.blobs.add(BLOB)
        one.blob(m.Descriptor(media_type=m.OCI_LAYER, digest=name, size=len(BLOB)))


@pytest.fixture
def taker(faulty: Faulty, store: Store) -> Taker:
    """A registry that takes the blob."""
    return Taker(faulty, store.blobs.add(BLOB))


def sequence(faulty: Faulty) -> list[str]:
    """Return the methods of the upload, in order."""
    return [asked.method for asked in faulty.asked if "uploads" in asked.path]


def sizes(faulty: Faulty, method: str) -> list[int]:
    """Return how many bytes each request of *method* carried."""
    return [len(asked.body) for asked in faulty.asked if asked.method == method]


@pytest.mark.parametrize("chunk_bytes", [10, len(BLOB), 64 << 20])
def test_blob_goes_in_one_put(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings, chunk_bytes: int
) -> None:
    """Whatever its size a blob is a POST and a PUT: every registry takes that."""
    upload(faulty, store, replace(settings, upload_chunk_bytes=chunk_bytes))
    assert sequence(faulty) == ["POST", "PUT"]
    assert bytes(taker.held) == BLOB


def test_chunks_go_where_a_registry_asks_for_them(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """OCI-Chunk-Min-Length asks for chunks: each follows the last Location, and an empty PUT ends them."""
    taker.least = 1
    upload(faulty, store, replace(settings, upload_chunk_bytes=300))
    assert sequence(faulty) == ["POST", "PATCH", "PATCH", "PATCH", "PATCH", "PUT"]
    assert bytes(taker.held) == BLOB
    assert faulty.asked[-1].body == b""


def test_chunks_are_as_large_as_the_registry_wants(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """OCI-Chunk-Min-Length makes chunks larger than ours (distribution-spec)."""
    taker.least = 600
    upload(faulty, store, replace(settings, upload_chunk_bytes=10))
    assert sizes(faulty, "PATCH") == [600, 400]


def test_broken_put_goes_on_where_the_registry_says(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """After a PUT that broke the registry is asked how far it came, and nothing it has is sent again."""
    taker.drop = 1
    upload(faulty, store, settings)
    assert sequence(faulty) == ["POST", "PUT", "GET", "PATCH", "PUT"]
    assert sizes(faulty, "PATCH") == [len(BLOB) // 2]
    assert bytes(taker.held) == BLOB


def test_broken_chunk_goes_on_where_the_registry_says(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """The same holds for a chunk that broke."""
    taker.least, taker.drop = 1, 2
    upload(faulty, store, replace(settings, upload_chunk_bytes=600))
    assert sequence(faulty).count("GET") == 2
    assert bytes(taker.held) == BLOB
    assert sequence(faulty).count("POST") == 1


def test_upload_of_which_nothing_is_there_begins_again(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """Docker's registry says ``0-0`` of no byte and of one: neither is resumed."""
    faulty.on("PUT", PLACE, faulty.answer(status=502), taker.finish)
    upload(faulty, store, settings)
    assert sequence(faulty) == ["POST", "PUT", "GET", "DELETE", "POST", "PUT"]
    assert bytes(taker.held) == BLOB


@pytest.fixture
def large(taker: Taker, store: Store, monkeypatch: pytest.MonkeyPatch) -> Taker:
    """The registry that takes the blob, with chunks as small as the blob makes them."""
    monkeypatch.setattr("pytest_containers.images.upload._LEAST_CHUNK_BYTES", 8)
    return taker


@pytest.mark.parametrize("too_large", [413, 416])
@pytest.mark.parametrize("limit", [999, 250, 40])
def test_request_that_is_too_large_is_halved_until_it_is_not(
    faulty: Faulty, large: Taker, store: Store, settings: Settings, limit: int, too_large: int
) -> None:
    """A registry behind a limit of a request's size gets chunks below it (413; ghcr.io says 416)."""
    large.limit, large.too_large = limit, too_large
    upload(faulty, store, settings)
    assert bytes(large.held) == BLOB
    assert sequence(faulty).count("PUT") == 2
    assert sequence(faulty).count("POST") == 2


def test_chunk_that_is_too_large_is_halved_where_the_registry_asked_for_chunks(
    faulty: Faulty, large: Taker, store: Store, settings: Settings
) -> None:
    """A limit of the chunk's size that is met in the middle of an upload does not begin it again."""
    large.least, large.limit, large.too_large = 1, 100, 416
    upload(faulty, store, replace(settings, upload_chunk_bytes=400))
    assert bytes(large.held) == BLOB
    assert sequence(faulty).count("POST") == 1


def test_size_that_is_never_small_enough_is_told(
    faulty: Faulty, large: Taker, store: Store, settings: Settings
) -> None:
    """A registry that finds every request too large is asked a bounded number of times."""
    large.limit = 0
    with pytest.raises(RegistryError, match="SIZE_INVALID"):
        upload(faulty, store, settings)
    assert len(sequence(faulty)) < 20 * settings.attempts


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_registry_without_patch_gets_the_whole_blob_again(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings, status: int
) -> None:
    """Where the rest of a broken PUT cannot be sent as a chunk, the upload begins again with a PUT."""
    taker.drop = 1
    faulty.on("PATCH", PLACE, faulty.refusal(status, "UNSUPPORTED"))
    upload(faulty, store, settings)
    assert sequence(faulty) == ["POST", "PUT", "GET", "PATCH", "GET", "DELETE", "POST", "PUT"]
    assert bytes(taker.held) == BLOB


@pytest.mark.parametrize("held", ["0-0", "0-499", "0-249", "0-99999"])
def test_upload_that_never_grows_is_given_up(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings, held: str
) -> None:
    """A registry that says 202 and holds no more, or more than there is, is not asked for ever."""
    taker.least = 1
    stuck = faulty.answer(status=202, headers={"Location": f"{PLACE}?state=500", "Range": held})
    first = faulty.answer(status=202, headers={"Location": f"{PLACE}?state=500", "Range": "0-499"})
    state = replace(stuck, status=204)
    faulty.on("PATCH", PLACE, first, stuck)
    faulty.on("GET", PLACE, state)
    with pytest.raises(RegistryError, match="makes no progress"):
        upload(faulty, store, replace(settings, upload_chunk_bytes=500))
    assert len(sequence(faulty)) <= 4 * settings.attempts**2


def test_upload_says_which_digest_it_will_have(faulty: Faulty, store: Store, settings: Settings) -> None:
    """A digest that is not of sha256 is announced, so that the registry hashes by it from the start."""
    digest = Digest.parse("sha512:" + hashlib.sha512(BLOB).hexdigest())
    with store.blobs.receive(digest, len(BLOB)) as writer:
        writer.write(BLOB)
        writer.commit()
    taker = Taker(faulty, digest)
    upload(faulty, store, settings, digest=digest)
    assert faulty.paths("POST") == ["/v2/app/blobs/uploads/?digest-algorithm=sha512"]
    assert bytes(taker.held) == BLOB


def test_upload_that_the_registry_forgot_begins_again(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """Where the registry knows nothing of the upload any more, it begins from the first byte."""
    taker.drop = 1
    faulty.on("GET", PLACE, faulty.refusal(404, "BLOB_UPLOAD_UNKNOWN"))
    upload(faulty, store, settings)
    assert sequence(faulty).count("POST") == 2
    assert bytes(taker.held) == BLOB


def test_upload_that_is_tried_again_asks_for_no_mount(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """A registry that has begun an upload in the place of a mount is not asked for the mount again."""
    faulty.on("PUT", PLACE, faulty.answer(status=502), taker.finish)
    upload(faulty, store, settings, ["team/base"])
    begun = ["mount=" in asked.path for asked in faulty.asked if asked.method == "POST"]
    assert begun == [True, False]
    assert bytes(taker.held) == BLOB


@pytest.mark.parametrize("status", [408, 416, 429, 500, 503])
def test_end_that_is_refused_for_now_is_tried_again(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings, status: int
) -> None:
    """A PUT that another state or another time may mend begins from the first byte."""
    faulty.on("PUT", PLACE, faulty.answer(status=status), taker.finish)
    upload(faulty, store, settings)
    assert sequence(faulty) == ["POST", "PUT", "GET", "DELETE", "POST", "PUT"]
    assert bytes(taker.held) == BLOB


def test_chunks_that_break_each_time_are_given_up(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """Chunks that go on at the same place are tried as often as anything else, and so is the upload."""
    taker.least = 1
    taker.drop = 1 << 40
    faulty.on("PATCH", PLACE, faulty.answer(status=502))
    faulty.on("GET", PLACE, faulty.answer(status=204, headers={"Location": PLACE, "Range": "0-99"}))
    with pytest.raises(RegistryError):
        upload(faulty, store, replace(settings, upload_chunk_bytes=300))
    assert sequence(faulty).count("POST") == settings.attempts
    assert sequence(faulty).count("PATCH") == settings.attempts**2


def test_upload_that_breaks_each_time_is_given_up(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """Tries are bounded, the error is the registry's, and the upload is taken back."""
    faulty.on("PUT", PLACE, faulty.refusal(500, "BROKEN", "disk full"))
    with pytest.raises(RegistryError, match="disk full"):
        upload(faulty, store, settings)
    assert sequence(faulty).count("POST") == settings.attempts
    assert sequence(faulty)[-1] == "DELETE"


def test_upload_that_is_unknown_at_its_end_begins_again(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """A PUT to an upload that the registry does not know any more is not followed by a question."""
    faulty.on("PUT", PLACE, faulty.answer(status=404), taker.finish)
    upload(faulty, store, settings)
    assert sequence(faulty) == ["POST", "PUT", "POST", "PUT"]


def test_refused_end_is_final(faulty: Faulty, taker: Taker, store: Store, settings: Settings) -> None:
    """A registry that finds the bytes wrong is not asked twice."""
    faulty.on("PUT", PLACE, faulty.refusal(400, "DIGEST_INVALID"))
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        upload(faulty, store, settings)
    assert sequence(faulty) == ["POST", "PUT"]


def test_mount_needs_no_upload(faulty: Faulty, taker: Taker, store: Store, settings: Settings) -> None:
    """A blob that the registry takes from another repository is not sent."""
    faulty.on("POST", "/v2/app/blobs/uploads/", faulty.answer(status=201))
    upload(faulty, store, settings, ["team/base"])
    assert sequence(faulty) == ["POST"]
    assert faulty.asked[-1].path.endswith(f"?mount={taker.digest.replace(':', '%3A')}&from=team%2Fbase")


def test_mount_that_is_not_done_becomes_the_upload(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """A registry that answers a mount with 202 has begun an upload, and that one is used."""
    upload(faulty, store, settings, ["team/base"])
    assert sequence(faulty) == ["POST", "PUT"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_mount_that_is_refused_is_done_without(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings, status: int
) -> None:
    """Whatever a registry has against a mount, the blob is then uploaded."""
    faulty.on("POST", "/v2/app/blobs/uploads/", faulty.answer(status=status), taker.begin)
    upload(faulty, store, settings, ["team/base"])
    assert sequence(faulty) == ["POST", "POST", "PUT"]
    assert bytes(taker.held) == BLOB


@pytest.mark.parametrize("location", ["", "http://169.254.169.254/upload", "http://192.0.2.1/upload"])
def test_upload_goes_to_no_strange_place(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings, location: str
) -> None:
    """A Location that is missing or leads to where we may not send is refused, unsent."""
    headers = {"Location": location} if location else {}
    faulty.on("POST", "/v2/app/blobs/uploads/", faulty.answer(status=202, headers=headers))
    with pytest.raises(RegistryError):
        upload(faulty, store, settings)
    assert sequence(faulty) == ["POST"]


def test_upload_elsewhere_goes_without_credentials(
    faulty: Faulty, other: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """A Location on another origin gets the bytes and not the password."""
    config = f'{{"auths": {{"{faulty.host}": {{"username": "alice", "password": "p"}}}}}}'
    known = replace(settings, environ={**settings.environ, "DOCKER_AUTH_CONFIG": config})
    challenge = replace(faulty.refusal(401, "NO"), headers={"WWW-Authenticate": 'Basic realm="x"'})
    away = faulty.answer(status=202, headers={"Location": f"{other.url}/put?signature=s"})
    faulty.on("POST", "/v2/app/blobs/uploads/", challenge, away)
    other.on("PUT", "/put", other.answer(status=201))
    upload(faulty, store, known)
    assert "authorization" in faulty.asked[-1].headers
    assert "authorization" not in other.asked[0].headers
    assert other.asked[0].body == BLOB


def test_upload_that_is_forbidden_is_not_tried_again(
    faulty: Faulty, taker: Taker, store: Store, settings: Settings
) -> None:
    """No credentials, no second try."""
    faulty.on("PUT", PLACE, faulty.refusal(403, "DENIED"))
    with pytest.raises(Unauthorized, match="DENIED"):
        upload(faulty, store, settings)
    assert sequence(faulty) == ["POST", "PUT"]
