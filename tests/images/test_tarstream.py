"""The tar reader: what the formats say, bytes untouched, and clear ends for damaged streams."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.errors import ImageError, LayerCorrupt, LayerTooLarge
from pytest_containers.images.tarstream import Entry, TarStream

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

LIMIT = 1 << 30


def _read(data: bytes, *, piece: int = 1 << 16, limit_bytes: int = LIMIT) -> tuple[list[Entry], TarStream]:
    stream = TarStream(_cut(data, piece), limit_bytes=limit_bytes)
    return list(stream), stream


def _cut(data: bytes, piece: int) -> Iterator[bytes]:
    return iter([data[at : at + piece] for at in range(0, len(data), piece)])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("piece", [1, 511, 513, 1 << 16])
def test_entry_is_read_as_the_standard_library_wrote_it(form: int, piece: int) -> None:
    """Names, links, numbers and times survive in every format, however the stream is cut."""
    long = "a/" * 45 + "b" * 60
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        written = tarfile.TarInfo(long)
        written.size, written.mode, written.uid, written.gid, written.mtime = 3, 0o4755, 12, 34, 1_234_567_890
        archive.addfile(written, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * (100 if form == tarfile.USTAR_FORMAT else 150)
        archive.addfile(link)
    entries, stream = _read(out.getvalue(), piece=piece)
    first, second = entries
    assert (first.name, first.kind, first.size, first.mode) == (long.encode(), b"0", 3, 0o4755)
    assert (first.uid, first.gid, first.mtime_ns) == (12, 34, 1_234_567_890 * 10**9)
    assert (second.kind, second.link) == (b"2", link.linkname.encode())
    assert stream.ended


def test_base_256_number_is_read() -> None:
    """GNU tar writes a number too large for its octal field as bytes with the top bit set."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        written = tarfile.TarInfo("old")
        written.uid, written.mtime = 4_000_000_000, -5
        archive.addfile(written)
    entry = _read(out.getvalue())[0][0]
    assert (entry.uid, entry.mtime_ns) == (4_000_000_000, -5 * 10**9)


@pytest.mark.parametrize(
    ("at", "field", "told"),
    [
        (329, b"0010000\0", "device number"),
        (337, b"4000000\0", "device number"),
        (337, b"\x80\xff\xff\xff\xff\xff\xff\xff", "device number"),
        (136, b"\x80" + b"\xff" * 11, "time"),
        (136, b"\xff" + b"\0" * 11, "time"),
    ],
)
def test_number_beyond_what_the_kernel_holds_is_refused(
    tar: Callable[[], TarBuilder], at: int, field: bytes, told: str
) -> None:
    """A device number has 12 and 20 bits, a time has 64; neither is cut to fit."""
    block = bytearray(tar().add("n", b"3", device=(1, 3)).bytes(end=False))
    block[at : at + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(LayerCorrupt, match=told):
        _read(bytes(block))


def test_pax_time_keeps_nanoseconds(tar: Callable[[], TarBuilder]) -> None:
    """A pax time has a fraction of any length; the file system keeps nine digits."""
    data = tar().add("f", pax={b"mtime": b"1600000000.1234567891"}).add("g", pax={b"mtime": b"-1.5"}).bytes()
    assert [entry.mtime_ns for entry in _read(data)[0]] == [1_600_000_000_123_456_789, -1_500_000_000]


def test_pax_values_are_bytes(tar: Callable[[], TarBuilder]) -> None:
    """Attributes hold any byte, zeros and newlines included, and names need not be UTF-8."""
    value = bytes(range(256))
    data = tar().add(b"caf\xe9", pax={b"SCHILY.xattr.user.k": value, b"path": b"\xff\xfe"}).bytes()
    entry = _read(data)[0][0]
    assert (entry.name, entry.xattrs) == (b"\xff\xfe", {b"user.k": value})


def test_global_pax_header_changes_nothing(tar: Callable[[], TarBuilder]) -> None:
    """A global header (git archive writes one) does not reach the entries behind it."""
    data = tar().add("pax_global_header", b"g", b"12 path=evil\n").file("good").bytes()
    assert [entry.name for entry in _read(data)[0]] == [b"good"]


def test_data_nobody_copies_is_skipped(tar: Callable[[], TarBuilder]) -> None:
    """The next header is found behind the data, read or not."""
    data = tar().file("a", b"x" * 1000).file("b").bytes()
    assert [entry.name for entry in _read(data, piece=700)[0]] == [b"a", b"b"]


def test_header_only_kind_has_no_data(tar: Callable[[], TarBuilder]) -> None:
    """A link's size field does not count blocks: the next header follows at once."""
    data = tar().add("l", b"2", link="t", size=4096).file("b").bytes()
    assert [(entry.name, entry.size) for entry in _read(data)[0]] == [(b"l", 0), (b"b", 0)]


def test_name_with_slash_is_a_folder_in_old_archives(tar: Callable[[], TarBuilder]) -> None:
    """Before ustar a folder was a file whose name ends in a slash."""
    assert _read(tar().add("d/", b"\0").bytes())[0][0].kind == b"5"


def test_copy_writes_the_data(tar: Callable[[], TarBuilder], tmp_path: Path) -> None:
    """What is copied is the entry's data and nothing of its padding."""
    content = os.urandom(5000)
    stream = TarStream(_cut(tar().file("f", content).file("g", b"second").bytes(), 999), limit_bytes=LIMIT)
    for entry in stream:
        with (tmp_path / os.fsdecode(entry.name)).open("wb") as file:
            stream.copy(file.fileno(), entry)
    assert (tmp_path / "f").read_bytes() == content
    assert (tmp_path / "g").read_bytes() == b"second"


def test_end_mark_is_seen(tar: Callable[[], TarBuilder]) -> None:
    """A stream without the blocks of zeros is readable and known as such."""
    assert _read(tar().file("f").bytes())[1].ended
    assert not _read(tar().file("f").bytes(end=False))[1].ended


def test_drain_reads_behind_the_end_mark(tar: Callable[[], TarBuilder]) -> None:
    """Bytes behind the end mark belong to the stream and its digest."""
    seen: list[int] = []

    def chunks() -> Iterator[bytes]:
        for chunk in _cut(tar().file("f").bytes() + b"tail" * 1000, 100):
            seen.append(len(chunk))
            yield chunk

    stream = TarStream(chunks(), limit_bytes=LIMIT)
    assert [entry.name for entry in stream] == [b"f"]
    stream.drain()
    assert sum(seen) == 512 + 1024 + 4000


@pytest.mark.parametrize("missing", [1, 1000, 1100])
def test_cut_stream_is_refused(tar: Callable[[], TarBuilder], missing: int) -> None:
    """A stream that ends within an entry's data or header is corrupt."""
    data = tar().file("a", b"x" * 1024).file("b", b"y" * 1024).bytes(end=False)
    with pytest.raises(LayerCorrupt, match="ends in the middle"):
        _read(data[:-missing])


@pytest.mark.parametrize("padding", [0, 1, 71])
@pytest.mark.parametrize("piece", [1, 100, 5000])
def test_last_entry_needs_no_padding(tar: Callable[[], TarBuilder], padding: int, piece: int) -> None:
    """Where all of the content is there, the blocks need not be full (Go's archive/tar reads them so)."""
    data = tar().file("a", b"x").file("b", b"y" * 3000).bytes(end=False)
    cut = data[: len(data) - 72 + padding]
    stream = TarStream(_cut(cut, piece), limit_bytes=LIMIT)
    assert [b"".join(stream.pieces(entry)) for entry in stream] == [b"x", b"y" * 3000]


@pytest.mark.parametrize(
    "data",
    [
        b"<html>not found</html>" * 100,
        b"\x00" * 511 + b"\x01",
        bytes(range(256)) * 4,
    ],
)
def test_other_data_is_refused(data: bytes) -> None:
    """What has no checksum of a tar header is no tar."""
    with pytest.raises(LayerCorrupt, match="not a tar archive"):
        _read(data)


@pytest.mark.parametrize(
    "record",
    [b"99 path=x\n", b"path=x\n", b"9 pathx\n\n", b"0 a=b\n", b"5 =b\n", b"7 a=b\nx\n", b"-9 a=b\n"],
)
def test_damaged_pax_record_is_refused(tar: Callable[[], TarBuilder], record: bytes) -> None:
    """A pax record whose length does not fit it is corrupt."""
    with pytest.raises(LayerCorrupt, match="pax header"):
        _read(tar().add("pax", b"x", record).file("f").bytes())


@pytest.mark.parametrize(
    "pax",
    [
        {b"size": b"-1"},
        {b"size": b"1e3"},
        {b"uid": b"root"},
        {b"mtime": b"yesterday"},
        {b"path": b"a\0b"},
        {b"size": b"9" * 30},
    ],
)
def test_impossible_pax_value_is_refused(tar: Callable[[], TarBuilder], pax: dict[bytes, bytes]) -> None:
    """A number that is none, or a zero byte in a name, is corrupt and no guess is made."""
    with pytest.raises(LayerCorrupt):
        _read(tar().add("f", pax=pax).bytes())


def test_extension_has_a_limit(tar: Callable[[], TarBuilder]) -> None:
    """Names and attributes of an entry stay below a megabyte: they are held in memory."""
    with pytest.raises(LayerCorrupt, match="too long"):
        _read(tar().add("././@LongLink", b"L", b"n" * (2 << 20)).file("f").bytes())


def test_stream_has_a_limit(tar: Callable[[], TarBuilder]) -> None:
    """A stream longer than its limit ends as too large, also within data that is skipped."""
    with pytest.raises(LayerTooLarge, match="more than 4096 bytes"):
        _read(tar().file("f", bytes(100_000)).bytes(), limit_bytes=4096)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_an_image_error_or_harmless(data: st.DataObject) -> None:
    """Whatever bytes change, reading ends, and with nothing but an ImageError."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a", "b/" + "c" * 120, "d"):
            member = tarfile.TarInfo(name)
            member.size = 700
            archive.addfile(member, io.BytesIO(b"\1" * 700))
    raw = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    stream = TarStream(_cut(bytes(raw), data.draw(st.sampled_from([100, 512, 5000]))), limit_bytes=LIMIT)
    names: list[bytes] = []
    with contextlib.suppress(ImageError):
        names += [entry.name for entry in stream]
    assert len(names) <= len(raw) // 512
