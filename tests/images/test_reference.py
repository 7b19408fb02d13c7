"""Names of images: the distribution grammar, and Docker's short forms of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.errors import ReferenceInvalid
from pytest_containers.images.digest import Digest
from pytest_containers.images.reference import Reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("redis", "docker.io/library/redis:latest"),
        ("redis:7", "docker.io/library/redis:7"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/redis", "docker.io/library/redis:latest"),
        ("index.docker.io/redis", "docker.io/library/redis:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("ghcr.io/x/y.z__w--v", "ghcr.io/x/y.z__w--v:latest"),
        (f"redis@{DIGEST}", f"docker.io/library/redis@{DIGEST}"),
        (f"redis:7@{DIGEST}", f"docker.io/library/redis:7@{DIGEST}"),
        ("Registry/app", "Registry/app:latest"),
        ("a" * 64 + "b", "docker.io/library/" + "a" * 64 + "b:latest"),
    ],
)
def test_reference_reads_as_docker_does(text: str, canonical: str) -> None:
    """A short name means Docker Hub, its official images and the tag latest."""
    assert str(Reference.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not a part of a repository"),
        ("Redis", "lower case: redis"),
        ("team/App", "lower case: team/app"),
        ("a//b", "not a part of a repository"),
        ("a/", "not a part of a repository"),
        ("a:", "not a tag"),
        ("a:-x", "not a tag"),
        ("a:" + "x" * 129, "not a tag"),
        ("a@sha256:12", "not a sha256 digest"),
        ("a@", "not a digest"),
        ("_a", "not a part of a repository"),
        ("a._b", "not a part of a repository"),
        ("a___b", "not a part of a repository"),
        ("x/" * 128 + "y", "257 characters"),
        ("a" * 64, "not its name"),
        ("http://host/app", "not a registry"),
        ("user@host/app", "not a digest"),
        ("host.example:99999999/app", "not a registry"),
        ("app\n", "not a part of a repository"),
        ("../etc", "not a registry"),
    ],
)
def test_reference_refuses_with_the_part_that_is_wrong(text: str, word: str) -> None:
    """A name outside the grammar is refused, and the message says which part."""
    with pytest.raises(ReferenceInvalid) as caught:
        Reference.parse(text)
    assert word in str(caught.value)


@pytest.mark.parametrize("name", ["x/" * 127 + "y", "a" * 247, "r.example/" + "x/" * 127 + "y"])
def test_reference_takes_a_repository_of_255_characters(name: str) -> None:
    """255 characters are the longest repository, without the registry; one more is refused."""
    assert len(Reference.parse(name).repository) == 255
    with pytest.raises(ReferenceInvalid, match="256 characters"):
        Reference.parse(f"{name}y")


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/redis:7", "redis:7"),
        ("docker.io/team/app", "team/app:latest"),
        ("docker.io/library/a/b", "library/a/b:latest"),
        ("docker.io/my.dir/x", "docker.io/my.dir/x:latest"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest"),
        ("docker.io/docker.io/x", "docker.io/docker.io/x:latest"),
        ("docker.io/index.docker.io/x", "docker.io/index.docker.io/x:latest"),
        ("docker.io/library/library/x", "library/library/x:latest"),
        ("ghcr.io/x/y", "ghcr.io/x/y:latest"),
    ],
)
def test_reference_familiar_reads_back_as_itself(text: str, familiar: str) -> None:
    """The short form is the shortest that still means the same image."""
    reference = Reference.parse(text)
    assert reference.familiar == familiar
    assert Reference.parse(familiar) == reference


def test_reference_target_is_the_digest_where_there_is_one() -> None:
    """A pinned reference is asked for by digest, whatever its tag."""
    reference = Reference.parse("redis:7")
    assert reference.target == "7"
    assert reference.pinned(Digest.parse(DIGEST)).target == DIGEST
    assert str(reference.pinned(Digest.parse(DIGEST))) == f"docker.io/library/redis:7@{DIGEST}"


@given(st.text(alphabet="aA0._-/:@[]", max_size=40) | st.text(max_size=40))
def test_reference_parser_accepts_only_what_it_reads_back(text: str) -> None:
    """Whatever is accepted prints to a text that means the same; all else is ReferenceInvalid."""
    try:
        reference = Reference.parse(text)
    except ReferenceInvalid:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
