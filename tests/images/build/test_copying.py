"""The layers of COPY, ADD and WORKDIR: what they hold, on what they depend, and when they are the same."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from pytest_containers.errors import SpecInvalid
from tests.images.build.plain import Site


def _other_base() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("srv")
        entry.type, entry.linkname = tarfile.SYMTYPE, "elsewhere"
        tar.addfile(entry)
    return out.getvalue()


def test_link_keeps_its_layer_when_what_is_below_changes(site: Site) -> None:
    """COPY --link is found in the cache whatever it is laid over, and is the same blob."""
    site.load("other", _other_base())
    site.write(file="content", below="1")
    line = "COPY --link file /srv/deep/"
    before = site.top("FROM base", "COPY below /", line)
    site.write(below="2")
    assert site.top("FROM base", "COPY below /", line) == before
    assert site.cached == 1
    assert site.top("FROM other", line) == before
    assert site.cached == 1
    site.write(file="changed")
    assert site.top("FROM other", line) != before


def test_link_does_not_follow_links_below(site: Site) -> None:
    """A link of the base in the way of COPY --link is replaced by a folder."""
    site.load("other", _other_base())
    site.write(file="content")
    tree = site.tree("FROM other", "COPY --link file /srv/")
    assert tree["/srv"] == "folder 0755 0:0"
    assert "/srv/file" in tree
    assert "/elsewhere/file" in site.tree("FROM other", "COPY file /srv/")


def test_step_behind_a_link_depends_on_what_is_below_both(site: Site) -> None:
    """What follows a COPY --link is not taken from a build on another base."""
    site.load("other", _other_base())
    site.write(file="content", next="next")
    lines = ("COPY --link file /srv/", "COPY next /elsewhere/")
    site.tree("FROM base", *lines)
    site.tree("FROM other", *lines)
    assert site.cached == 1


def test_link_with_an_owner_by_name_takes_it_from_the_stage(site: Site) -> None:
    """Names of --chown are those of the stage, though the layer stands alone."""
    site.write(file="content")
    tree = site.tree("FROM base", "COPY --link --chown=app:staff file /srv/")
    assert tree["/srv/file"].startswith("file 0644 1000:50 ")


def test_copy_from_a_stage_is_found_by_content(site: Site) -> None:
    """A stage that was made anew and holds the same files changes nothing behind COPY --from."""
    site.write(file="content", other="1")
    lines = (
        "FROM base AS one",
        "COPY other /other",
        "COPY file /out/",
        "FROM base",
        "COPY --from=one /out /srv/",
    )
    before = site.top(*lines)
    site.write(other="2")
    assert site.top(*lines) == before
    assert site.cached == 1


def test_copy_of_an_empty_folder_makes_its_target(site: Site) -> None:
    """A folder with nothing in it is copied; a wildcard that finds nothing makes nothing."""
    (site.context / "empty").mkdir()
    assert site.tree("FROM base", "COPY empty /new/")["/new"] == "folder 0755 0:0"
    assert "/new" not in site.tree("FROM base", "COPY none* /new/")


def test_copy_names_what_is_in_the_way(site: Site) -> None:
    """A folder is no file's place and a file no folder's; the error has line and both kinds."""
    site.write(**{"tree/file/x": "x"})
    with pytest.raises(SpecInvalid, match=r"^Dockerfile:2: a folder cannot replace a file") as caught:
        site.tree("FROM base", "COPY tree /srv")
    assert caught.value.seen == "/srv/file is a file"


def test_copy_keeps_capabilities_attributes_and_names_of_one_file(site: Site) -> None:
    """Extended attributes go along, hard links stay links, also through another stage."""
    site.write(**{"d/a": "x"})
    os.link(site.context / "d/a", site.context / "d/b")
    # VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE (capabilities(7), "File capability extended attribute").
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(site.context / "d/a", "security.capability", capability)
    os.setxattr(site.context / "d/a", "user.note", b"kept")
    row = site.tree("FROM base AS one", "COPY d /d", "FROM base", "COPY --from=one /d /e")
    assert row["/e/a"].endswith(" SCHILY.xattr.security.capability SCHILY.xattr.user.note")
    assert row["/e/b"] == row["/e/a"] + " hard"


def test_copy_of_a_large_sparse_file_is_whole(site: Site) -> None:
    """A file with holes arrives with its size, and takes little room in the store."""
    with (site.context / "sparse").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    site.top("FROM scratch", "COPY sparse /")
    (layer,) = site.manifest(site.build(site.context)).layers
    assert layer.size < 1 << 20
    (tar,) = site.layers(site.build(site.context))
    with tarfile.open(fileobj=io.BytesIO(tar)) as read:
        assert read.getmember("sparse").size == (64 << 20) + 3


def test_parents_keep_the_folders_behind_the_pivot(site: Site) -> None:
    """--parents makes the folders of a source, from /./ on, below the target."""
    site.write(**{"a/b/c/file": "x", "a/b/other": "y"})
    tree = site.tree("FROM base", "COPY --parents a/./b/c/file a/b/o* /p/")
    assert {path for path in tree if path.startswith("/p/")} == {
        *("/p/a", "/p/a/b", "/p/a/b/other", "/p/b", "/p/b/c", "/p/b/c/file"),
    }


def test_exclude_leaves_files_out_and_counts(site: Site) -> None:
    """What --exclude names is not copied, and a change in it makes nothing anew."""
    site.write(**{"d/kept": "1", "d/left.log": "2"})
    line = "COPY --exclude=*.log d /d/"
    before = site.top("FROM base", line)
    site.write(**{"d/left.log": "changed"})
    assert site.top("FROM base", line) == before
    assert "/d/left.log" not in site.tree("FROM base", line)


def test_named_context_is_copied_from(site: Site, tmp_path: Path) -> None:
    """COPY --from takes a folder that was given a name, with the rules of the build context."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    (tmp_path / "other/hidden").write_text("x")
    (tmp_path / "other/.dockerignore").write_text("hidden\n")
    tree = site.tree("FROM base", "COPY --from=more . /m/", contexts={"more": str(tmp_path / "other")})
    assert "/m/file" in tree
    assert "/m/hidden" not in tree


def test_epoch_is_the_latest_time_and_part_of_the_key(site: Site) -> None:
    """With SOURCE_DATE_EPOCH no file is younger, and another epoch makes the layer anew."""
    site.write(**{"d/old": "1", "d/new": "2"})
    os.utime(site.context / "d/old", (500, 500))
    lines = ("FROM scratch", "COPY d /d/", "WORKDIR /w")
    (site.context / "Dockerfile").write_text("\n".join(lines) + "\n")
    times: dict[str, float] = {}
    for layer in site.layers(site.build(site.context, args={"SOURCE_DATE_EPOCH": "1000"})):
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            times.update({entry.name: entry.mtime for entry in tar})
    assert times == {"d": 1000, "d/new": 1000, "d/old": 500, "w": 1000}
    site.build(site.context, args={"SOURCE_DATE_EPOCH": "1001"})
    assert site.cached == 0


def test_build_with_an_epoch_is_the_same_on_another_store(tmp_path: Path) -> None:
    """Two builds without a cache, on two stores and at two times, are one manifest."""
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        site = Site(tmp_path / name)
        site.write(b="b", a="a")
        (site.context / "Dockerfile").write_text("FROM scratch\nCOPY . /x/\nWORKDIR /w\nENV A=1\n")
        record = site.build(site.context, args={"SOURCE_DATE_EPOCH": "1000"}, use_cache=False)
        digests.add(record.digest)
    assert len(digests) == 1
