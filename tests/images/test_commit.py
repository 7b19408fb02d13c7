"""Commit: one layer more, everything else the parent's."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import ImageError, LayerCorrupt, LayerEscape, ReferenceInvalid
from pytest_containers.images.archive import import_tar
from pytest_containers.images.commit import commit, laid_over
from pytest_containers.images.host import host_key
from pytest_containers.images.manifest import (
    BASE_KEY_ANNOTATION,
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_GZIP,
    Descriptor,
    Manifest,
    read_config,
    read_history,
    write_config,
)
from pytest_containers.images.reference import Reference
from pytest_containers.images.store import Store
from pytest_containers.spec import Healthcheck, ImageConfig, ImageRecord, Port

if TYPE_CHECKING:
    from tests.images.conftest import TarBuilder

MakeTar = Callable[[], "TarBuilder"]
BASE = Reference.parse("base")
NEXT = Reference.parse("next")


@pytest.fixture
def base(store: Store, tar: MakeTar) -> ImageRecord:
    """Return an image of one layer with a command and an environment."""
    config = ImageConfig(command=("/a",), env=("A=1", "B=2"), labels={"x": "1"}, user="app")
    return import_tar(store, io.BytesIO(tar().file("a", b"1").file("b").bytes()), BASE, config)


def _blobs(store: Store) -> list[str]:
    return sorted(os.listdir(store.root / "blobs/sha256"))


def test_commit_adds_one_layer(store: Store, base: ImageRecord, tar: MakeTar) -> None:
    """The parent's layers are shared and not copied; the new one is unpacked and hides what was removed."""
    layer = io.BytesIO(tar().file("c", b"new").file(".wh.b").bytes())
    record = commit(store, base, layer, NEXT, ImageConfig())
    below, above = store.layers(record)
    assert store.find(NEXT) == record
    assert below == store.layers(base)[0]
    assert sorted(os.listdir(above)) == ["b", "c"]
    assert not (above / "b").is_file()
    assert record.diff_ids[:1] == base.diff_ids
    assert record.portable


def test_config_is_laid_over_the_parents(store: Store, base: ImageRecord, tar: MakeTar) -> None:
    """What is said replaces, what is empty stays, collections are joined."""
    config = ImageConfig(env=("B=3", "C=4"), labels={"y": "2"}, command=("/c",))
    record = commit(store, base, io.BytesIO(tar().bytes()), NEXT, config)
    assert record.config.env == ("A=1", "B=3", "C=4")
    assert record.config.labels == {"x": "1", "y": "2"}
    assert (record.config.command, record.config.user) == (("/c",), "app")
    assert record.config.architecture == base.config.architecture != ""


def test_every_field_of_a_config_is_laid_over() -> None:
    """A full config laid over an empty one, or an empty one over it, is that config."""
    full = ImageConfig(
        entrypoint=("/e",),
        command=("c",),
        env=("A=1",),
        user="u",
        workdir="/w",
        ports=(Port(1), Port(2, "udp")),
        volumes=("/v",),
        labels={"l": "1"},
        stop_signal="SIGINT",
        shell=("/bin/bash", "-c"),
        onbuild=("RUN x",),
        healthcheck=Healthcheck(test=("NONE",)),
        architecture="arm64",
    )
    assert laid_over(ImageConfig(), full) == laid_over(full, ImageConfig()) == full


def test_history_grows_by_the_layer(store: Store, base: ImageRecord, tar: MakeTar) -> None:
    """There is one step of history for every layer (image-spec, config.md)."""
    record = commit(store, base, io.BytesIO(tar().bytes()), NEXT, ImageConfig())
    history = read_history(store.blobs.read(store.manifest(NEXT)[1].config.digest))
    assert [step.created_by for step in history] == ["pytest-containers import", "pytest-containers commit"]
    assert len(history) == len(record.diff_ids)
    assert history[-1].created.endswith("Z")


def test_commit_on_the_host_keeps_its_key(store: Store, tar: MakeTar) -> None:
    """A container of host becomes an image on this machine's files, and so do its descendants."""
    host = store.find(Reference.parse("host"))
    assert host is not None
    first = commit(store, host, io.BytesIO(tar().file("etc/of-a-test", b"1").bytes()), BASE, ImageConfig())
    second = commit(store, first, io.BytesIO(tar().file("etc/another").bytes()), NEXT, ImageConfig(user="u"))
    manifest = store.manifest(NEXT)[1]
    assert (first.portable, second.portable) == (False, False)
    assert manifest.annotations[BASE_KEY_ANNOTATION] == host_key()
    assert store.layers(second)[:2] == store.layers(first)
    assert store.layers(second)[0] == Path("/")
    assert store.find(NEXT) == second
    assert (second.config.command, second.config.user) == (("/bin/sh",), "u")


def test_layers_of_a_docker_image_get_oci_names(store: Store, base: ImageRecord, tar: MakeTar) -> None:
    """Our manifest is an OCI one and lists Docker's layers by the OCI type of the same bytes."""
    manifest = store.manifest(BASE)[1]
    config = write_config(base.config, base.diff_ids)
    docker = Manifest(
        media_type=DOCKER_MANIFEST,
        config=Descriptor(media_type=DOCKER_CONFIG, digest=store.blobs.add(config), size=len(config)),
        layers=tuple(
            Descriptor(media_type=DOCKER_LAYER_GZIP, digest=layer.digest, size=layer.size)
            for layer in manifest.layers
        ),
    )
    parent = store.tag(BASE, docker.encode())
    commit(store, parent, io.BytesIO(tar().bytes()), NEXT, ImageConfig())
    assert {layer.media_type for layer in store.manifest(NEXT)[1].layers} == {OCI_LAYER_GZIP}


def test_stored_config_reads_back(store: Store, base: ImageRecord, tar: MakeTar) -> None:
    """The record says what the stored blobs say."""
    record = commit(store, base, io.BytesIO(tar().bytes()), NEXT, ImageConfig(workdir="/w"))
    config, diff_ids = read_config(store.blobs.read(store.manifest(NEXT)[1].config.digest))
    assert (config, diff_ids) == (record.config, record.diff_ids)


@pytest.mark.parametrize("kept", [0, 512, 700, -1024])
def test_layer_without_its_end_is_refused(store: Store, base: ImageRecord, tar: MakeTar, kept: int) -> None:
    """A writer that died in the middle gives no image."""
    before = _blobs(store)
    with pytest.raises(LayerCorrupt):
        commit(store, base, io.BytesIO(tar().file("c", b"x" * 2000).bytes()[:kept]), NEXT, ImageConfig())
    assert store.find(NEXT) is None
    assert _blobs(store) == before


def test_refused_layer_leaves_no_blob(store: Store, base: ImageRecord, tar: MakeTar) -> None:
    """A layer that does not unpack is not kept compressed either."""
    before = _blobs(store)
    with pytest.raises(LayerEscape):
        commit(store, base, io.BytesIO(tar().file("../c").bytes()), NEXT, ImageConfig())
    assert _blobs(store) == before


def test_nothing_is_committed_as_host(store: Store, base: ImageRecord, tar: MakeTar) -> None:
    """The machine's name is not given away."""
    with pytest.raises(ReferenceInvalid):
        commit(store, base, io.BytesIO(tar().bytes()), Reference.parse("host"), ImageConfig())


def test_parent_that_is_gone_is_named(store: Store, base: ImageRecord, tar: MakeTar) -> None:
    """A record of an image the store lost is an ImageError with the blob."""
    store.blobs.remove(store.manifest(BASE)[1].config.digest)
    with pytest.raises(ImageError, match="no blob"):
        commit(store, base, io.BytesIO(tar().bytes()), NEXT, ImageConfig())
