"""ADD of URLs, from a real server on loopback."""

from __future__ import annotations

import email.utils
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_containers.errors import BuildFailed, DigestMismatch, SpecInvalid
from pytest_containers.images.digest import Digest
from pytest_containers.images.prune import prune
from tests.images.build.corpus import base_tar
from tests.images.build.plain import Site
from tests.images.build.webserver import Page, WebServer, serving
from tests.plugins.authority import Authority

_TIME = 1_234_567_890


@pytest.fixture
def server() -> Iterator[WebServer]:
    """Return a server without pages."""
    with serving() as found:
        yield found


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _entry(site: Site, name: str) -> tarfile.TarInfo:
    layer = site.layers(site.build(site.context))[-1]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        return tar.getmember(name)


def test_url_is_a_file_as_buildkit_writes_it(site: Site, server: WebServer) -> None:
    """The name is the URL's, the mode 0600, the time what Last-Modified says; nothing is unpacked."""
    modified = email.utils.formatdate(_TIME, usegmt=True)
    server.pages["/some/a%20b.tar"] = Page(content=base_tar(), headers={"Last-Modified": modified})
    tree = site.tree("FROM base", f"ADD {server.url('/some/a%20b.tar?query#part')} /srv/new/")
    assert tree["/srv/new/a b.tar"].startswith("file 0600 0:0 ")
    assert _entry(site, "srv/new/a b.tar").mtime == _TIME


def test_url_gets_name_owner_and_mode(site: Site, server: WebServer) -> None:
    """A URL may be given a name, and --chown and --chmod count."""
    server.pages["/x"] = Page(content=b"x")
    line = f"ADD --chown=app:staff --chmod=755 {server.url('/x')} /srv/program"
    assert site.tree("FROM base", line)["/srv/program"].startswith("file 0755 1000:50 ")
    assert _entry(site, "srv/program").mtime == 0


def test_url_is_unpacked_where_it_is_asked_for(site: Site, server: WebServer) -> None:
    """--unpack makes an archive's entries of it."""
    server.pages["/x"] = Page(content=base_tar())
    assert "/u/srv/file" in site.tree("FROM base", f"ADD --unpack {server.url('/x')} /u/")


def test_url_is_asked_whether_it_has_changed(site: Site, server: WebServer) -> None:
    """What has not changed is not sent again and its step found; what has is fetched and made anew."""
    page = server.pages["/x"] = Page(content=b"one", headers={"ETag": '"1"'})
    line = f"ADD {server.url('/x')} /srv/"
    before = site.top("FROM base", line)
    assert site.top("FROM base", line) == before
    assert site.cached == 1
    assert [asked[2].get("If-None-Match") for asked in server.asked] == [None, '"1"']
    page.content, page.headers = b"two", {"ETag": '"2"'}
    assert site.top("FROM base", line) != before
    page.headers = {"ETag": '"3"'}  # other validators, the same bytes
    site.top("FROM base", line)
    assert site.cached == 1


def test_url_with_a_checksum_is_verified(site: Site, server: WebServer) -> None:
    """Other bytes than --checksum names are refused with both digests, and none of them is kept."""
    server.pages["/x"] = Page(content=b"other")
    with pytest.raises(DigestMismatch, match=r"^Dockerfile:2: .* is not what --checksum says") as caught:
        site.tree("FROM base", f"ADD --checksum={_digest(b'wanted')} {server.url('/x')} /srv/")
    assert _digest(b"other") in caught.value.seen
    assert not site.store.blobs.has(Digest.parse(_digest(b"other")))


def test_url_with_a_checksum_is_fetched_once(site: Site, server: WebServer) -> None:
    """What --checksum names and is here is not asked for, so it is there offline as well."""
    server.pages["/x"] = Page(content=b"x")
    line = f"ADD --checksum={_digest(b'x')} {server.url('/x')} /srv/"
    site.tree("FROM base", line)
    site.settings = replace(site.settings, offline=True)
    assert "/srv/x" in site.tree("FROM base", line, use_cache=False)
    assert len(server.asked) == 1


def test_url_with_another_checksum_than_sha256_is_verified(site: Site, server: WebServer) -> None:
    """--checksum takes sha512, and what it has verified is not asked for again."""
    server.pages["/x"] = Page(content=b"x")
    line = f"ADD --checksum=sha512:{hashlib.sha512(b'x').hexdigest()} {server.url('/x')} /srv/"
    site.tree("FROM base", line)
    assert "/srv/x" in site.tree("FROM base", line, use_cache=False)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("cuts", "whole"), [(1, True), (3, True), (4, False)])
def test_url_without_a_length_is_read_again_where_it_breaks(
    site: Site, server: WebServer, cuts: int, whole: bool
) -> None:
    """A chunked body that breaks off is fetched anew, as often as other requests are."""
    server.pages["/x"] = Page(content=b"x" * 5000, chunked=True, cuts=cuts)
    if whole:
        assert "/srv/x" in site.tree("FROM base", f"ADD {server.url('/x')} /srv/")
    else:
        with pytest.raises(BuildFailed, match="cannot be fetched"):
            site.tree("FROM base", f"ADD {server.url('/x')} /srv/")
    assert len(server.asked) == min(cuts + 1, site.settings.attempts)


def test_url_that_is_too_slow_is_a_failure_of_its_line(site: Site, server: WebServer) -> None:
    """A body that trickles, and whose length nobody told, is one error with the line."""
    server.pages["/x"] = Page(content=b"x" * 5000, chunked=True)
    ticks = itertools.count()
    # By this clock each piece takes a minute.
    site.settings = replace(
        site.settings, floor_bytes_per_s=1 << 30, floor_window_s=1.0, clock=lambda: 60.0 * next(ticks)
    )
    with pytest.raises(BuildFailed, match=r"^Dockerfile:2: .* cannot be fetched"):
        site.tree("FROM base", f"ADD {server.url('/x')} /srv/")


def test_url_that_nobody_wants_any_more_is_pruned(site: Site, server: WebServer) -> None:
    """What was fetched is an entry of the build cache, and goes with it."""
    server.pages["/x"] = Page(content=b"x")
    site.tree("FROM base", f"ADD {server.url('/x')} /srv/")
    digest = Digest.parse(_digest(b"x"))
    prune(site.store)
    assert site.store.blobs.has(digest)
    prune(site.store, max_bytes=0)
    assert not site.store.blobs.has(digest)


def test_url_is_refused_offline(site: Site, server: WebServer) -> None:
    """Offline a URL is asked nothing, and the mend says how to have it."""
    site.settings = replace(site.settings, offline=True)
    with pytest.raises(BuildFailed, match=r"Dockerfile:2: .*/x cannot be fetched") as caught:
        site.tree("FROM base", f"ADD {server.url('/x')} /srv/")
    assert "offline" in caught.value.seen
    assert not server.asked


def test_url_that_breaks_off_is_continued(site: Site, server: WebServer) -> None:
    """A body that is cut goes on from there where the server can, and from the start where not."""
    content = os.urandom(100_000)
    server.pages["/with"] = Page(content=content, headers={"ETag": '"1"'}, cuts=2)
    server.pages["/without"] = Page(content=content, cuts=1)
    site.tree("FROM base", f"ADD {server.url('/with')} {server.url('/without')} /srv/")
    assert _entry(site, "srv/with").size == _entry(site, "srv/without").size == len(content)
    ranges = [asked[2]["Range"] for asked in server.asked if "Range" in asked[2]]
    assert ranges
    assert all(one != "bytes=0-" for one in ranges)


def test_url_without_a_length_is_taken(site: Site, server: WebServer) -> None:
    """A chunked body is whole at its end."""
    server.pages["/x"] = Page(content=b"y" * 5000, chunked=True)
    site.tree("FROM base", f"ADD {server.url('/x')} /srv/")
    assert _entry(site, "srv/x").size == 5000


def test_url_follows_redirects_under_its_own_name(site: Site, server: WebServer) -> None:
    """The name is that of the URL in the Dockerfile, wherever it leads."""
    server.pages["/first"] = Page(status=302, headers={"Location": "/second"})
    server.pages["/second"] = Page(content=b"x")
    assert "/srv/first" in site.tree("FROM base", f"ADD {server.url('/first')} /srv/")


def test_url_that_is_not_there_is_told_with_its_line(site: Site, server: WebServer) -> None:
    """An answer that is no file fails the build with line, URL and status; a query is not shown."""
    with pytest.raises(BuildFailed, match=r"^Dockerfile:2: http://127.0.0.1:\d+/x cannot be") as caught:
        site.tree("FROM base", f"ADD {server.url('/x?token=secret')} /srv/")
    assert "404" in caught.value.seen
    assert "secret" not in str(caught.value)


def test_url_with_a_password_is_refused_before_the_first_step(site: Site, server: WebServer) -> None:
    """Credentials have no place in a Dockerfile, and are repeated in no message."""
    url = server.url("/x").replace("//", "//user:hunter2@")
    with pytest.raises(SpecInvalid, match="has a user or password in it") as caught:
        site.tree("FROM base", f"ADD {url} /srv/")
    assert "hunter2" not in str(caught.value)
    assert not server.asked


def test_url_gets_no_credentials(site: Site, server: WebServer, tmp_path: Path) -> None:
    """A login for the same host is for its registry, and never sent to a URL."""
    host = server.url("").removeprefix("http://")
    login = {"auths": {host: {"auth": "dXNlcjpodW50ZXIy"}}}
    (tmp_path / "config.json").write_text(json.dumps(login))
    site.settings = replace(site.settings, environ={"DOCKER_CONFIG": str(tmp_path)})
    server.pages["/x"] = Page(content=b"x")
    site.tree("FROM base", f"ADD {server.url('/x')} /srv/")
    assert all("Authorization" not in asked[2] for asked in server.asked)


def test_url_by_tls_is_trusted_by_its_authority(
    site: Site, tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    """A private authority is trusted where it is put for the host, another one is not."""
    (tmp_path / "tls").mkdir()
    with serving(authority=authority, folder=tmp_path / "tls") as server:
        server.pages["/x"] = Page(content=b"x")
        host = server.url("").removeprefix("https://")
        trusted = tmp_path / "certs.d" / host
        trusted.mkdir(parents=True)
        site.settings = replace(site.settings, certificates=(tmp_path / "certs.d",))
        (trusted / "ca.crt").write_bytes(stranger.pem())
        with pytest.raises(BuildFailed, match="cannot be fetched") as caught:
            site.tree("FROM base", f"ADD {server.url('/x')} /srv/")
        assert "cannot be trusted" in caught.value.seen
        (trusted / "ca.crt").write_bytes(authority.pem())
        assert "/srv/x" in site.tree("FROM base", f"ADD {server.url('/x')} /srv/")


def test_url_of_an_ignored_name_is_added(site: Site, server: WebServer) -> None:
    """The ignore file speaks of the context alone; local files may stand beside a URL."""
    server.pages["/x.log"] = Page(content=b"x")
    site.write(**{".dockerignore": "*.log\n", "local": "y"})
    tree = site.tree("FROM base", f"ADD local {server.url('/x.log')} /srv/both/")
    assert {"/srv/both/local", "/srv/both/x.log"} <= tree.keys()
