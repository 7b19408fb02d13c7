"""The image config: from JSON to what a container is started with, and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.errors import ImageError
from pytest_containers.images.config import History, read_config, read_history, write_config
from pytest_containers.images.digest import Digest
from pytest_containers.spec import Healthcheck, ImageConfig, Port

DIFF_ID = Digest.of(b"tar")
FULL = ImageConfig(
    entrypoint=("/entry",),
    command=("serve", "--all"),
    env=("PATH=/bin", "A=1", "EMPTY="),
    user="redis:redis",
    workdir="/data",
    ports=(Port(6379), Port(53, "udp")),
    volumes=("/data",),
    labels={"team": "blau"},
    stop_signal="SIGINT",
    shell=("/bin/bash", "-c"),
    onbuild=("RUN true",),
    healthcheck=Healthcheck(test=("CMD", "true"), interval_s=1.5, timeout_s=2, start_period_s=3, retries=7),
    architecture="amd64",
)


def config(run: object = None, rootfs: object = None) -> bytes:
    """Return the JSON of a config with *run* as what Docker calls its ``config``."""
    return json.dumps({"architecture": "amd64", "os": "linux", "config": run, "rootfs": rootfs}).encode()


def test_config_survives_its_own_encoding() -> None:
    """Every field that a container is started with goes through the JSON unharmed."""
    history = (History(created="2024-01-01T00:00:00Z", created_by="RUN x", empty_layer=True),)
    data = write_config(FULL, [DIFF_ID], history, "2024-01-01T00:00:00Z")
    assert read_config(data) == (FULL, (DIFF_ID,))
    assert read_history(data) == history


def test_config_of_the_same_values_has_the_same_bytes() -> None:
    """The image id follows from what the image says and nothing else."""
    assert write_config(FULL, [DIFF_ID]) == write_config(FULL, [DIFF_ID])


def test_config_counts_durations_in_nanoseconds() -> None:
    """The JSON has nanoseconds where a healthcheck has seconds (image-spec, config.md)."""
    written = json.loads(write_config(FULL, []))
    assert written["config"]["Healthcheck"]["Interval"] == 1_500_000_000
    assert written["config"]["ExposedPorts"] == {"6379/tcp": {}, "53/udp": {}}


def test_config_without_members_has_the_defaults() -> None:
    """Null and absent are the same, and mean what ImageConfig says."""
    assert read_config(b"{}") == (ImageConfig(), ())
    empty = {
        "Env": None,
        "Cmd": None,
        "ExposedPorts": None,
        "Volumes": None,
        "Labels": None,
        "Healthcheck": None,
    }
    assert read_config(config(empty)) == (ImageConfig(architecture="amd64"), ())


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("80/tcp", (Port(80),)),
        ("80", (Port(80),)),
        ("53/UDP", (Port(53, "udp"),)),
        ("8000-8002/tcp", (Port(8000), Port(8001), Port(8002))),
        ("9899/sctp", ()),
        ("0/tcp", ()),
        ("70000/tcp", ()),
        ("9-3/tcp", ()),
        ("0-3/udp", ()),
    ],
)
def test_config_reads_exposed_ports(name: str, ports: tuple[Port, ...]) -> None:
    """Ports come with transport and range; SCTP, and what is no port, is left out as docker does."""
    assert read_config(config({"ExposedPorts": {name: {}}}))[0].ports == ports


def test_ports_that_many_ranges_name_are_read_once() -> None:
    """Ranges over each other cost no more than the ports there are: 60,000 of them end, each port once."""
    ranges: dict[str, object] = {f"{first}-65535": {} for first in range(1, 60_001)}
    ports = read_config(config({"ExposedPorts": {**ranges, "7/udp": {}}}))[0].ports
    assert len(ports) == 65_536
    assert set(ports) == {Port(number) for number in range(1, 65_536)} | {Port(7, "udp")}


@pytest.mark.parametrize(
    ("words", "entrypoint"), [([""], ()), ([], ()), (["a", ""], ("a", "")), (["", "a"], ("", "a"))]
)
def test_entrypoint_of_one_empty_word_is_none(words: list[str], entrypoint: tuple[str, ...]) -> None:
    """`ENTRYPOINT [""]`, the usual way to clear that of a base, leaves the command to itself."""
    assert read_config(config({"Entrypoint": words}))[0].entrypoint == entrypoint


def test_config_healthcheck_zero_means_default() -> None:
    """A duration of 0 inherits Docker's default; NONE switches the check off."""
    read = read_config(config({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 0}}))[0].healthcheck
    assert read == Healthcheck(test=("CMD", "x"))
    assert read_config(config({"Healthcheck": {"Test": ["NONE"]}}))[0].healthcheck == Healthcheck(
        test=("NONE",)
    )
    assert read_config(config({"Healthcheck": {"Interval": 1}}))[0].healthcheck is None


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"no", "not JSON"),
        (config({"Env": "A=1"}), "Env is not a list"),
        (config({"Env": [None]}), r"Env\[0\] is not a string"),
        (config([]), "config is not an object"),
        (config(rootfs={"type": "layers", "diff_ids": ["sha256:1"]}), "DiffID"),
        (config(rootfs={"type": "squashfs"}), "unknown type"),
    ],
)
def test_config_refuses_by_name(data: bytes, word: str) -> None:
    """A malformed config ends as one ImageError that names the member."""
    with pytest.raises(ImageError, match=word):
        read_config(data)


@given(st.text() | st.just("\ud800"))
def test_config_label_of_any_text_can_be_written_again(text: str) -> None:
    """Text that JSON can escape and UTF-8 cannot carry is made good when it is read."""
    read, _ = read_config(config({"Labels": {"a": text}}))
    assert read_config(write_config(read, []))[0] == read
