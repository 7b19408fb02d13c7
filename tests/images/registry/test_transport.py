"""HTTP as registries need it: retries, redirects, proxies, TLS, and an end when told."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import os
import socket
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from urllib3.exceptions import ProtocolError

from pytest_containers.errors import RegistryError
from pytest_containers.images.credentials import Credential, Secret
from pytest_containers.images.transport import Reply, Settings, Transport
from pytest_containers.images.transport.connections import failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.images.registry.conftest import Answer, Asked, Faulty


def get(settings: Settings, url: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Return status and body of one GET."""
    with Transport(settings) as transport, transport.send("GET", url, headers=headers) as reply:
        return reply.status, reply.read(1 << 20)


@pytest.mark.parametrize("status", [408, 429, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524])
def test_status_that_may_pass_is_tried_again(faulty: Faulty, settings: Settings, status: int) -> None:
    """An overloaded registry is asked again, and its later answer is the one that counts."""
    faulty.on("GET", "/x", faulty.refusal(status, "LATER"), faulty.answer(body=b"ok"))
    assert get(settings, f"{faulty.url}/x") == (200, b"ok")
    assert len(faulty.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_status_that_stays_is_not_tried_again(faulty: Faulty, settings: Settings, status: int) -> None:
    """A refusal is a refusal."""
    faulty.on("GET", "/x", faulty.answer(status=status))
    assert get(settings, f"{faulty.url}/x")[0] == status
    assert len(faulty.asked) == 1


def clients_of(server: Faulty) -> int:
    """Return how many sockets of this process are connected to a server."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        if not descriptor.is_socket():
            continue
        with socket.socket(fileno=os.dup(int(descriptor.name))) as one, contextlib.suppress(OSError):
            host, port = one.getpeername()[:2]
            found += f"{host}:{port}" == server.host
    return found


def test_end_closes_every_connection(faulty: Faulty, settings: Settings) -> None:
    """A connection is closed with its transport, also while somebody keeps an error and its frames."""
    faulty.on("GET", "/x", faulty.answer(body=b"ok"))
    with Transport(settings) as transport:
        kept = transport.send("GET", f"{faulty.url}/x")
        kept.read(100)
        assert clients_of(faulty) == 1
    assert (kept.status, clients_of(faulty)) == (200, 0)


def test_tries_are_bounded(faulty: Faulty, settings: Settings) -> None:
    """After the settings' number of tries the last answer is what there is."""
    faulty.on("GET", "/x", faulty.answer(status=503))
    assert get(settings, f"{faulty.url}/x")[0] == 503
    assert len(faulty.asked) == settings.attempts


def test_connection_that_breaks_is_tried_again(faulty: Faulty, settings: Settings) -> None:
    """A connection that ends before an answer came is made anew."""
    faulty.on("GET", "/x", faulty.answer(status=0, length=False, cut=0), faulty.answer(body=b"ok"))
    assert get(settings, f"{faulty.url}/x") == (200, b"ok")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETa"])
def test_reply_that_ends_in_its_head_is_none(faulty: Faulty, settings: Settings, head: bytes) -> None:
    """Headers that did not come are not headers that are missing: the request is made again."""
    faulty.on("GET", "/x", faulty.answer(raw=head), faulty.answer(body=b"ok"))
    assert get(settings, f"{faulty.url}/x") == (200, b"ok")


@pytest.mark.parametrize("wait", ["0", "soon", "", "-1"])
def test_retry_after_of_nothing_is_no_wait(faulty: Faulty, settings: Settings, wait: str) -> None:
    """A Retry-After of 0, or one that says nothing, does not hold the next try up."""
    faulty.on(
        "GET", "/x", faulty.answer(status=429, headers={"Retry-After": wait}), faulty.answer(body=b"ok")
    )
    assert get(settings, f"{faulty.url}/x") == (200, b"ok")


def test_retry_after_is_waited_for(faulty: Faulty, settings: Settings) -> None:
    """The registry's wish counts, not our own pause, which is a thousandth of it."""
    times: list[float] = []

    def act(_: Asked) -> Answer:
        times.append(time.monotonic())
        return faulty.answer(status=429 if len(times) == 1 else 200, headers={"Retry-After": "1"})

    faulty.on("GET", "/x", act)
    get(settings, f"{faulty.url}/x")
    assert times[1] - times[0] >= 1


@pytest.mark.parametrize(
    "wait",
    ["3600", "99999999999999999999", email.utils.formatdate(time.time() + 3600)],
    # The workers of pytest-xdist must collect the same names, also where they do so a second apart.
    ids=["seconds", "ages", "date"],
)
def test_retry_after_beyond_the_bound_is_not_waited_for(
    faulty: Faulty, settings: Settings, wait: str
) -> None:
    """A registry that asks for an hour gets no further request, and we say so at once."""
    faulty.on("GET", "/x", faulty.answer(status=429, headers={"Retry-After": wait}))
    assert get(settings, f"{faulty.url}/x")[0] == 429
    assert len(faulty.asked) == 1


def test_redirect_keeps_authorization_at_home(faulty: Faulty, settings: Settings) -> None:
    """Within one origin a redirect keeps the header."""
    faulty.on("GET", "/x", faulty.answer(status=302, headers={"Location": "../y?q=1"}))
    faulty.on("GET", "/y", faulty.answer(body=b"ok"))
    assert get(settings, f"{faulty.url}/x", {"Authorization": "Basic eA=="})[1] == b"ok"
    assert faulty.asked[1].path == "/y?q=1"
    assert faulty.asked[1].headers["authorization"] == "Basic eA=="


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_elsewhere_leaves_authorization_behind(
    faulty: Faulty, other: Faulty, settings: Settings, status: int
) -> None:
    """Another port is another origin; the header stays, also when the way leads back."""
    faulty.on("GET", "/x", faulty.answer(status=status, headers={"Location": f"{other.url}/y"}))
    other.on("GET", "/y", other.answer(status=status, headers={"Location": f"{faulty.url}/z"}))
    faulty.on("GET", "/z", faulty.answer(body=b"ok"))
    headers = {"Authorization": "Basic eA==", "Range": "bytes=5-"}
    assert get(settings, f"{faulty.url}/x", headers)[1] == b"ok"
    assert "authorization" not in other.asked[0].headers
    assert "authorization" not in faulty.asked[1].headers
    assert other.asked[0].headers["range"] == "bytes=5-"


def test_redirect_in_a_circle_ends(faulty: Faulty, settings: Settings) -> None:
    """A registry that leads in a circle is left."""
    faulty.on("GET", "/x", faulty.answer(status=302, headers={"Location": "/x"}))
    with pytest.raises(RegistryError, match="circle"):
        get(settings, f"{faulty.url}/x")


@pytest.mark.parametrize(("hops", "reached"), [(8, True), (10, True), (11, False)])
def test_redirects_are_followed_as_far_as_go_follows_them(
    faulty: Faulty, settings: Settings, hops: int, reached: bool
) -> None:
    """Ten redirects to different places are no circle, and more are told as what they are."""
    for hop in range(hops):
        leads = faulty.answer(status=302, headers={"Location": f"/{hop + 1}"})
        faulty.on("GET", f"/{hop}", leads)
    faulty.on("GET", f"/{hops}", faulty.answer(body=b"ok"))
    if reached:
        assert get(settings, f"{faulty.url}/0")[1] == b"ok"
    else:
        with pytest.raises(RegistryError, match="leads on and on"):
            get(settings, f"{faulty.url}/0")


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/", "http://192.0.2.1/", "file:///etc/passwd", "http://["]
)
def test_redirect_to_where_nothing_is_for_us(faulty: Faulty, settings: Settings, target: str) -> None:
    """A redirect to metadata, by plain http elsewhere, or to no URL is refused unasked."""
    faulty.on("GET", "/x", faulty.answer(status=302, headers={"Location": target}))
    with pytest.raises(RegistryError):
        get(settings, f"{faulty.url}/x")


def test_upload_is_not_redirected(faulty: Faulty, other: Faulty, settings: Settings) -> None:
    """What we send goes where we send it; a redirect of it is an answer like any other."""
    faulty.on("PUT", "/x", faulty.answer(status=307, headers={"Location": f"{other.url}/y"}))
    with Transport(settings) as transport, transport.send("PUT", f"{faulty.url}/x", body=b"b") as reply:
        assert reply.status == 307
    assert other.asked == []


def test_body_comes_as_it_is_on_the_wire(faulty: Faulty, settings: Settings) -> None:
    """A layer is gzip by its own nature: nothing unpacks it on the way."""
    faulty.on("GET", "/x", faulty.answer(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8bno gzip"))
    assert get(settings, f"{faulty.url}/x")[1] == b"\x1f\x8bno gzip"
    assert faulty.asked[0].headers["accept-encoding"] == "identity"


def test_proxy_is_used_beyond_loopback(faulty: Faulty, settings: Settings) -> None:
    """A registry elsewhere is reached through the environment's proxy, with the proxy's password."""
    proxy = f"http://user:pa%20ss@{faulty.host}"
    proxied = replace(settings, insecure=frozenset({"registry.example"}), environ={"http_proxy": proxy})
    faulty.on("GET", "http://registry.example/x", faulty.answer(body=b"ok"))
    assert get(proxied, "http://registry.example/x") == (200, b"ok")
    basic = Credential(username="user", password=Secret("pa ss")).basic
    assert faulty.asked[0].headers["proxy-authorization"] == str(basic)


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_proxy_is_never_used_for_loopback(
    faulty: Faulty, other: Faulty, settings: Settings, name: str
) -> None:
    """A registry of this machine is reached directly, whatever the environment says."""
    faulty.on("GET", "/x", faulty.answer(body=b"ok"))
    assert get(replace(settings, environ={name: other.url}), f"{faulty.url}/x") == (200, b"ok")
    assert other.asked == []


def test_proxy_that_refuses_is_named_without_its_password(faulty: Faulty, settings: Settings) -> None:
    """The error tells that the proxy is at fault, and not what we showed it."""
    proxied = replace(settings, environ={"HTTPS_PROXY": f"http://user:geheim@{faulty.host}"})
    with pytest.raises(RegistryError, match="proxy") as caught:
        get(proxied, "https://registry.example/x")
    assert "geheim" not in str(caught.value) + repr(proxied)


def test_failure_forgets_the_frames_that_held_headers() -> None:
    """What pytest could show of urllib3's frames, the request's bytes among it, is gone from the cause."""

    def send(head: bytes) -> None:
        try:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        except BrokenPipeError as error:
            raise ProtocolError("Connection aborted.", error) from error

    with pytest.raises(ProtocolError) as caught:
        send(b"Authorization: Basic c2VjcmV0")
    error = failure("GET", "http://127.0.0.1:1/x", caught.value)
    error.__cause__ = caught.value
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert "c2VjcmV0" not in "".join(shown.format())
    assert error.seen == "Broken pipe"


def test_tls_of_an_unknown_authority_is_refused(secure: Faulty, settings: Settings) -> None:
    """A certificate that nobody vouches for ends the pull with the way to vouch for it, at once."""
    with pytest.raises(RegistryError, match="cannot be trusted") as caught:
        get(settings, f"{secure.url}/v2/")
    assert f"certs.d/{secure.host}/ca.crt" in str(caught.value)
    assert secure.asked == []


def test_tls_of_a_private_authority_is_taken(
    secure: Faulty, settings: Settings, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """An authority in Docker's certs.d is trusted for its own host and for no other."""
    folder = tmp_path / "certs.d" / secure.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
    trusting = replace(settings, certificates=(tmp_path / "certs.d",))
    assert get(trusting, f"{secure.url}/v2/")[0] == 200
    folder.rename(folder.with_name("127.0.0.1:1"))
    with pytest.raises(RegistryError, match="cannot be trusted"):
        get(trusting, f"{secure.url}/v2/")


def test_tls_shows_the_clients_certificate(
    secure_to_known: Faulty, settings: Settings, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """A registry that asks for a client's certificate gets the one that certs.d has for it."""
    folder = tmp_path / "certs.d" / secure_to_known.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
    trusting = replace(settings, certificates=(tmp_path / "certs.d",), attempts=1)
    with pytest.raises(RegistryError):
        get(trusting, f"{secure_to_known.url}/v2/")
    (folder / "client.cert").write_bytes(certificate[0].read_bytes())
    (folder / "client.key").write_bytes(certificate[1].read_bytes())
    assert get(trusting, f"{secure_to_known.url}/v2/")[0] == 200


def test_tls_where_plain_http_is_spoken_is_told(faulty: Faulty, settings: Settings) -> None:
    """The commonest mistake with private registries has its own mend."""
    with pytest.raises(RegistryError, match="it speaks plain http"):
        get(settings, f"https://{faulty.host}/v2/")


def test_cancel_ends_a_body_that_does_not(faulty: Faulty, settings: Settings) -> None:
    """A thread that waits for bytes ends when another one cancels, without the read's timeout."""
    go_on = threading.Event()

    faulty.on("GET", "/x", faulty.answer(body=b"x" * 10, hold=go_on))
    ended: list[str] = []
    with Transport(settings) as transport:
        reply = transport.send("GET", f"{faulty.url}/x")

        def read(reply: Reply) -> None:
            try:
                reply.read(100)
            except RegistryError as error:
                ended.append(error.what)

        thread = threading.Thread(target=read, args=(reply,))
        thread.start()
        transport.cancel()
        thread.join(10)
        assert not thread.is_alive()
        with pytest.raises(RegistryError, match="cancelled"):
            transport.send("GET", f"{faulty.url}/x")
    go_on.set()
    assert len(ended) == 1
