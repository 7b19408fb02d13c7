"""Manifests and indexes: what is read, what is refused, and by which name."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.errors import ImageError
from pytest_containers.images import manifest as m
from pytest_containers.images.digest import Digest
from pytest_containers.images.platform import Platform

CONFIG = m.Descriptor(media_type=m.OCI_CONFIG, digest=Digest.of(b"config"), size=6)
LAYER = m.Descriptor(media_type=m.OCI_LAYER_GZIP, digest=Digest.of(b"layer"), size=5)
AMD64 = Platform.parse("linux/amd64")
ARM64 = Platform.parse("linux/arm64")


def document(members: Mapping[str, object] | None = None) -> bytes:
    """Return JSON with the members every manifest has, and others; None takes one away."""
    config = {"mediaType": m.OCI_CONFIG, "digest": Digest.of(b"c"), "size": 1}
    whole: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": m.OCI_MANIFEST,
        "config": config,
        "layers": [],
    }
    whole.update(members or {})
    return json.dumps({key: value for key, value in whole.items() if value is not None}).encode()


def entry(content: bytes, platform: Platform | None = None, mark: str = "") -> m.Descriptor:
    """Return a descriptor of a manifest; *mark* is what BuildKit calls its kind."""
    return m.Descriptor(
        media_type=m.OCI_MANIFEST,
        digest=Digest.of(content),
        size=len(content),
        platform=platform,
        annotations={"vnd.docker.reference.type": mark} if mark else {},
    )


def test_manifest_survives_its_own_encoding() -> None:
    """A manifest of ours reads back as itself."""
    made = m.Manifest(config=CONFIG, layers=(LAYER,), annotations={m.BASE_ANNOTATION: "host"})
    assert m.parse(made.encode()) == made
    assert made.base == "host"
    assert made.size_bytes == 11


def test_manifest_encoding_is_the_same_each_time() -> None:
    """Equal manifests have equal bytes, hence one digest."""
    first = m.Manifest(config=CONFIG, layers=(LAYER,), annotations={"a": "1"})
    second = m.Manifest(config=CONFIG, layers=(LAYER,), annotations={"a": "1"})
    assert first.encode() == second.encode()


def test_index_survives_its_own_encoding() -> None:
    """An index of ours reads back as itself, platforms included."""
    made = m.Index(manifests=(entry(b"a", AMD64), entry(b"b", Platform.parse("linux/arm/v7")), entry(b"c")))
    assert m.Index.parse(made.encode()) == made


@pytest.mark.parametrize(
    "media_type",
    [m.OCI_MANIFEST, m.DOCKER_MANIFEST, m.OCI_MANIFEST + "; charset=utf-8", m.OCI_MANIFEST.upper()],
)
def test_manifest_type_ignores_case_and_parameters(media_type: str) -> None:
    """Parameters and case of a Content-Type carry no meaning."""
    found = m.parse(document({"mediaType": None}), media_type)
    assert isinstance(found, m.Manifest)
    assert found.media_type == media_type.partition(";")[0].lower()


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain; charset=utf-8"])
def test_manifest_speaks_for_itself_where_the_registry_says_nothing(content_type: str) -> None:
    """A generic Content-Type leaves the type to the body."""
    found = m.parse(document({"mediaType": m.DOCKER_MANIFEST}), content_type)
    assert found.media_type == m.DOCKER_MANIFEST


def test_manifest_without_any_type_is_known_by_its_members() -> None:
    """OCI allows a body without mediaType; its members tell the two kinds apart."""
    assert isinstance(m.parse(document({"mediaType": None})), m.Manifest)
    index = m.Index(manifests=(entry(b"a", AMD64),)).encode().replace(m.OCI_INDEX.encode(), b"")
    assert isinstance(m.parse(index), m.Index)


@pytest.mark.parametrize(
    ("data", "content_type", "word"),
    [
        (b"", "", "not JSON"),
        (b"[]", "", "not a JSON object"),
        (b"\xff\xfe", "", "not JSON"),
        (b"[" * 100_000, "", "not JSON"),
        (document(), m.DOCKER_MANIFEST, "not of the type"),
        (document({"schemaVersion": 1}), "", "schema 1"),
        (
            document({"mediaType": None}),
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "schema 1",
        ),
        (document({"schemaVersion": 3}), "", "unknown type"),
        (document({"mediaType": "application/x"}), "", "unknown type"),
        (document({"manifests": []}), "", "at once"),
        (document({"mediaType": None, "manifests": []}), "", "neither"),
        (document({"layers": {}}), "", "layers is not a list"),
        (document({"layers": [1]}), "", r"layers\[0\] is not an object"),
        (document({"config": None}), "", "no size"),
        (document({"config": {"digest": "sha256:1", "size": 1}}), "", "no valid digest"),
        (document({"config": {"digest": Digest.of(b""), "size": -1}}), "", "not a whole number"),
        (document({"config": {"digest": Digest.of(b""), "size": True}}), "", "not a whole number"),
        (document({"config": {"digest": Digest.of(b""), "size": 1.5}}), "", "not a whole number"),
        (document({"annotations": {"a": 1}}), "", "not a string"),
        (document({"padding": "x" * m.MANIFEST_LIMIT_BYTES}), "", "too large"),
    ],
)
def test_manifest_refuses_by_name(data: bytes, content_type: str, word: str) -> None:
    """What is no manifest ends as one ImageError that says what is wrong where."""
    with pytest.raises(ImageError, match=word):
        m.parse(data, content_type)


def test_manifest_and_index_are_not_taken_for_each_other() -> None:
    """Who asks for one kind never gets the other."""
    with pytest.raises(ImageError, match="a manifest stands"):
        m.Index.parse(document())
    with pytest.raises(ImageError, match="an index stands"):
        m.Manifest.parse(m.Index().encode())


@pytest.mark.parametrize("media_type", [m.EMPTY, "application/vnd.cncf.helm.config.v1+json"])
def test_manifest_of_an_artifact_is_no_image(media_type: str) -> None:
    """A chart or a signature in a registry is refused as an image, by its type."""
    found = m.Manifest.parse(
        document({"config": {"mediaType": media_type, "digest": Digest.of(b""), "size": 2}})
    )
    with pytest.raises(ImageError, match="artifact") as caught:
        found.check_image()
    assert media_type in str(caught.value)


def test_index_chooses_by_platform() -> None:
    """The entry of the platform asked for is the one that is taken."""
    index = m.Index(manifests=(entry(b"a", AMD64), entry(b"b", ARM64)))
    assert index.choose(ARM64) == entry(b"b", ARM64)
    assert index.choose(Platform.parse("linux/s390x")) is None


def test_index_skips_attestations() -> None:
    """Provenance that BuildKit puts into an index is never an image, whatever platform it shows."""
    unknown = entry(b"a", Platform(os="unknown", architecture="unknown"))
    marked = entry(b"b", mark="attestation-manifest")
    assert m.Index(manifests=(unknown, marked)).choose(AMD64) is None
    assert m.Index(manifests=(unknown, marked, entry(b"c"))).choose(AMD64) == entry(b"c")


@pytest.mark.parametrize(
    ("media_type", "foreign"),
    [
        (m.DOCKER_LAYER_GZIP, False),
        (m.OCI_LAYER_ZSTD, False),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", True),
    ],
)
def test_descriptor_knows_foreign_layers(media_type: str, foreign: bool) -> None:
    """The layers that may not be pushed elsewhere are known by their type."""
    assert m.Descriptor(media_type=media_type, digest=Digest.of(b""), size=0).foreign is foreign


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(str(Digest.of(b""))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("config layers manifests mediaType size digest platform urls annotations".split())
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("config layers manifests mediaType annotations".split()), JSON))
def test_manifest_parser_raises_nothing_but_its_own(members: dict[str, object]) -> None:
    """Any JSON is a manifest, an index or an ImageError; what is read can be written again."""
    data = json.dumps({"schemaVersion": 2, **members}).encode()
    try:
        found = m.parse(data)
    except ImageError:
        return
    assert m.parse(found.encode()) == found
