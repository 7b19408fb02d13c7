"""Archives we write: byte for byte those of the standard library."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_containers._tar import TarWriter, header

KINDS = (
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=130)
NUMBERS = st.one_of(st.integers(0, 5000), st.integers(8**7 - 2, 8**7 + 2))


@st.composite
def entries(draw: st.DrawFn) -> tarfile.TarInfo:
    """Make a member of any kind, with what the format finds too long or too large among the usual."""
    entry = tarfile.TarInfo(draw(st.one_of(NAMES, st.just("usr/lib/file"))))
    entry.type = draw(st.sampled_from(KINDS))
    entry.linkname = draw(st.one_of(st.just(""), NAMES))
    entry.mode = draw(st.integers(0, 0o177777))
    entry.uid, entry.gid = draw(NUMBERS), draw(NUMBERS)
    entry.size = draw(st.one_of(st.integers(0, 10_000), st.integers(8**11 - 2, 8**11 + 2)))
    entry.mtime = draw(st.one_of(st.integers(-5, 2**31), st.integers(8**11 - 2, 8**11 + 2)))
    entry.devmajor = draw(st.integers(0, 300))
    fraction = st.builds("{}.{:09d}".format, st.integers(-5, 2**33), st.integers(0, 10**9 - 1))
    extended = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "mtime": fraction,
                "SCHILY.xattr.user.a": st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
            },
        )
    )
    entry.pax_headers = extended
    return entry


@given(entries())
@example(tarfile.TarInfo("a" * 100))
@example(tarfile.TarInfo("a" * 101))
def test_header_is_that_of_the_standard_library(entry: tarfile.TarInfo) -> None:
    """Whatever a member is, its blocks are those of tarfile in the pax format."""
    assert header(entry) == entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_header_holds_names_that_are_no_text() -> None:
    """Bytes of a name that are not UTF-8 are in the archive as they are on disk."""
    entry = tarfile.TarInfo(os.fsdecode(b"caf\xe9"))
    assert header(entry) == entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@pytest.mark.parametrize("sizes", [(), (0,), (511, 512, 513), (1 << 18, (1 << 18) + 1, 3)])
def test_archive_is_that_of_the_standard_library(sizes: tuple[int, ...]) -> None:
    """Data, padding and the end of an archive are those of tarfile, to the last byte."""
    ours, theirs = io.BytesIO(), io.BytesIO()
    with (
        TarWriter(ours) as written,
        tarfile.open(fileobj=theirs, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for number, size in enumerate(sizes):
            entry = tarfile.TarInfo(f"file-{number}")
            entry.size = size
            data = os.urandom(size)
            written.add(entry, io.BytesIO(data))
            tar.addfile(entry, io.BytesIO(data))
    assert ours.getvalue() == theirs.getvalue()


def test_archive_of_a_file_that_has_shrunk_has_no_end() -> None:
    """A file shorter than its header says is an error, and what is written passes for nothing whole."""
    entry = tarfile.TarInfo("shrunk")
    entry.size = 2 << 20
    out = io.BytesIO()
    with pytest.raises(OSError, match="shrunk ended 1048576 bytes before"), TarWriter(out) as tar:
        tar.add(entry, io.BytesIO(bytes(1 << 20)))
    out.seek(0)
    with tarfile.open(fileobj=out, mode="r|") as read, pytest.raises(tarfile.ReadError):
        read.getmembers()


class _Narrow(io.RawIOBase):
    """A stream that takes seven bytes a call, as a full pipe may."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        piece = memoryview(data)[:7]  # type: ignore[arg-type]
        self.taken += piece
        return len(piece)


def test_writer_goes_on_after_a_short_write() -> None:
    """A raw stream that takes a part of what it is given gets the rest."""
    out = _Narrow()
    entry = tarfile.TarInfo("file")
    entry.size = 1000
    with TarWriter(out) as tar:  # type: ignore[arg-type]
        tar.add(entry, io.BytesIO(b"x" * 1000))
    with tarfile.open(fileobj=io.BytesIO(bytes(out.taken))) as read:
        file = read.extractfile("file")
        assert file is not None
        assert file.read() == b"x" * 1000
