"""What a test may say about a container, and what is refused at once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from pytest_containers import ImageConfig, ImageRecord, Limits, Port, SpecInvalid, log, spelling
from pytest_containers.errors import UnknownKeyword
from pytest_containers.order import Options, Order
from pytest_containers.spec import Bind, ContainerSpec, FileEntry


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
    (tmp_path / "file").chmod(0o644)
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
        files={"/etc/a": b"\xc3\xa9", "/etc/b": b"\0", "/etc/c": FileEntry(content=b"host")},
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
    with pytest.raises(TypeError, match=r"no keyword 'comand'"):
        Order.of("x", comand="ls")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("keyword", "mend"),
    [
        ("comand", "did you mean command="),
        ("enviroment_file", "did you mean env_file="),
        ("Ports", "did you mean ports="),
        ("scop", "did you mean scope="),
        ("xyzzy", "it takes name, command,"),
        ("environment", 'write env={"NAME": "value"}'),
        ("cmd", "write command=[...]"),
        ("mounts", "write volumes="),
        ("networks", "write network="),
        ("network_mode", 'write network="host"'),
        ("build_args", "images.build(folder, args="),
        ("dockerfile", "images.build(folder, dockerfile="),
        ("wait_for", "write ready="),
        ("detach", "write nothing"),
    ],
)
def test_unknown_word_is_told_with_what_was_meant(keyword: str, mend: str) -> None:
    """A slip of the pen, and what docker-py or compose call it, is told with our word."""
    with pytest.raises(UnknownKeyword) as caught:
        Order.of("x", **{keyword: "1"})  # type: ignore[arg-type]
    assert mend in caught.value.mend


def test_foreign_word_is_none_of_ours() -> None:
    """What is told as another tool's word is not a keyword that exists, and names one that does."""
    known = {*Options.__annotations__, "scope"}
    assert not known & spelling._FOREIGN.keys()
    for text in spelling._FOREIGN.values():
        named = set(re.findall(r"\b([a-z_]+)=", text)) - {"args", "dockerfile", "target", "memory_bytes"}
        assert named <= known | {"cpus", "pids"}


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"env": ["A=1", "B=x=y"]}, {"env": {"A": "1", "B": "x=y"}}),
        ({"env": {"A": 1}}, {"env": {"A": "1"}}),
        ({"labels": ["a=b", "c"]}, {"labels": {"a": "b", "c": ""}}),
        ({"volumes": {"/etc": {"bind": "/data", "mode": "ro"}}}, {"volumes": {"/etc": "/data:ro"}}),
        ({"volumes": {"/etc": {"bind": "/data"}}}, {"volumes": {"/etc": "/data"}}),
        ({"volumes": ["/etc:/data:ro", "/usr:/b"]}, {"volumes": {"/etc": "/data:ro", "/usr": "/b"}}),
        ({"volumes": {"/etc": "/data:rw"}}, {"volumes": {"/etc": "/data"}}),
        ({"volumes": ["/etc:/data:ro,z"]}, {"volumes": {"/etc": "/data:ro"}}),
        ({"volumes": {"/etc": PurePosixPath("/data")}}, {"volumes": {"/etc": "/data"}}),
        ({"tmpfs": {"/run": ""}}, {"tmpfs": ["/run"]}),
        ({"tmpfs": {"/run": None}}, {"tmpfs": ["/run"]}),
        ({"tmpfs": {"/run": "size=64m"}}, {"tmpfs": {"/run": 64 << 20}}),
        ({"tmpfs": ["/run:size=1g"]}, {"tmpfs": {"/run": "1g"}}),
        ({"tmpfs": {"/run": "2K"}}, {"tmpfs": {"/run": 2048}}),
        ({"ports": {"80/tcp": None}}, {"ports": [80]}),
        ({"ports": ("80", 81)}, {"ports": [80, 81]}),
        ({"user": 1000}, {"user": "1000"}),
        ({"files": {"/a": ("x", 0o644)}}, {"files": {"/a": ("x", 0o644)}}),
        ({"network": None}, {}),
    ],
)
def test_option_may_be_written_as_others_do(options: Options, other: Options) -> None:
    """The spellings of docker-py and of compose files mean the same as ours."""
    assert Order.of("x", **options).spec == Order.of("x", **other).spec


def test_longest_and_shortest_values_are_taken() -> None:
    """64 letters are a host name (sethostname(2)), 253 a name in the DNS, and no time at all is a time."""
    order = Order.of("x", hostname="a." * 31 + "ab", name=".".join(["a" * 63] * 3 + ["a" * 61]), timeout=0)
    assert len(order.spec.hostname or "") == 64
    assert len(order.spec.name) == 253
    assert order.timeout_s == 0.0


def test_none_takes_a_variable_away() -> None:
    """None is no word: the variable of the image, or of env_file=, is not there."""
    assert Order.of("x", env={"A": None}).spec.env == {"A": None}


def test_name_of_env_without_a_value_is_this_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without = passes a variable on, where there is one."""
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert Order.of("x", env=["HERE", "NOT_HERE"]).spec.env == {"HERE": "yes"}


def test_volume_of_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tilde is the home folder, and no volume with a name."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    order = Order.of("x", volumes={"~/data": "/data"})
    assert order.named_volumes == ()
    assert [bind.source for bind in order.spec.binds] == [str(tmp_path / "data")]
    assert Order.of("x", volumes=["~/data:/data"]).spec == order.spec
    with pytest.raises(SpecInvalid, match="~/none does not exist"):
        Order.of("x", volumes={"~/none": "/data"})


def test_volume_through_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    """A link is followed before the container starts."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (bind,) = Order.of("x", volumes={tmp_path / "link": "/data"}).spec.binds
    assert bind.source == str(tmp_path / "real")


def test_files_keep_their_mode_and_may_be_folders(tmp_path: Path) -> None:
    """A file of this machine keeps its mode, content may have one, and a folder comes whole."""
    script = tmp_path / "tree" / "bin" / "run.sh"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o750)
    script.parent.chmod(0o711)
    (tmp_path / "tree" / "link").symlink_to("bin/run.sh")
    files = Order.of(
        "x",
        files={
            "/one": script,
            "/two": ("text", 0o600),
            "/three": (b"raw", 0o4755),
            "/four": (script, 0o500),
            "/tree": tmp_path / "tree",
        },
    ).spec.files
    assert files["/one"] == FileEntry(content=b"#!/bin/sh\n", mode=0o750)
    assert files["/two"] == FileEntry(content=b"text", mode=0o600)
    assert files["/three"] == FileEntry(content=b"raw", mode=0o4755)
    assert files["/four"] == FileEntry(content=b"#!/bin/sh\n", mode=0o500)
    assert files["/tree/bin"] == FileEntry(kind="folder", mode=0o711)
    assert files["/tree/bin/run.sh"] == files["/one"]
    assert files["/tree/link"] == FileEntry(kind="link", target="bin/run.sh", mode=0o777)


def test_path_is_a_folder_also_without_a_slash() -> None:
    """`Path("app")` is the folder of that name, where the text may be an image."""
    assert Order.of(Path("app")).image == "./app"
    assert Order.of(Path("/srv/app")).image == "/srv/app"
    assert Order.of("app").image == "app"


def test_image_that_was_made_is_an_image() -> None:
    """What images.build() returns can be started as it is, and is another container than another image."""
    record = ImageRecord(reference="built:1", id="sha256:1", digest="", config=ImageConfig())
    order = Order.of(record)
    assert (order.image, order.record) == ("built:1", record)
    assert order.fingerprint() != Order.of(replace(record, id="sha256:2")).fingerprint()


WRONG: Final = (
    object(),
    5,
    -1.5,
    True,
    "x",
    "",
    "\0",
    b"x",
    ["x"],
    [5],
    [None],
    [""],
    ["\0:\0"],
    ("a", "b"),
    {"x"},
    {"x": 1},
    {"x": None},
    {"": ""},
    {5: 5},
    {"/x": {"bind": 5}},
    {"/x": object()},
    {"/x": ("text", "0755")},
    {"/x": (1, 2, 3)},
    {b"x": b"y"},
    Path("/no/such"),
    float("nan"),
    float("inf"),
    lambda: None,
)


@pytest.mark.parametrize("keyword", sorted(Options.__annotations__))
def test_no_value_of_an_option_raises_anything_but_our_own_errors(keyword: str) -> None:
    """Whatever an option is given is taken, or told as what cannot be meant with what to write."""
    told: list[SpecInvalid] = []
    for value in WRONG:
        try:
            Order.of("x", **{keyword: value})  # type: ignore[arg-type]
        except SpecInvalid as error:
            told.append(error)
    assert [error.what for error in told if not error.mend] == []


@pytest.mark.parametrize("image", [None, 5, "", "  ", "a\0b", b"redis", ["redis"], object()])
def test_no_image_that_cannot_be_one(image: object) -> None:
    """What is no name, folder or record is told before anything is asked."""
    with pytest.raises(SpecInvalid, match="is not an image") as caught:
        Order.of(image)  # type: ignore[arg-type]
    assert "images.build()" in caught.value.mend


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "-dash"}, "cannot be the name"),
        ({"name": "a..b"}, "cannot be the name"),
        ({"name": "-"}, "cannot be the name"),
        ({"name": "a" * 64}, "cannot be the name"),
        ({"name": ".".join(["a" * 63] * 4)}, "cannot be the name"),
        ({"hostname": "a." * 32 + "a"}, "too long"),
        ({"env": {"A": "x\0"}}, "variable of the environment"),
        ({"env": {"A": ["x"]}}, "cannot be the value of A"),
        ({"env": "A=1"}, "is not a mapping"),
        ({"ports": {"80/tcp": 8080}}, "chooses ports of this machine"),
        ({"ports": ["8080:80"]}, "is not a port"),
        ({"volumes": ["/data"]}, "is no volume"),
        ({"volumes": {"/etc": {"bind": "/x", "driver": "local"}}}, "is no volume"),
        ({"volumes": ["/etc:/x:ro,rx"]}, "no mode of a volume"),
        ({"tmpfs": {"/x": "size=64m,mode=1777"}}, "is not a size"),
        ({"tmpfs": "/x"}, "is not a list"),
        ({"network": ["back", "default"]}, "is not a network"),
        ({"read_only": "false"}, "neither True nor False"),
        ({"files": {"/": "x"}}, "files= has '/'"),
        ({"files": {"/a": ("x", "755")}}, "is not the mode of a file"),
        ({"files": {"/a": ("x", 0o17777)}}, "is not the mode of a file"),
        ({"files": {"/a": 5}}, "is no content"),
        ({"timeout": float("inf")}, "not a time to wait"),
        ({"platform": 5}, "is not a text"),
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
