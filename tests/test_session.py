"""From an order to a container: names, networks, services, and what an engine lacks."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_containers import (
    ContainerExited,
    EngineError,
    ImageError,
    ImageNotFound,
    Limits,
    NotReady,
    RegistryError,
    SpecInvalid,
    Unsupported,
    port,
    started,
)
from pytest_containers.order import Options, Order
from pytest_containers.session import RunPlace, Session, Settings, native_engine
from pytest_containers.spec import ContainerSpec, ImageConfig, ImageRecord, Port
from tests.engines.memory import MemoryEngine, MemoryHandle, MemoryRun
from tests.engines.memory_files import HOST
from tests.engines.programs import server
from tests.engines.sessions import launch, open_session

SLEEP = ("sleep", "60")


@pytest.fixture
def engine() -> MemoryEngine:
    """Return an engine in memory."""
    return MemoryEngine()


@pytest.fixture
def session(engine: MemoryEngine) -> Iterator[Session]:
    """Return a session on the engine."""
    session = open_session(engine)
    yield session
    session.close()


def test_name_comes_from_the_image_and_counts(session: Session) -> None:
    """A container without a name has its image's, with a number that is never used twice."""
    first, second = launch(session, command=SLEEP), launch(session, command=SLEEP)
    first.remove()
    third = launch(session, command=SLEEP)
    assert [box.name for box in (first, second, third)] == ["host-1", "host-2", "host-3"]


def test_name_of_a_long_reference_is_its_last_part(session: Session, engine: MemoryEngine) -> None:
    """Registry, tag and what no host name may hold are left out."""
    engine.images.registry["registry.example:5000/team/web_app:2"] = (ImageConfig(command=SLEEP), HOST)
    assert launch(session, "registry.example:5000/team/web_app:2").name == "web-app-1"
    engine.images.registry[f"team/{'a' * 60}:1"] = (ImageConfig(command=SLEEP), HOST)
    assert launch(session, f"team/{'a' * 60}:1").name == f"{'a' * 40}-1"


def test_words_of_a_test_are_over_those_of_its_service(session: Session, engine: MemoryEngine) -> None:
    """A variable that test and service set is the test's, and None takes the service's away."""
    engine.images.registry["postgres:17"] = (ImageConfig(command=SLEEP), HOST)
    mine = launch(session, "postgres", env={"POSTGRES_PASSWORD": "mine"}, ready=started())
    assert mine.env["POSTGRES_PASSWORD"] == "mine"
    none = launch(session, "postgres", env={"POSTGRES_PASSWORD": None}, ready=started())
    assert "POSTGRES_PASSWORD" not in none.env


def test_time_of_zero_is_not_the_time_of_the_run(session: Session) -> None:
    """`timeout=0` is one look, and not --containers-timeout."""
    with pytest.raises(NotReady, match="within 0 s"):
        launch(session, command=SLEEP, ports=[80], timeout=0)


def test_workers_do_not_meet(engine: MemoryEngine) -> None:
    """Two processes of a run use the same names, and each finds its own."""
    sessions = [open_session(MemoryEngine(engine.run)) for _ in range(2)]
    boxes = [launch(one, command=SLEEP, name="db") for one in sessions]
    assert boxes[0].ip != boxes[1].ip
    found = [box.exec("getent hosts db").stdout.split()[0] for box in boxes]
    assert found == [box.ip for box in boxes]
    for one in sessions:
        one.close()


def test_container_of_the_run_is_one_for_all_workers(engine: MemoryEngine) -> None:
    """The same order gives the same container to every process, and outlives each of them."""
    sessions = [open_session(MemoryEngine(engine.run)) for _ in range(2)]
    boxes = [one.launch(Order.of("host", command=SLEEP), lifetime="run") for one in sessions]
    other = sessions[0].launch(Order.of("host", command=SLEEP, env={"A": "1"}), lifetime="run")
    assert boxes[0].id == boxes[1].id != other.id
    sessions[0].close()
    assert boxes[1].state == "running"
    sessions[1].close()
    engine.close()


def test_service_of_the_catalog_brings_its_own(session: Session, engine: MemoryEngine) -> None:
    """A bare name is the catalog's image, environment, ports and probe, under the test's words."""
    engine.images.registry["postgres:16"] = (ImageConfig(command=SLEEP), HOST)
    box = launch(session, "postgres:16", env={"EXTRA": "1"}, ports=[1], ready=lambda _: True)
    assert box.env == {"POSTGRES_PASSWORD": "postgres", "EXTRA": "1"}
    assert box.ports == (Port(5432), Port(1))
    assert box.name == "postgres-1"
    with pytest.raises(NotReady, match="on 5432/tcp"):
        launch(session, "postgres:16", timeout=0.01)


def test_command_of_a_service_is_under_the_test_s(session: Session, engine: MemoryEngine) -> None:
    """The catalog's command holds where the test names neither command nor entrypoint."""
    engine.images.registry["minio/minio:latest"] = (ImageConfig(entrypoint=("echo",)), HOST)
    assert launch(session, "minio", ready=lambda _: True).command == ("server", "/data")
    assert launch(session, "minio", command=["mine"], ready=lambda _: True).command == ("mine",)
    assert launch(session, "minio", entrypoint=SLEEP, ready=lambda _: True).command == ()


def test_default_is_to_wait_for_the_ports(session: Session, engine: MemoryEngine) -> None:
    """Without a probe, the image's ports and the test's have to be in LISTEN."""
    engine.images.put("web:1", HOST, ImageConfig(command=server(80), ports=(Port(80),)))
    assert launch(session, "web:1").state == "running"
    with pytest.raises(NotReady, match="no listener on 81/tcp"):
        launch(session, "web:1", ports=[81], timeout=0.05)


def test_probe_of_a_service_can_be_named(session: Session) -> None:
    """`ready=` takes the name of a service; a name that is none is told with those that there are."""
    with pytest.raises(NotReady, match=r"waited for an answer like .* on 5432/tcp"):
        launch(session, command=SLEEP, ready="postgres", timeout=0.01)
    with pytest.raises(SpecInvalid, match="'postgress' names no service") as caught:
        launch(session, command=SLEEP, ready="postgress")
    assert "mysql, nats" in str(caught.value)


def test_stop_signal_of_an_image_is_judged_before_the_start(session: Session, engine: MemoryEngine) -> None:
    """An image's STOPSIGNAL that is none is told with the image, and the test's own is used in its place."""
    engine.images.put("web:1", HOST, ImageConfig(command=SLEEP, stop_signal="SIGSTOPPED"))
    with pytest.raises(SpecInvalid, match="STOPSIGNAL of web:1") as caught:
        launch(session, "web:1")
    assert "stop_signal=" in str(caught.value)
    assert engine.run.containers == {}
    assert launch(session, "web:1", stop_signal=15).state == "running"


@pytest.mark.parametrize(
    ("options", "feature"),
    [
        ({"limits": Limits(cpus=1)}, "limits"),
        ({"init": True}, "init"),
        ({"volumes": {"data": "/data"}}, "volumes"),
        ({"volumes": {"/tmp": "/data"}}, "binds"),
        ({"tmpfs": ["/run"]}, "tmpfs"),
    ],
)
def test_feature_that_is_missing_is_refused_before_anything(
    engine: MemoryEngine, options: Options, feature: str
) -> None:
    """What an engine lacks is told with its name, and neither image nor container is touched."""
    plain = MemoryEngine(engine.run, features=())
    with pytest.raises(Unsupported, match=f"the memory engine does not support {feature}"):
        launch(open_session(plain), "no-such-image:1", **options)
    assert engine.run.containers == {}


def test_lifetime_and_network_need_features(engine: MemoryEngine) -> None:
    """One container for the run and a network without a way out are features, too."""
    plain = open_session(MemoryEngine(engine.run, features=()))
    with pytest.raises(Unsupported, match="run-lifetime"):
        plain.launch(Order.of("host"), lifetime="run")
    with pytest.raises(Unsupported, match="internal-networks"):
        plain.network(internal=True)
    assert plain.network().name == "network-1"


@pytest.mark.parametrize("image", [".", "./app", "/srv/app", "with-dockerfile"])
def test_folder_is_built(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image: str
) -> None:
    """A folder is for the engine to build, and this one cannot; a bare name is one with its Dockerfile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with-dockerfile").mkdir()
    (tmp_path / "with-dockerfile" / "Dockerfile").write_text("FROM host\n")
    with pytest.raises(Unsupported, match="does not support building the folder"):
        launch(session, image)


def test_failed_start_leaves_nothing(session: Session, engine: MemoryEngine) -> None:
    """Whatever goes wrong after the creation, the container is gone and its name free."""
    with pytest.raises(ContainerExited):
        launch(session, name="box", command="true", ready=port(1))
    with pytest.raises(NotReady):
        launch(session, name="box", command=SLEEP, ready=port(1), timeout=0.01)
    with pytest.raises(NameError):
        launch(session, name="box", command=SLEEP, ready=lambda _: no_such_name)  # type: ignore[name-defined]  # noqa: F821
    assert engine.run.containers == {}


def test_interrupt_in_a_start_leaves_nothing(
    session: Session, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a container starts removes it before it goes on."""

    def interrupted(self: MemoryHandle) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryHandle, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(session)
    assert engine.run.containers == {}


def test_shared_container_that_failed_is_left_to_the_run(engine: MemoryEngine) -> None:
    """What belongs to the run is not removed by one of its processes."""
    session = open_session(MemoryEngine(engine.run))
    with pytest.raises(NotReady):
        session.launch(Order.of("host", command=SLEEP, ready=port(1), timeout=0.01), lifetime="run")
    assert len(engine.run.containers) == 1
    session.close()


def test_sessions_start_in_parallel(session: Session) -> None:
    """Threads may start containers at the same time; no name is given twice."""
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(launch(session, command=SLEEP).name)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == [f"host-{n}" for n in range(1, 9)]


def test_images_follow_the_run_s_policy(engine: MemoryEngine) -> None:
    """A pull asks the registry when the run says so, unless the call says otherwise."""
    engine.images.registry["app:1"] = (ImageConfig(labels={"v": "1"}), HOST)
    engine.images.pull("app:1")
    engine.images.registry["app:1"] = (ImageConfig(labels={"v": "2"}), HOST)
    always = open_session(engine, given={"pull": "always"}).images
    assert open_session(engine).images.pull("app:1").config.labels == {"v": "1"}
    assert always.pull("app:1", policy="missing").config.labels == {"v": "1"}
    assert always.pull("app:1").config.labels == {"v": "2"}


def test_offline_asks_nobody(engine: MemoryEngine) -> None:
    """Offline, nothing is fetched or sent, whatever a call asks for."""
    engine.images.registry["app:1"] = (ImageConfig(), HOST)
    images = open_session(engine, given={"offline": "true"}).images
    with pytest.raises(ImageNotFound):
        images.pull("app:1", policy="always")
    with pytest.raises(RegistryError, match="is not pushed"):
        images.push("app:1")


def test_images_are_named_and_listed(session: Session, tmp_path: Path) -> None:
    """The shelf tags, lists, removes, pushes, and loads the tar of a root."""
    images = session.images
    box = launch(session, command=SLEEP, files={"/srv/a": "x"})
    box.commit("one:1")
    images.tag("one:1", "two:2")
    assert [record.reference for record in images.list()] == ["one:1", "two:2"]
    images.remove("one:1")
    assert [record.reference for record in images.list()] == ["two:2"]
    (tmp_path / "root.tar").write_bytes(bytes(10240))
    loaded = images.import_tar(tmp_path / "root.tar", "three:3", config=ImageConfig(command=("true",)))
    assert isinstance(loaded, ImageRecord)
    assert images.push("three:3") == loaded.digest
    with pytest.raises(SpecInvalid, match="there is no file"):
        images.import_tar(tmp_path / "none.tar", "four:4")


def test_images_travel_as_an_archive(session: Session, tmp_path: Path) -> None:
    """What is saved is loaded again, by path and by stream, and what is no archive is told."""
    images = session.images
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("hello"))
    made = images.import_tar(tmp_path / "root.tar", "one:1")
    images.save("one:1", tmp_path / "one.tar")
    images.remove("one:1")
    assert images.load(tmp_path / "one.tar") == (made,)
    with (tmp_path / "one.tar").open("rb") as file:
        assert images.load(file, "two:2")[0].reference == "two:2"
    with pytest.raises(ImageError, match="no archive of images"):
        images.load(tmp_path / "root.tar")
    with pytest.raises(ImageError, match="archive of images"):
        images.import_tar(tmp_path / "one.tar", "three:3")
    with pytest.raises(SpecInvalid, match="there is no file"):
        images.load(tmp_path / "none.tar")


def test_engine_is_opened_once_and_late() -> None:
    """Nothing is opened until something is asked for; closing may be done twice."""
    opened: list[MemoryEngine] = []

    def open_engine() -> MemoryEngine:
        opened.append(MemoryEngine())
        return opened[-1]

    session = Session(settings=Settings.of({}), catalog=open_session().catalog, open_engine=open_engine)
    assert opened == []
    session.prepare()
    assert session.engine is session.engine is opened[0]
    assert opened[0].prepared == 1
    session.close()
    session.close()
    assert len(opened) == 1


def test_settings_read_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options are read from text; an empty text is none."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    settings = Settings.of({"engine": "", "timeout": "2.5", "logs": "7", "offline": "Yes", "pull": "never"})
    assert (settings.engine, settings.timeout_s, settings.log_lines) == ("auto", 2.5, 7)
    assert (settings.access.offline, settings.pull) == (True, "never")
    assert settings.store == Path("/cache/pytest-containers")
    assert Settings.of({"store": "~/x"}).store == Path("~/x").expanduser()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Settings.of({}).store == Path("~/.cache/pytest-containers").expanduser()


def test_settings_read_how_registries_are_reached(tmp_path: Path) -> None:
    """Mirrors keep their order, one without a registry is Docker Hub's, and commas part as blanks do."""
    access = Settings.of(
        {
            "mirror": "mirror.example:5000/hub/, quay.io=cache.example docker.io=second.example",
            "insecure": "Plain.example:5000",
            "certificates": str(tmp_path),
        }
    ).access
    assert access.mirrors == (
        ("docker.io", "mirror.example:5000/hub"),
        ("quay.io", "cache.example"),
        ("docker.io", "second.example"),
    )
    assert access.insecure == {"plain.example:5000"}
    assert access.certificates == (str(tmp_path),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pull", "often"),
        ("timeout", "soon"),
        ("timeout", "-1"),
        ("logs", "inf"),
        ("offline", "maybe"),
        ("mirror", "https://mirror.example"),
        ("mirror", "docker.io="),
        ("insecure", "host/path"),
        ("certificates", "/no/such/folder"),
        ("lock", "/no/such.lock"),
    ],
)
def test_settings_refuse_what_cannot_be_meant(name: str, value: str) -> None:
    """A wrong option is told with its name and its value."""
    with pytest.raises(SpecInvalid, match=f"containers_{name} is '{value}'"):
        Settings.of({name: value})


def test_engine_that_is_not_built_in_is_refused(tmp_path: Path) -> None:
    """Another engine than native is told with what there is; native is opened by a cheap call."""
    place = RunPlace(folder=tmp_path / "run", owner_pid=os.getpid())
    with pytest.raises(Unsupported, match="there is no engine 'docker'"):
        native_engine(Settings.of({"engine": "docker"}), place)
    engine = native_engine(Settings.of({"engine": "native", "store": str(tmp_path / "store")}), place)
    assert engine.name == "native"
    assert not place.folder.exists()


def test_double_is_no_easier_than_an_engine() -> None:
    """The engine in memory refuses what the contract refuses: a network that nobody made."""
    engine = MemoryEngine(MemoryRun())
    with pytest.raises((SpecInvalid, EngineError), match="nowhere"):
        engine.create(ContainerSpec(name="x", network="nowhere"), engine.images.pull("host"))


def test_bare_name_that_is_nothing_is_told_with_where_it_was_looked_for(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that may be a service, a folder or an image is told as none of these."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageNotFound, match="there is no service, folder or image postgers") as caught:
        launch(session, "postgers")
    assert "did you mean postgres?" in caught.value.seen
    assert f"there is no {tmp_path}/postgers/Dockerfile" in caught.value.seen
    with pytest.raises(ImageNotFound) as other:
        launch(session, "xyzzy")
    assert "(consul, etcd," in other.value.seen
    with pytest.raises(ImageNotFound) as tagged:
        launch(session, "postgers:7")
    assert "no service" not in str(tagged.value)


def test_registry_that_is_out_of_reach_is_told_with_the_image(
    session: Session, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the image, the registry, and what can be done without one."""

    def refuse(*_: object, **__: object) -> ImageRecord:
        raise RegistryError(
            "registry-1.docker.io has no address", seen="Name or service not known", mend="look"
        )

    monkeypatch.setattr(engine.images, "pull", refuse)
    with pytest.raises(RegistryError) as caught:
        launch(session, "team/app:7")
    assert caught.value.what == "team/app:7 cannot be pulled"
    assert "registry-1.docker.io has no address: Name or service not known" in caught.value.seen
    assert "FROM host" in caught.value.mend
    assert "--containers-mirror" in caught.value.mend
    with pytest.raises(RegistryError, match="there is no service, folder or image rediss") as bare:
        launch(session, "rediss")
    assert "did you mean redis?" in bare.value.seen
    with pytest.raises(RegistryError, match="redis:7 cannot be pulled"):
        launch(session, "redis")


def test_working_folder_that_is_gone_does_no_harm(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs no folder works without one; a relative path is told."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert launch(session, command=SLEEP).state == "running"
    with pytest.raises(SpecInvalid, match="the working folder is gone"):
        launch(session, "./app")
    with pytest.raises(SpecInvalid, match="does not exist"):
        launch(session, command=SLEEP, volumes={"./data": "/data"})
