"""Fingerprints: what a source's files are known by, and when they are read all the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.context import Context
from pytest_containers.images.build.dockerfile import parse
from pytest_containers.images.build.fingerprint import fingerprint
from pytest_containers.images.build.hashes import Hashes
from pytest_containers.images.build.ignore import Ignore
from pytest_containers.images.build.instruction import Add, Copy

_LATER_NS = 10**10


def _line(text: str) -> Copy | Add:
    (instruction,) = parse(f"FROM scratch\n{text}\n".encode(), name="Dockerfile").stages[0].instructions
    assert isinstance(instruction, Copy | Add)
    return instruction


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of files, folders, a link and a file with two names."""
    root = tmp_path / "context"
    (root / "lib" / "deep").mkdir(parents=True)
    for name in ("lib/a", "lib/deep/b", "top"):
        (root / name).write_text(name)
    (root / "lib" / "link").symlink_to("a")
    (root / "lib" / "again").hardlink_to(root / "lib" / "a")
    # Kernels before 6.13 count file times in ticks of some milliseconds: let one go by.
    made_ns, probe = (root / "lib").stat().st_ctime_ns, tmp_path / "probe"
    while not probe.exists() or probe.stat().st_ctime_ns <= made_ns:
        probe.touch()
    return root


@pytest.fixture
def open_context(root: Path, tmp_path: Path) -> Callable[[], Context]:
    """Return what opens the context as the next build does, when all of it has long been settled."""
    clock = lambda: time.time_ns() + _LATER_NS  # noqa: E731
    return lambda: Context.open(root, hashes=Hashes(tmp_path / "hashes", now_ns=clock))


def _rewrite_in_its_time(root: Path) -> None:
    """Write other bytes of the same number, and give the file its old time back."""
    before = (root / "lib" / "a").stat()
    (root / "lib" / "a").write_text("lib/z")
    os.utime(root / "lib" / "a", ns=(before.st_atime_ns, before.st_mtime_ns))


def _relink(root: Path) -> None:
    (root / "lib" / "link").unlink()
    (root / "lib" / "link").symlink_to("b")


CHANGES: tuple[Callable[[Path], object], ...] = (
    _rewrite_in_its_time,
    _relink,
    lambda root: (root / "lib" / "deep" / "new").touch(),
    lambda root: (root / "lib" / "deep" / "b").unlink(),
    lambda root: (root / "lib" / "deep" / "b").rename(root / "lib" / "deep" / "c"),
    lambda root: (root / "lib" / "deep" / "b").chmod(0o600),
    lambda root: (root / "lib" / "deep").chmod(0o700),
    lambda root: os.setxattr(root / "lib" / "deep" / "b", "user.mark", b"1"),
    lambda root: (root / "lib" / "other").hardlink_to(root / "lib" / "deep" / "b"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_gives_another_fingerprint(root: Path, change: Callable[[Path], object]) -> None:
    """Whatever of a file reaches an image, the fingerprint tells that it has changed."""
    before = fingerprint(root, "lib", Ignore())
    assert before is not None
    assert before == fingerprint(root, "./lib/", Ignore())
    change(root)
    assert before != fingerprint(root, "lib", Ignore())


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_seen_through_what_is_remembered(
    root: Path, open_context: Callable[[], Context], change: Callable[[Path], object]
) -> None:
    """The digest is at all times that of a context that remembers nothing."""
    line = _line("COPY lib /x")
    context = open_context()
    context.content(line)
    assert context.hashes is not None
    context.hashes.save()
    change(root)
    assert open_context().content(line).digest == Context.open(root).select(line).digest


@pytest.mark.parametrize(
    "line", ["COPY lib /x", "COPY top lib/deep /x/", "ADD lib /x", "COPY <<one /x\n1\none"]
)
def test_settled_files_are_not_read_again(open_context: Callable[[], Context], line: str) -> None:
    """The second build knows the digest and has selected nothing."""
    first = open_context()
    read = first.content(_line(line))
    assert read.selection is not None
    assert first.hashes is not None
    first.hashes.save()
    known = open_context().content(_line(line))
    assert (known.digest, known.selection) == (read.digest, None)


@pytest.mark.parametrize(
    "other", ["COPY --exclude=a lib /x", "COPY --parents lib /x", "ADD lib /x", "COPY lib/*p /x", "COPY . /x"]
)
def test_other_instruction_is_another_content(open_context: Callable[[], Context], other: str) -> None:
    """What is remembered of one line is not taken for another one that selects from the same files."""
    context = open_context()
    context.content(_line("COPY lib /x"))
    assert context.content(_line(other)).selection is not None


def test_ignore_file_is_a_part_of_it(root: Path, open_context: Callable[[], Context]) -> None:
    """A new line in the ignore file is seen; what is left out whole does not matter."""
    before = open_context()
    digest = before.content(_line("COPY lib /x")).digest
    assert before.hashes is not None
    before.hashes.save()
    (root / ".dockerignore").write_text("lib/deep\n")
    after = open_context()
    content = after.content(_line("COPY lib /x"))
    assert content.digest != digest
    assert after.hashes is not None
    after.hashes.save()
    (root / "lib" / "deep" / "b").write_text("nobody looks")
    assert open_context().content(_line("COPY lib /x")).selection is None


@pytest.mark.parametrize("source", ["lib/link", "lib/*", "missing", r"lib/\a", "top/below"])
def test_source_that_stat_cannot_answer_for_is_read(root: Path, source: str) -> None:
    """A link, a wildcard that may meet one, what is not there: selecting tells."""
    assert fingerprint(root, source, Ignore()) is None


def test_content_that_changed_in_between_is_refused(root: Path, open_context: Callable[[], Context]) -> None:
    """A key that was made of one content never gets the layer of another."""
    line = _line("COPY top /x")
    digest = open_context().content(line).digest
    (root / "top").write_text("else")
    with pytest.raises(SpecInvalid, match=r"Dockerfile:2: files of COPY top /x changed"):
        open_context().select(line, expected=digest)
