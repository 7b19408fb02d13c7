"""What a test may say about a container, and what is refused at once."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from pytest_containers import Limits, Port, SpecInvalid, log
from pytest_containers.order import Options, Order
from pytest_containers.spec import Bind, ContainerSpec


def test_order_reads_what_is_run(tmp_path: Path) -> None:
    """What a test says about its process arrives in the spec."""
    (tmp_path / "env").write_text("# a comment\n\nCOLOUR=red\n  SHAPE=a=b \n")
    order = Order.of(
        "redis:7",
        command="redis-server --port 1",
        entrypoint=["tini", "--"],
        env={"COLOUR": "blue"},
        env_file=tmp_path / "env",
        user="redis",
        workdir=PurePosixPath("/data"),
        limits=Limits(pids=10),
        init=True,
        cap_add=["NET_ADMIN"],
        cap_drop=("CHOWN",),
        privileged=True,
        no_new_privs=True,
        stop_signal="INT",
        stop_timeout=1,
    )
    assert order.spec == ContainerSpec(
        name="",
        command=("redis-server", "--port", "1"),
        entrypoint=("tini", "--"),
        env={"COLOUR": "blue", "SHAPE": "a=b "},
        user="redis",
        workdir="/data",
        limits=Limits(pids=10),
        init=True,
        cap_add=("NET_ADMIN",),
        cap_drop=("CHOWN",),
        privileged=True,
        no_new_privs=True,
        stop_signal="2",
        stop_timeout_s=1.0,
    )
    assert order.needs("run") == ("init", "limits", "run-lifetime")


def test_order_reads_a_profile_of_system_calls(tmp_path: Path) -> None:
    """A profile's text arrives in the spec, of a path as text or as Path; one word means no filter."""
    file = tmp_path / "profile.json"
    file.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    for given in (file, str(file)):
        assert Order.of("host", seccomp=given).spec.seccomp == '{"defaultAction": "SCMP_ACT_ALLOW"}'
    assert Order.of("host", seccomp="unconfined").spec.seccomp == "unconfined"
    assert Order.of("host", seccomp=None).spec.seccomp is None
    assert Order.of("host").spec.seccomp is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"{}", "defaultAction cannot be meant"),
        (b"no", "is no seccomp profile"),
    ],
)
def test_order_refuses_a_profile_that_cannot_be_meant(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    """A file that is missing, no text, no JSON or no profile is told before anything starts."""
    file = tmp_path / "profile.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SpecInvalid, match=told) as caught:
        Order.of("host", seccomp=file)
    assert str(file) in caught.value.what


def test_order_reads_what_is_around(tmp_path: Path) -> None:
    """What a test says about names, network and files arrives in the spec."""
    (tmp_path / "file").write_text("host")
    order = Order.of(
        "redis:7",
        name="db-1.example",
        hostname="db",
        ports=[6379, "53/udp"],
        volumes={tmp_path: "/host", str(tmp_path / "file"): "/file:ro"},
        tmpfs={"/run": "64m", "/tmp": 4096},
        files={"/etc/a": "é", "/etc/b": b"\0", "/etc/c": tmp_path / "file"},
        network="apart",
        aliases=["store"],
        read_only=True,
        labels={"who": "me"},
    )
    assert order.spec == ContainerSpec(
        name="db-1.example",
        hostname="db",
        ports=(Port(6379), Port(53, "udp")),
        binds=(
            Bind(source=str(tmp_path), target="/host"),
            Bind(source=str(tmp_path / "file"), target="/file", read_only=True),
        ),
        tmpfs={"/run": 64 << 20, "/tmp": 4096},
        files={"/etc/a": b"\xc3\xa9", "/etc/b": b"\0", "/etc/c": b"host"},
        network="apart",
        aliases=("store",),
        read_only=True,
        labels={"who": "me"},
    )
    assert order.needs("owner") == ("tmpfs", "binds")


def test_order_keeps_what_is_not_the_engine_s() -> None:
    """Image, probe, time and pull are for the session."""
    order = Order.of("redis:7", ready=log("ready"), timeout=5, pull="always", platform="linux/arm64")
    assert (order.image, order.ready, order.timeout_s) == ("redis:7", log("ready"), 5.0)
    assert (order.pull, order.platform, order.named_volumes) == ("always", "linux/arm64", ())


def test_order_of_nothing_is_as_the_image_says() -> None:
    """Words that are left out, and None, change nothing."""
    empty: Options = {
        "command": None,
        "env": None,
        "ports": None,
        "tmpfs": None,
        "network": None,
        "name": None,
    }
    assert Order.of("x", **empty) == Order.of("x")
    assert Order.of("x").spec == ContainerSpec(name="")
    assert Order.of("x").needs("owner") == ()
    assert Order.of("x", command="", entrypoint=[]).spec.command == ()


def test_order_tells_itself_from_others() -> None:
    """The fingerprint is the same for the same words, and another for others."""
    first = Order.of("x", env={"A": "1"}).fingerprint()
    assert first == Order.of("x", env={"A": "1"}, ready=lambda _: True).fingerprint()
    others = [
        Order.of("y", env={"A": "1"}),
        Order.of("x", env={"A": "2"}),
        Order.of("x", platform="linux/arm64"),
    ]
    assert first not in {order.fingerprint() for order in others}


def test_fingerprint_does_not_know_in_which_order_pairs_were_written() -> None:
    """What means the same is the same container, however its pairs and sets were ordered."""
    one = Order.of(
        "x",
        env={"A": "1", "B": "2"},
        ports=[1, 2],
        aliases=["a", "b"],
        labels={"a": "1", "b": "2"},
        tmpfs=["/a", "/b"],
        volumes={"/usr": "/a", "/etc": "/b:ro"},
        cap_add=["CHOWN", "KILL"],
        files={"/a": "1", "/b": "2"},
    )
    other = Order.of(
        "x",
        env={"B": "2", "A": "1"},
        ports=[2, 1],
        aliases=["b", "a"],
        labels={"b": "2", "a": "1"},
        tmpfs=["/b", "/a"],
        volumes={"/etc": "/b:ro", "/usr": "/a"},
        cap_add=["KILL", "CHOWN"],
        files={"/b": "2", "/a": "1"},
    )
    assert one.fingerprint() == other.fingerprint()
    assert Order.of("x", command=["a", "b"]).fingerprint() != Order.of("x", command=["b", "a"]).fingerprint()


@pytest.mark.parametrize(
    "options",
    [
        {"platform": "linux/arm64"},
        {"env": {"A": "2"}},
        {"command": ["other"]},
        {"ports": [2]},
        {"files": {"/a": "2"}},
        {"volumes": {"/usr": "/a:ro"}},
        {"tmpfs": {"/t": 1}},
        {"limits": Limits(pids=1)},
        {"user": "1"},
        {"read_only": True},
        {"stop_timeout": 1},
        {"name": "n"},
    ],
)
def test_fingerprint_knows_every_word(options: Options) -> None:
    """Another value of any option is another container, in every process of the run."""
    base: Options = {"env": {"A": "1"}, "ports": [1], "files": {"/a": "1"}, "volumes": {"/usr": "/a"}}
    changed: Options = {**base, **options}
    assert Order.of("x", **base).fingerprint() != Order.of("x", **changed).fingerprint()


def test_unknown_word_is_a_type_error() -> None:
    """A keyword that does not exist is told with those that do."""
    with pytest.raises(TypeError, match=r"no 'comand'; it has name, command"):
        Order.of("x", comand="ls")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "-dash"}, "cannot be the name"),
        ({"name": "a..b"}, "cannot be the name"),
        ({"name": ""}, "cannot be the name"),
        ({"aliases": ["a b"]}, "cannot be the name"),
        ({"ports": [70000]}, "is not a port"),
        ({"workdir": "relative"}, "no absolute path"),
        ({"files": {"etc/a": ""}}, "no absolute path"),
        ({"files": {"/etc/a": Path("/no/such/file")}}, "cannot be read"),
        ({"env": {"A=B": ""}}, "variable of the environment"),
        ({"env": {"": "x"}}, "variable of the environment"),
        ({"env_file": "/no/such/file"}, "cannot be read"),
        ({"volumes": {"/no/such/folder": "/x"}}, "does not exist on this machine"),
        ({"volumes": {"/": "x"}}, "no absolute path"),
        ({"volumes": {"/": "/x:rx"}}, "no mode of a volume"),
        ({"tmpfs": {"/x": "much"}}, "is not a size"),
        ({"timeout": -1}, "not a time to wait"),
        ({"stop_timeout": -0.1}, "not a time to wait"),
        ({"stop_signal": "SIGNOTHING"}, "is not a signal"),
        ({"command": "'open"}, "cannot be split"),
        ({"ready": 6379}, "is not a probe"),
    ],
)
def test_word_that_cannot_be_meant_is_refused(options: Options, told: str) -> None:
    """Each slip of the pen is told before anything starts."""
    with pytest.raises(SpecInvalid, match=told):
        Order.of("x", **options)


def test_volume_without_a_slash_is_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name is a volume; a path is a bind, also a relative one."""
    monkeypatch.chdir(tmp_path)
    order = Order.of("x", volumes={"data": "/data", ".": "/here", Path(): "/too"})
    assert order.named_volumes == ("data",)
    assert [bind.source for bind in order.spec.binds] == [str(tmp_path)] * 2
    assert "volumes" in order.needs("owner")


def test_env_file_passes_a_bare_name_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a value takes this process's, where it has one."""
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    (tmp_path / "env").write_text("HERE\nNOT_HERE\n")
    assert Order.of("x", env_file=tmp_path / "env").spec.env == {"HERE": "yes"}


def test_tmpfs_may_be_a_list() -> None:
    """Without a size the kernel's own holds."""
    assert Order.of("x", tmpfs=["/run", "/tmp"]).spec.tmpfs == {"/run": 0, "/tmp": 0}


@pytest.mark.parametrize("entrypoint", ["", [], [""]])
def test_empty_entrypoint_clears_the_images(entrypoint: str | list[str]) -> None:
    """An empty text, an empty list and one empty word all mean: no entrypoint."""
    assert Order.of("x", entrypoint=entrypoint, command=["true"]).spec.entrypoint == ()
