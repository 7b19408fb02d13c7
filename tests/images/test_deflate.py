"""gzip: the same format from whichever library is there."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import zlib

import pytest

from pytest_containers.errors import LayerCorrupt
from pytest_containers.images import deflate
from pytest_containers.images.decompress import decompress

PLAIN = b"".join(b"line %d of a layer\n" % number for number in range(50_000)) + os.urandom(1 << 20)


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let *deflate* find the library of that name."""
    if request.param == "isal":
        pytest.importorskip("isal", reason="there is no ISA-L for this processor")
    else:

        def absent(name: str) -> object:
            raise ImportError(name)

        monkeypatch.setattr(importlib, "import_module", absent)
    return str(request.param)


def _packed() -> bytes:
    packer = deflate.deflater()
    return b"".join((packer.compress(PLAIN[:100_000]), packer.compress(PLAIN[100_000:]), packer.flush()))


@pytest.mark.usefixtures("library")
def test_deflater_writes_what_everybody_reads() -> None:
    """The standard library inflates what we pack, checksum and length included."""
    assert gzip.decompress(_packed()) == PLAIN


@pytest.mark.usefixtures("library")
def test_deflater_packs_the_same_bytes_the_same_way() -> None:
    """The header has no time (RFC 1952, MTIME), so a layer's blob depends on the layer alone."""
    packed = _packed()
    assert packed == _packed()
    assert packed[4:8] == bytes(4)


@pytest.mark.usefixtures("library")
def test_inflater_reads_members_of_any_writer() -> None:
    """Members of zlib at every level, and with a file's name in the header, come out plain."""
    members = [gzip.compress(PLAIN[:200_000], level) for level in (0, 1, 9)]
    named = io.BytesIO()
    with gzip.GzipFile("a name", "wb", fileobj=named, mtime=1) as file:
        file.write(PLAIN)
    packed = b"".join((*members, named.getvalue()))
    assert decompress(io.BytesIO(packed)).read() == PLAIN[:200_000] * 3 + PLAIN


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("at", [-1, -5], ids=["length", "checksum"])
def test_inflater_refuses_a_member_that_does_not_add_up(at: int) -> None:
    """A wrong length or checksum at the end is damage, though every byte before was read."""
    packed = bytearray(gzip.compress(PLAIN))
    packed[at] ^= 1
    with pytest.raises(LayerCorrupt, match="gzip"):
        decompress(io.BytesIO(bytes(packed))).read()


def test_deflater_is_the_fast_one_where_it_is_there(library: str) -> None:
    """ISA-L is used where it can be imported, else the standard library."""
    own = type(deflate.deflater()).__module__
    assert own == type(zlib.compressobj()).__module__ if library == "zlib" else own.startswith("isal")


@pytest.mark.usefixtures("library")
def test_deflater_is_plain_where_asked() -> None:
    """For the same bytes on any machine the standard library packs, whatever else is there."""
    expected = zlib.compressobj(1, wbits=31)
    packed = deflate.deflater(plain=True)
    assert packed.compress(PLAIN) + packed.flush() == expected.compress(PLAIN) + expected.flush()
