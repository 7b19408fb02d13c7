"""Options of a container on the real kernel: what is written is what the process finds."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_containers import NotReady, SpecInvalid, log, port

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory, NetworkFactory, Shelf

pytestmark = pytest.mark.kernel

SLEEP: Final = ["sleep", "infinity"]
SERVE: Final = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening on", listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    client.sendall(b"hello")
    client.close()
"""


def test_none_unsets_a_variable_of_the_image(
    container: ContainerFactory, images: Shelf, tmp_path: Path
) -> None:
    """None takes away what the image sets, in the container and in one exec, and no word None is left."""
    (tmp_path / "Dockerfile").write_text("FROM host\nENV DEBUG=1 KEPT=2\n")
    image = images.build(tmp_path, tag="unset:1")
    box = container(image, command=SLEEP, env={"DEBUG": None, "OWN": "3"})
    assert "DEBUG" not in box.env
    assert box.exec(["printenv", "DEBUG"]).exit_code == 1
    assert box.exec(["printenv", "KEPT", "OWN"]).stdout == "2\n3\n"
    assert box.exec(["printenv", "OWN"], env={"OWN": None}).exit_code == 1
    assert box.exec(["printenv", "NEW"], env=["NEW=4"]).stdout == "4\n"


def test_files_come_with_their_modes(container: ContainerFactory, tmp_path: Path) -> None:
    """A script of this machine is executable inside, and a folder has its files, links and empty folders."""
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("run.sh")
    box = container(
        "host",
        command=["/opt/entry"],
        files={"/opt/entry": ("#!/bin/sh\necho up; exec sleep infinity\n", 0o755), "/srv/tree": tree},
        ready=log("up"),
    )
    assert box.exec(["/srv/tree/link"], check=True).stdout == "ran\n"
    assert box.exec(["stat", "-c", "%a %F", "/srv/tree/empty"]).stdout == "755 directory\n"
    assert box.exec(["stat", "-c", "%a", "/opt/entry"]).stdout == "755\n"


def test_image_that_a_build_returns_is_started(
    container: ContainerFactory, images: Shelf, tmp_path: Path
) -> None:
    """The record is the image, also where its name has become another's meanwhile."""
    (tmp_path / "Dockerfile").write_text("FROM host\nENV TURN=1\n")
    first = images.build(tmp_path, tag="turn:1")
    (tmp_path / "Dockerfile").write_text("FROM host\nENV TURN=2\n")
    second = images.build(tmp_path, tag="turn:1")
    assert container(first, command=SLEEP).exec(["printenv", "TURN"]).stdout == "1\n"
    assert container(second, command=SLEEP).exec(["printenv", "TURN"]).stdout == "2\n"


def test_network_host_is_this_machine_s(container: ContainerFactory) -> None:
    """A server on this machine's loopback is ready, is reached at 127.0.0.1, and sees its interfaces."""
    box = container(
        "host", command=["/usr/bin/python3", "-c", SERVE, "127.0.0.1", "0"], network="host", ready=log("on")
    )
    number = int(box.logs().split()[-1])
    box.wait_for(port(number), timeout=5)
    assert box.address(number) == ("127.0.0.1", number)
    assert box.address(number, published=True) == ("127.0.0.1", number)
    assert box.ip == "127.0.0.1"
    with socket.create_connection(box.address(number), timeout=5) as client:
        assert client.recv(9) == b"hello"
    names = {name for _, name in socket.if_nameindex()}
    assert names <= set(box.exec(["ls", "/sys/class/net"]).stdout.split()) | {
        line.split(":")[0].strip() for line in box.read_text("/proc/net/dev").splitlines()[2:]
    }
    assert box.exec(["getent", "hosts", box.name]).stdout.split()[0] == "127.0.0.1"


def test_container_on_the_host_s_network_is_no_name_of_ours(container: ContainerFactory) -> None:
    """Peers do not find it by name, and it does not end up at an address that nobody has."""
    box = container("host", name="outside", command=SLEEP, network="host")
    peer = container("host", command=SLEEP)
    assert box.ip not in peer.exec(["getent", "hosts", "outside"]).stdout.split()


def test_network_none_has_lo_alone(container: ContainerFactory) -> None:
    """Nothing goes out or comes in; what listens is ready, and its address is told as none."""
    box = container(
        "host", command=["/usr/bin/python3", "-c", SERVE, "0.0.0.0", "80"], network="none", ready=port(80)
    )
    devices = [line.split(":")[0].strip() for line in box.read_text("/proc/net/dev").splitlines()[2:]]
    assert devices == ["lo"]
    assert box.ip == ""
    with pytest.raises(SpecInvalid, match="has no address"):
        box.address(80)
    reach = "import socket; print(socket.create_connection(('127.0.0.1', 80)).recv(9))"
    assert box.exec(["/usr/bin/python3", "-c", reach], check=True).stdout == "b'hello'\n"


def test_network_is_one(container: ContainerFactory, network: NetworkFactory) -> None:
    """Several networks, and the names of those that are there, are told."""
    back = network()
    with pytest.raises(SpecInvalid, match="is not a network") as caught:
        container("host", command=SLEEP, network=[back, "default"])  # type: ignore[arg-type]
    assert "a container is on one" in str(caught.value)
    for name in ("host", "none", "default"):
        with pytest.raises(SpecInvalid, match="cannot be named"):
            network(name)


def test_name_with_an_underscore_is_resolved(container: ContainerFactory) -> None:
    """Names and aliases of a compose file are names here."""
    box = container("host", name="my_db", aliases=["zoo_keeper_1"], command=SLEEP)
    peer = container("host", command=SLEEP)
    for name in ("my_db", "zoo_keeper_1"):
        assert peer.exec(["getent", "hosts", name]).stdout.split()[:1] == [box.ip]


def test_exposed_port_of_a_container_without_network_is_told(container: ContainerFactory) -> None:
    """A port that is never bound is told as anywhere."""
    with pytest.raises(NotReady, match="no listener on 80/tcp"):
        container("host", command=SLEEP, network="none", ports=[80], timeout=0.1)
