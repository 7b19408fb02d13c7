"""The mounts of a RUN: keys, kinds, defaults, and what does not go together."""

from __future__ import annotations

import pytest

from pytest_containers.errors import SpecInvalid
from pytest_containers.images.build.mount import Mount, MountFlag


def mount(text: str, **variables: str) -> Mount:
    """Return the mount of a flag's value with ``$NAME`` replaced."""

    def expand(value: str) -> str:
        for name, replacement in variables.items():
            value = value.replace(f"${name}", replacement)
        return value

    return MountFlag.parse(text).mount(expand)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target=/x", Mount(target="/x")),
        ("type=bind,source=a,target=/x", Mount(source="a", target="/x")),
        ("type=BIND,src=a,dst=/x", Mount(source="a", target="/x")),
        ("destination=/x,from=tool", Mount(origin="tool", target="/x")),
        ("TARGET=/x", Mount(target="/x")),
        ("target=/x,rw", Mount(target="/x", read_only=False)),
        ("target=/x,readwrite", Mount(target="/x", read_only=False)),
        ("target=/x,rw=false", Mount(target="/x", read_only=True)),
        ("target=/x,ro=false", Mount(target="/x", read_only=False)),
        ("target=/x,readonly=1", Mount(target="/x", read_only=True)),
        ("type=cache,target=/x", Mount(kind="cache", target="/x", read_only=False)),
        ("type=cache,target=/x,ro", Mount(kind="cache", target="/x", read_only=True)),
        (
            "type=cache,target=/x,id=i,sharing=LOCKED,mode=0700,uid=1,gid=2,from=a,source=b",
            Mount(
                kind="cache",
                origin="a",
                source="b",
                target="/x",
                read_only=False,
                id="i",
                sharing="locked",
                mode=0o700,
                uid=1,
                gid=2,
            ),
        ),
        ("type=tmpfs,target=/x", Mount(kind="tmpfs", target="/x", read_only=False)),
        (
            "type=tmpfs,target=/x,size=64m",
            Mount(kind="tmpfs", target="/x", read_only=False, size_bytes=64 << 20),
        ),
        ("type=secret,id=k", Mount(kind="secret", id="k")),
        ("type=secret,id=k,required", Mount(kind="secret", id="k", required=True)),
        ("type=secret,id=k,required=false,env=K", Mount(kind="secret", id="k", env="K")),
        ("type=secret,source=k,mode=0440,uid=7", Mount(kind="secret", source="k", mode=0o440, uid=7)),
        ("type=secret,target=/k", Mount(kind="secret", target="/k")),
        ("type=ssh", Mount(kind="ssh")),
        ("type=ssh,id=a,target=/s,required=true", Mount(kind="ssh", id="a", target="/s", required=True)),
        ('"target=/a,b"', Mount(target="/a,b")),
    ],
)
def test_mount_reads_its_options(text: str, expected: Mount) -> None:
    """Every kind takes its keys in every spelling; only cache and tmpfs begin writable."""
    assert mount(text) == expected


def test_mount_expands_its_values() -> None:
    """Every value may have variables, the type among them."""
    assert mount("type=$T,target=/$D,id=$I", T="cache", D="x", I="y") == mount("type=cache,target=/x,id=y")


@pytest.mark.parametrize("text", ["from=$X,target=/x", "target=/x,from=a${X}b", "FROM=$X"])
def test_mount_origin_has_no_variable(text: str) -> None:
    """The stage a mount comes from is named, for the order of stages is known before any value."""
    with pytest.raises(SpecInvalid) as caught:
        MountFlag.parse(text)
    assert "cannot have a variable" in caught.value.what
    assert "FROM" in caught.value.mend


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "option '' has no value"),
        ("target", "option 'target' has no value"),
        ("whatever", "option 'whatever' has no value"),
        ("targt=/x", "unknown mount option 'targt'"),
        ("type=bnd,target=/x", "type cannot be 'bnd'"),
        ("type=cache,sharing=some,target=/x", "sharing cannot be 'some'"),
        ("target=/x,ro=maybe", "readonly cannot be 'maybe'"),
        ("target=/x,required", "bind mount has no option required"),
        ("required,type=secret,id=x", "bind mount has no option required"),
        ("target=/x,size=1", "bind mount has no option size"),
        ("type=tmpfs,size=x,target=/x", "size cannot be 'x'"),
        ("target=/x,mode=0700", "bind mount has no option mode"),
        ("type=tmpfs,target=/x,uid=1", "tmpfs mount has no option uid"),
        ("target=/x,gid=1", "bind mount has no option gid"),
        ("type=cache,target=/x,mode=9", "mode cannot be '9'"),
        ("type=cache,target=/x,uid=root", "uid cannot be 'root'"),
        ("type=ssh,sharing=shared", "ssh mount has no option sharing"),
        ("target=/x,sharing=shared", "bind mount has no option sharing"),
        ("type=secret", "secret mount has no name"),
        ("type=secret,from=a,id=b", "secret mount has no option from"),
        ("type=secret,id=a,source=b", "both source and id"),
        ("type=secret,id=a,sharing=shared", "secret mount has no option sharing"),
        ('"target=/x', "quoted field"),
        ('target="/x"', "quote stands inside"),
    ],
)
def test_mount_refuses_wrong_options(text: str, word: str) -> None:
    """Unknown keys and values, and what the kind does not have, are refused."""
    with pytest.raises(SpecInvalid) as caught:
        mount(text)
    assert word in caught.value.what


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("targt=/x", "did you mean target?"),
        ("type=cach", "did you mean cache?"),
        ("type=cache,sharing=lock", "did you mean locked?"),
        ("type=zzz", "bind, cache, tmpfs, secret, ssh"),
        ("size=1", "type=tmpfs, which stands before it"),
    ],
)
def test_mount_suggests_what_was_meant(text: str, mend: str) -> None:
    """A near miss gets its suggestion."""
    with pytest.raises(SpecInvalid) as caught:
        mount(text)
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("text", "workdir", "target"),
    [
        ("target=/x", "/w", "/x"),
        ("target=x", "/w", "/w/x"),
        ("target=x", "", "/x"),
        ("target=./x/../y", "/w", "/w/y"),
        ("target=../x", "/w", "/x"),
        ("target=", "/w", "/w"),
        ("type=tmpfs,target=//x//y/", "/", "/x/y"),
    ],
)
def test_mount_target_is_below_the_workdir(text: str, workdir: str, target: str) -> None:
    """A relative target is joined to the working directory."""
    assert mount(text).resolved(workdir).target == target


@pytest.mark.parametrize(
    "text", ["target=/", "target=", "target=..", "type=cache,target=/x/..", "type=tmpfs,target=."]
)
def test_mount_cannot_hide_the_root(text: str) -> None:
    """No mount has the root as its target."""
    with pytest.raises(SpecInvalid, match="target /"):
        mount(text).resolved("/")


@pytest.mark.parametrize(
    ("text", "name", "mode"),
    [
        ("type=cache,target=/a/b", "/a/b", 0o755),
        ("type=cache,target=/a/../b/", "/b", 0o755),
        ("type=cache,target=b,id=pip", "pip", 0o755),
        ("type=cache,target=b,mode=0700", "b", 0o700),
    ],
)
def test_cache_mount_is_named_by_its_target(text: str, name: str, mode: int) -> None:
    """A cache without an id has its target's name, and is everybody's to read."""
    resolved = mount(text).resolved("/w")
    assert (resolved.id, resolved.mode, resolved.uid, resolved.gid) == (name, mode, 0, 0)


@pytest.mark.parametrize(
    ("text", "name", "target", "env"),
    [
        ("type=secret,id=k", "k", "/run/secrets/k", None),
        ("type=secret,source=k", "k", "/run/secrets/k", None),
        ("type=secret,id=a/k", "a/k", "/run/secrets/k", None),
        ("type=secret,target=/etc/k", "k", "/etc/k", None),
        ("type=secret,id=k,target=etc/k", "k", "/w/etc/k", None),
        ("type=secret,id=k,env=K", "k", "", "K"),
        ("type=secret,id=k,env=", "k", "", "k"),
        ("type=secret,id=k,env=K,target=/k", "k", "/k", "K"),
    ],
)
def test_secret_mount_is_a_file_or_a_variable(text: str, name: str, target: str, env: str | None) -> None:
    """A secret is a file below /run/secrets unless it is asked for as a variable alone."""
    resolved = mount(text).resolved("/w")
    assert (resolved.id, resolved.target, resolved.env, resolved.mode) == (name, target, env, 0o400)


def test_ssh_mount_has_a_numbered_socket() -> None:
    """An agent's socket has a name of its own, and its owner alone may use it."""
    resolved = mount("type=ssh").resolved("/w", 2)
    assert (resolved.id, resolved.target, resolved.mode) == ("default", "/run/buildkit/ssh_agent.2", 0o600)
    given = mount("type=ssh,id=a,target=/s,mode=0666").resolved("/w")
    assert (given.id, given.target, given.mode) == ("a", "/s", 0o666)


def test_ssh_mount_takes_no_source() -> None:
    """What an agent offers is named by its id."""
    with pytest.raises(SpecInvalid, match="no source"):
        mount("type=ssh,source=x").resolved("/")


def test_secret_mount_is_named_by_something() -> None:
    """A target that has no last name names no secret."""
    with pytest.raises(SpecInvalid, match="no name"):
        mount("type=secret,target=/").resolved("/")
