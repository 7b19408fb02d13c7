"""Laws of the run's own network: who reaches a container that all processes of the run share."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import StartError
from pytest_containers.spec import ContainerSpec

if TYPE_CHECKING:
    from tests.runtime.conftest import Boxes, Shell

pytestmark = pytest.mark.kernel


def test_container_of_the_run_is_reached_by_name_from_all_networks(boxes: Boxes, sh: Shell) -> None:
    """Others find a container of the run by name and reach it; it does not reach them."""
    shared = boxes.start(ContainerSpec(name="shared", command=("sleep", "60"), lifetime="run"))
    handle = boxes.start(ContainerSpec(name="own", command=("sleep", "60")))
    boxes.engine.network("aside")
    apart = boxes.start(ContainerSpec(name="apart", command=("sleep", "60"), network="aside"))
    for one in (handle, apart):
        assert sh(one, "getent hosts shared").split() == [shared.ip, "shared"]
        # Nobody listens, and the answer to that comes from the container itself.
        assert "refused" in sh(one, f"bash -c 'echo > /dev/tcp/{shared.ip}/9' 2>&1 || true")
    assert "route" in sh(shared, f"bash -c 'echo > /dev/tcp/{handle.ip}/9' 2>&1 || true")
    assert sh(shared, "getent hosts own || echo unknown") == "unknown\n"


def test_container_is_known_by_its_networks_name_both_ways(boxes: Boxes, sh: Shell) -> None:
    """``name.network`` resolves, and an address is told with the name that the test gave the network."""
    boxes.engine.network("mynet")
    redis = boxes.start(ContainerSpec(name="redis", command=("sleep", "60"), network="mynet"))
    peer = boxes.start(ContainerSpec(name="peer", command=("sleep", "60"), network="mynet"))
    alone = boxes.start(ContainerSpec(name="alone", command=("sleep", "60")))
    assert sh(peer, "getent hosts redis.mynet").split() == [redis.ip, "redis.mynet"]
    assert sh(peer, f"getent hosts {redis.ip}").split() == [redis.ip, "redis.mynet"]
    assert sh(alone, "getent hosts alone.default").split() == [alone.ip, "alone.default"]
    assert sh(alone, "getent hosts redis || echo unknown") == "unknown\n"


def test_container_is_known_by_names_with_underscores(boxes: Boxes, sh: Shell) -> None:
    """Names as compose files have them are resolved, with and without the network's name."""
    spec = ContainerSpec(name="zoo_keeper_1", command=("sleep", "60"), aliases=("my_db", "_srv._tcp"))
    keeper = boxes.start(spec)
    peer = boxes.start(ContainerSpec(name="peer", command=("sleep", "60")))
    for name in ("zoo_keeper_1", "my_db", "my_db.default", "_srv._tcp"):
        assert sh(peer, f"getent hosts {name}").split() == [keeper.ip, name]


def test_container_has_its_names_while_it_runs(boxes: Boxes, sh: Shell) -> None:
    """Before its start and after its end, however that comes, nobody finds it; a restart names it again."""
    spec = ContainerSpec(name="web", command=("sleep", "60"), aliases=("shop",))
    web = boxes.create(spec)
    peer = boxes.start(ContainerSpec(name="peer", command=("sleep", "60")))

    def known() -> list[str]:
        found = sh(peer, f"getent hosts web shop {web.ip} || true").splitlines()
        return [line.split()[0] for line in found]

    assert known() == []
    for number in (signal.SIGKILL, signal.SIGTERM):
        web.start()
        assert known() == [web.ip] * 3
        assert sh(web, "getent hosts shop").split() == [web.ip, "shop"]
        web.signal(number)
        web.signal(signal.SIGKILL)
        web.wait(10)
        assert known() == []


def test_container_that_cannot_start_has_no_name(boxes: Boxes, sh: Shell) -> None:
    """A start that fails leaves no name behind."""
    broken = boxes.create(ContainerSpec(name="broken", command=("/no/such/program",)))
    with pytest.raises(StartError):
        broken.start()
    peer = boxes.start(ContainerSpec(name="peer", command=("sleep", "60")))
    assert sh(peer, "getent hosts broken || echo unknown") == "unknown\n"
