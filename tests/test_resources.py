"""How a test writes what a container may take."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.order import Order
from pytest_containers.resources import limits_of, size_bytes, ulimits_of
from pytest_containers.spec import Limits, Ulimit


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (5, 5),
        ("5", 5),
        ("5b", 5),
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
    ],
)
def test_size_is_read_as_docker_reads_it(written: int | str, size: int) -> None:
    """A size is bytes, or a number with a unit of 1024."""
    assert size_bytes(written) == size


@pytest.mark.parametrize("written", ["", "m", "64x", "-1", "1,5g", True])
def test_size_that_is_none_is_refused(written: str) -> None:
    """What is no size is refused with the right spelling."""
    with pytest.raises(SpecInvalid, match="not a size"):
        size_bytes(written)


def test_limits_are_read() -> None:
    """Every limit has a key, and one that is left out or None is no limit."""
    assert limits_of(None) == limits_of({}) == limits_of({"memory": None}) == Limits()
    wanted = Limits(memory_bytes=512 << 20, cpus=1.5, pids=100, storage_bytes=1 << 30)
    assert limits_of({"memory": "512m", "cpus": 1.5, "pids": 100, "storage": "1g"}) == wanted
    assert limits_of({"memory": 512 << 20, "cpus": "1.5", "pids": "100", "storage": "1g"}) == wanted
    assert limits_of(wanted) is wanted


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memry": "1g"}, "'memory'"),
        ({"mem_limit": "1g"}, "'memory'"),
        ({"pids_limit": 5}, "'pids'"),
        ({"colour": 5}, "memory, cpus, pids, storage"),
        ({"memory": "much"}, "'much'"),
        ({"memory": "1m"}, "6m"),
        ({"cpus": "all"}, "'all'"),
        ({"cpus": 0}, "0.01"),
        ({"cpus": float("nan")}, "0.01"),
        ({"pids": 1.5}, "1.5"),
        ({"pids": 0}, "1 or more"),
        ({"storage": 5}, "1m"),
        (5, "mapping"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(limits: Mapping[str, int], words: str) -> None:
    """A key that is none is told its right spelling, and a value that nobody could run with is refused."""
    with pytest.raises(SpecInvalid) as caught:
        limits_of(limits)
    assert words in str(caught.value)


class Spelling(dict[str, object]):
    """docker-py's Ulimit is a dict with these keys."""


@pytest.mark.parametrize(
    "written",
    [
        {"nofile": (1024, 2048), "core": -1},
        {"nofile": {"soft": 1024, "hard": 2048}, "core": "unlimited"},
        {"RLIMIT_NOFILE": [1024, 2048], "CORE": -1},
        [Spelling(Name="nofile", Soft=1024, Hard=2048), Spelling(Name="core", Soft=-1, Hard=-1)],
        ["nofile=1024:2048", "core=-1"],
    ],
)
def test_ulimits_are_read_as_others_write_them(written: Mapping[str, int]) -> None:
    """A mapping, docker-py's list of Ulimit, compose's soft and hard and the command's text are one."""
    expected = (Ulimit(name="core", soft=-1, hard=-1), Ulimit(name="nofile", soft=1024, hard=2048))
    assert ulimits_of(written) == expected


def test_ulimit_of_one_number_is_soft_and_hard() -> None:
    """One number is both limits, and so is the one that a mapping names."""
    expected = (Ulimit(name="nproc", soft=5, hard=5),)
    assert ulimits_of({"nproc": 5}) == ulimits_of({"nproc": {"hard": 5}}) == expected
    assert ulimits_of(None) == ()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"nofiles": 5}, "'nofile'"),
        ({"zebra": 5}, "nofile, nproc"),
        ({"nofile": "many"}, "'many'"),
        ({"nofile": (5, 4)}, "above"),
        ({"nofile": (-1, 4)}, "above"),
        ({"nofile": (1, 2, 3)}, "(soft, hard)"),
        ({"nofile": -2}, "-1"),
        ({"nofile": 1.5}, "1.5"),
        ({"nofile": {}}, "(soft, hard)"),
        ("nofile=5", "mapping"),
        (["nofile"], "mapping"),
        (5, "mapping"),
    ],
)
def test_ulimits_that_cannot_be_meant_are_refused(written: Mapping[str, int], words: str) -> None:
    """A name that is none and a value that is none are refused with the right spelling."""
    with pytest.raises(SpecInvalid) as caught:
        ulimits_of(written)
    assert words in str(caught.value)


def test_order_carries_the_resources() -> None:
    """The keywords of a container reach the engine as nouns."""
    order = Order.of("host", limits={"memory": "64m"}, ulimits={"nofile": 5}, shm_size="256m", storage="disk")
    spec = order.spec
    assert (spec.limits, spec.ulimits) == (Limits(memory_bytes=64 << 20), ulimits_of({"nofile": 5}))
    assert (spec.shm_bytes, spec.storage) == (256 << 20, "disk")
    assert order.needs("owner") == ("limits",)
    assert Order.of("host").spec.shm_bytes == 64 << 20
    assert Order.of("host", limits={"storage": "5m"}).needs("owner") == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shm_size": "0"}, "no room"),
        ({"shm_size": "big"}, "not a size"),
        ({"storage": "tape"}, "tape"),
        ({"storage": "disk", "limits": {"storage": "5m"}}, "file system"),
    ],
)
def test_order_refuses_what_cannot_be_meant(options: Mapping[str, str], words: str) -> None:
    """A size of nothing, and a limit of what has none, are refused."""
    with pytest.raises(SpecInvalid) as caught:
        Order.of("host", **options)  # type: ignore[arg-type]  # on purpose
    assert words in str(caught.value)
