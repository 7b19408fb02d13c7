"""What a RUN sees besides its layers, and what its layer then does not tell of."""

from __future__ import annotations

import os
import socket
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_containers.errors import BuildFailed, ImageNotFound, RegistryError, SpecInvalid
from tests.engines.sites import Site

pytestmark = pytest.mark.kernel


def test_bind_mount_shows_a_stage(site: Site) -> None:
    """A bind from a stage shows its files at the source; the layer has what was taken alone."""
    image = site.build(
        "FROM host AS maker\nRUN mkdir /out && echo one > /out/one && ln -s ../../../out /out/link\n"
        "FROM host\n"
        "RUN --mount=from=maker,source=/out,target=/in cp /in/one /srv/one\n"
        "RUN --mount=from=maker,source=/out/link/one,target=/missing/file cp /missing/file /srv/two\n"
        "RUN --mount=from=maker,source=/out,target=/in ! touch /in/x && ! ls /missing /in/two\n"
    )
    assert site.run(image, "cat", "/srv/one", "/srv/two") == "one\none\n"
    assert site.run(image, "sh", "-c", "ls -d /in /missing 2>/dev/null || true") == ""
    assert len(image.diff_ids) == 2  # of those that wrote


def test_bind_mount_follows_its_stage(site: Site) -> None:
    """A change of the stage makes the RUN anew; without one it comes from the cache."""
    lines = (
        "FROM host AS maker\nRUN echo {} > /out\nFROM host\nRUN --mount=from=maker,source=/out,target=/in "
    )
    lines += "cat /in > /srv/in\n"
    site.build(lines.format(1))
    site.build(lines.format(1))
    assert site.cached == 2
    assert site.run(site.build(lines.format(2)), "cat", "/srv/in") == "2\n"


def test_bind_mount_shows_an_image_and_a_context(site: Site, tmp_path: Path) -> None:
    """Images, the host and named contexts can be mounted; a context without what its ignore file names."""
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "kept").write_text("kept\n")
    (extra / "secret").touch()
    (extra / ".dockerignore").write_text("secret\n")
    site.write({"file": "x"})
    site.build("FROM scratch\nCOPY file /inside\n")
    site.engine.images.tag("made", "mounted:1")
    image = site.build(
        "FROM host\n"
        "RUN --mount=from=mounted:1,target=/image --mount=from=more,target=/more "
        "ls /image /more > /srv/seen && stat -c %u /more/kept >> /srv/seen\n",
        contexts={"more": str(extra)},
    )
    assert site.run(image, "cat", "/srv/seen") == "/image:\ninside\n\n/more:\nkept\n0\n"


def test_writes_to_a_bind_are_discarded(site: Site) -> None:
    """With rw a RUN may write; nobody sees it afterwards, least of all the user's own folder."""
    site.write({"src/input": "mine", "src/left": "", ".dockerignore": "src/left"})
    image = site.build(
        "FROM host\n"
        "RUN --mount=source=src,target=/src,rw "
        "echo theirs > /src/input && touch /src/new && ls /src > /srv/ls\n"
        "RUN --mount=source=src,target=/src,rw cat /src/input > /srv/input && test ! -e /src/new\n"
    )
    assert site.run(image, "cat", "/srv/ls", "/srv/input") == "input\nnew\nmine"
    assert sorted(path.name for path in (site.folder / "src").iterdir()) == ["input", "left"]
    assert (site.folder / "src/input").read_text() == "mine"


def test_mounts_lie_in_each_other(site: Site) -> None:
    """A mount below another is seen, in whatever order they are written."""
    site.write({"a": "a"})
    site.build(
        "FROM host\n"
        "RUN --mount=type=tmpfs,target=/deep/in --mount=target=/deep,rw "
        "--mount=type=cache,target=/deep/in/cache "
        "test -e /deep/a && touch /deep/in/x /deep/in/cache/y\n"
    )


def test_bind_of_what_is_not_there_names_it(site: Site) -> None:
    """A missing source of the context is refused with its line and the nearest name."""
    site.write({"source.txt": ""})
    with pytest.raises(SpecInvalid, match=r"Dockerfile:2.*sourc\.txt") as caught:
        site.build("FROM host\nRUN --mount=source=sourc.txt,target=/x true\n")
    assert "did you mean source.txt?" in caught.value.mend


def test_tmpfs_mount_has_its_size_and_runs_programs(site: Site) -> None:
    """A tmpfs is as large as asked, and a program in it is executed, as configure scripts need."""
    site.build(
        "FROM host\n"
        "RUN --mount=type=tmpfs,target=/mem,size=8m cp /bin/true /mem/ && /mem/true && "
        "test $(stat -f -c %b /mem) = 2048 && ! head -c 9m /dev/zero > /mem/large 2>/dev/null\n"
    )


def test_run_that_writes_nothing_makes_no_layer(site: Site) -> None:
    """Places of mounts, a script, secrets and what comes and goes are no change of the image."""
    site.write({"file": "x"})
    image = site.build(
        "FROM host\n"
        "RUN --mount=target=/made/for/bind --mount=type=cache,target=/made/for/cache "
        "--mount=type=tmpfs,target=/other --mount=type=secret,id=key,target=/etc/key "
        "test -e /etc/key && touch /srv/x && rm /srv/x\n"
        "RUN <<EOF\n#!/bin/sh\ntest -x $0\nEOF\n",
        secrets={"key": b"1"},
    )
    assert image.diff_ids == ()


def test_run_on_nothing_but_a_program_makes_no_layer(site: Site) -> None:
    """Of /dev, /proc, /sys and what lies in /etc nothing stays in an image made FROM scratch."""
    (site.folder / "ldconfig").write_bytes(Path("/sbin/ldconfig").read_bytes())
    (site.folder / "ldconfig").chmod(0o755)
    image = site.build('FROM scratch\nCOPY ldconfig /\nRUN ["/ldconfig", "--version"]\n')
    assert b"ldconfig" in site.output
    assert len(image.diff_ids) == 1


def test_cache_mount_begins_with_what_it_is_from(site: Site) -> None:
    """With from= a cache begins with files of a stage, and keeps what was done to them."""
    name = f"id={site.folder}"
    image = site.build(
        "FROM host AS seed\nRUN mkdir -p /seed && echo seeded > /seed/file && chown 5:6 /seed/file\n"
        "FROM host\n"
        f"RUN --mount=type=cache,{name},target=/c,from=seed,source=/seed stat -c %u:%g /c/file > /srv/owner "
        "&& echo more >> /c/file\n"
        f"RUN --mount=type=cache,{name},target=/c,from=seed,source=/seed cp /c/file /srv/file\n"
    )
    assert site.run(image, "cat", "/srv/owner", "/srv/file") == "5:6\nseeded\nmore\n"


def test_cache_mount_has_owner_and_mode(site: Site) -> None:
    """uid, gid and mode are those of a new cache; a read-only one refuses writes."""
    name = f"id={site.folder}"
    site.build(
        "FROM host\n"
        f"RUN --mount=type=cache,{name},target=/c,uid=7,gid=8,mode=0750 "
        "test $(stat -c %u:%g:%a /c) = 7:8:750\n"
        f"RUN --mount=type=cache,{name},target=/c,ro ! touch /c/x\n"
    )


def test_cache_mounts_that_are_private_are_two_at_once(site: Site) -> None:
    """Commands that run at once get folders of their own; one behind the other gets the first again."""
    mount = f"--mount=type=cache,id={site.folder},sharing=private,target=/c"
    other = mount.replace("target=/c", "target=/d")
    image = site.build(
        f"FROM host\nRUN {mount} touch /c/one\nRUN {mount} ls /c > /srv/again\n"
        f"RUN {mount} {other} ls /c /d > /srv/both\n"
    )
    # Two mounts of one command are one folder.
    assert site.run(image, "cat", "/srv/again", "/srv/both") == "one\n/c:\none\n\n/d:\none\n"


def test_secret_is_a_file_and_a_variable(site: Site) -> None:
    """A secret has the owner and mode asked for, or comes as a variable without any file."""
    site.build(
        "FROM host\n"
        "RUN --mount=type=secret,id=a,uid=1000,gid=7,mode=0440 "
        "test $(stat -c %u:%g:%a /run/secrets/a) = 1000:7:440\n"
        "RUN --mount=type=secret,id=a,env=TOKEN test $TOKEN = value && test ! -e /run/secrets/a\n"
        "RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n",
        secrets={"a": b"value"},
        use_cache=False,
    )


@pytest.mark.parametrize(
    ("mount", "what", "mend"),
    [
        ("type=secret,id=tokn", "the secret tokn is required", "did you mean token?"),
        ("type=ssh,id=deplo", "the ssh agent deplo is required", "did you mean deploy?"),
    ],
)
def test_required_mount_is_refused_before_the_first_step(
    site: Site, mount: str, what: str, mend: str
) -> None:
    """A secret or agent that is required and was not passed ends the build at once, with the nearest name."""
    with pytest.raises(SpecInvalid, match=f"Dockerfile:3: {what}") as caught:
        site.build(
            f"FROM host\nRUN exit 1\nRUN --mount={mount},required true\n",
            secrets={"token": b""},
            ssh={"deploy": "/none"},
        )
    assert caught.value.mend == mend


def test_run_that_tells_its_secret_is_masked(site: Site) -> None:
    """In output, error and instruction a secret's value is three stars, however it is written."""
    secret = os.urandom(12).hex()
    with pytest.raises(BuildFailed) as caught:
        site.build(
            "FROM host\nARG TOKEN\n"
            f"RUN --mount=type=secret,id=a,env=S echo got $S; printf {secret[:9]}; printf {secret[9:]}; "
            f"printf %.5s $S; exit 3 # {secret}\n",
            secrets={"a": f"{secret}\n".encode()},
        )
    assert secret not in str(caught.value)
    assert secret.encode() not in site.output
    assert site.output == b"got ***\n***" + secret[:5].encode()


def test_secret_is_in_no_traceback(site: Site) -> None:
    """Not even a traceback with local variables, as pytest's --showlocals prints, has a secret's value."""
    secret = os.urandom(12).hex()
    mounts = "--mount=type=secret,id=a,env=S --mount=type=secret,id=a,target=/file"
    for command in ("exit 1", '["/none"]'):
        with pytest.raises(BuildFailed) as caught:
            site.build(f"FROM host\nRUN {mounts} {command}\n", secrets={"a": secret.encode()})
        told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        frames = [frame for frame in told.stack if "/tests/" not in frame.filename]
        assert len(frames) > 5
        assert secret not in "".join(str(frame.locals) for frame in frames)


def test_bind_of_what_a_stage_has_not_is_told(site: Site) -> None:
    """A source that is not there in a stage is named with line and target."""
    with pytest.raises(BuildFailed, match="Dockerfile:3") as caught:
        site.build("FROM host AS maker\nFROM host\nRUN --mount=from=maker,source=/none,target=/x true\n")
    assert "no /none in the files to mount at /x" in caught.value.seen


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("sh -c 'kill -9 $$'; exit $?", "failed with exit code 137, its last command was killed by SIGKILL"),
        ("sh -c 'kill -11 $$'; exit $?", "failed with exit code 139, its last command was killed by SIGSEGV"),
        ("exit 7", "failed with exit code 7"),
        ('["/none", "x"]', "could not be started, exit code 127"),
        ('["/etc/passwd"]', "could not be started, exit code 126"),
    ],
)
def test_run_that_fails_says_how_it_ended(site: Site, line: str, what: str) -> None:
    """The error has line, instruction, exit code and signal, also of what could not be started."""
    with pytest.raises(BuildFailed) as caught:
        site.build(f"FROM host\nRUN {line}\n")
    assert caught.value.what == f"Dockerfile:2: RUN {line} {what}"
    assert caught.value.mend


def test_stage_with_another_name_is_proposed(site: Site) -> None:
    """Where no image has the name of a mount's from, the stage of a like name is in the mend."""
    with pytest.raises((ImageNotFound, RegistryError)) as caught:
        site.build("FROM host AS maker\nFROM host\nRUN --mount=from=localhost:1/makr,target=/x true\n")
    assert "did you mean" not in caught.value.mend
    with pytest.raises((ImageNotFound, RegistryError)) as caught:
        site.build("FROM host AS maker\nFROM host\nRUN --mount=from=makr,target=/x true\n")
    assert "did you mean maker?" in caught.value.mend


def test_healthcheck_keeps_its_start_interval(site: Site) -> None:
    """--start-interval is in the image's config, as its other times are."""
    site.build("FROM host\nHEALTHCHECK --start-interval=2s --start-period=1m CMD true\n")
    check = site.engine.images.pull("made").config.healthcheck
    assert check is not None
    assert (check.start_interval_s, check.start_period_s, check.interval_s) == (2.0, 60.0, 30.0)


def test_run_has_the_world_of_buildkit(site: Site) -> None:
    """Nothing in a RUN's world differs from build to build: no HOSTNAME, address or random name."""
    site.build("FROM host\nRUN env | cut -d= -f1 | sort; hostname; cat /etc/hosts\n", use_cache=False)
    assert site.output.decode().splitlines() == [
        *("HOME", "PATH", "PWD"),
        "buildkitsandbox",
        "127.0.0.1 localhost buildkitsandbox",
        "::1 localhost ip6-localhost ip6-loopback",
    ]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """Return the socket of an ssh-agent that holds one key, named pytest."""
    path, key = tmp_path / "agent", tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pytest", "-f", key], check=True)
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True, stderr=subprocess.DEVNULL)
        yield str(path)
        process.terminate()


def test_ssh_mount_leads_to_the_agent(site: Site, agent: str) -> None:
    """A RUN, root's or another user's, lists the agent's keys; the next one has no agent."""
    image = site.build(
        "FROM host\n"
        "RUN --mount=type=ssh ssh-add -l > /srv/keys && echo $SSH_AUTH_SOCK >> /srv/keys\n"
        "RUN test -z $SSH_AUTH_SOCK && test ! -e /run/buildkit\n"
        "USER 1234:5\n"
        "RUN --mount=type=ssh,id=default,uid=1234,mode=0640,target=/tmp/agent,required ssh-add -l "
        "&& test $(stat -c %u:%g:%a /tmp/agent) = 1234:0:640\n",
        ssh={"default": agent},
    )
    seen = site.run(image, "cat", "/srv/keys").splitlines()
    assert "pytest (ED25519)" in seen[0]
    assert seen[1:] == ["/run/buildkit/ssh_agent.0"]
    assert not [path for path in site.store.rglob("*.json") if agent.encode() in path.read_bytes()]
    assert agent.encode() not in b"".join(event.output for event in site.told)


def test_ssh_mount_without_its_agent(site: Site, tmp_path: Path) -> None:
    """An agent that was not passed is left out; one that was passed and is dead is named."""
    site.build("FROM host\nRUN --mount=type=ssh test -z $SSH_AUTH_SOCK\n")
    path = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(SpecInvalid, match="Dockerfile:2: no ssh agent answers for default"):
        site.build("FROM host\nRUN --mount=type=ssh true #dead\n", ssh={"default": str(path)})


def test_run_on_the_host_network_is_there(site: Site) -> None:
    """Where it is allowed, a RUN reaches what listens on the machine's loopback; others do not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = f"(echo > /dev/tcp/127.0.0.1/{listener.getsockname()[1]}) 2>/dev/null"
        lines = f'FROM host\nSHELL ["bash", "-c"]\nRUN --network=host {line}\n'
        own = os.readlink("/proc/self/ns/net")
        more = f"RUN ! {line}\nRUN --network=host test $(readlink /proc/self/ns/net) = {own}\n"
        more += f"RUN test $(readlink /proc/self/ns/net) != {own}\n"
        site.build(lines + more, allow=frozenset({"network.host"}), use_cache=False)
        with pytest.raises(SpecInvalid, match=r"Dockerfile:3: host network.*not allowed") as caught:
            site.build(lines)
    assert "network.host" in caught.value.mend


def test_run_without_a_network_has_loopback_alone(site: Site) -> None:
    """With --network=none there is lo, which works, and no other interface and no route."""
    lines = (
        'FROM host\nSHELL ["bash", "-ec"]\nRUN --network=none [ "$(ls /sys/class/net)" = lo ] && '
        '[ -z "$(tail -n +2 /proc/net/route)" ]\n'
        "RUN --network=none (echo > /dev/tcp/127.0.0.1/9) 2>&1 | grep -q refused\n"
        'RUN [ "$(ls /sys/class/net | tr "\\n" " ")" = "eth0 lo " ]\n'
    )
    site.build(lines, use_cache=False)


def test_insecure_run_has_all_capabilities(site: Site) -> None:
    """Where it is allowed, a RUN may mount; an ordinary one after it may not."""
    lines = "FROM host\nRUN --security=insecure mount -t tmpfs none /mnt && touch /mnt/x\n"
    lines += "RUN --security=insecure grep -q '^Seccomp:.*0$' /proc/self/status\n"
    lines += "RUN grep -q '^Seccomp:.*2$' /proc/self/status\n"
    site.build(f"{lines}RUN ! mount -t tmpfs none /mnt 2>/dev/null\n", allow=frozenset({"security.insecure"}))
    with pytest.raises(SpecInvalid, match=r"Dockerfile:2: insecure.*not allowed") as caught:
        site.build(lines)
    assert "security.insecure" in caught.value.mend


@pytest.mark.parametrize(
    "command",
    [
        "echo 192.0.2.1 db >> /etc/hosts",
        "chmod 600 /etc/resolv.conf",
        "chmod -R go-w /etc",
        "echo box > /etc/hostname",
    ],
)
def test_run_cannot_write_what_the_runtime_lays_over_the_image(site: Site, command: str) -> None:
    """What would be lost without a word fails, as under BuildKit."""
    with pytest.raises(BuildFailed, match="failed with exit code"):
        site.build(f"FROM host\nRUN {command}\n")
    assert b"Read-only file system" in site.output
