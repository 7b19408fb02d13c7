"""Builds of real Dockerfiles by the native engine: what the image is, and what is not done twice."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest

from pytest_containers.errors import BuildFailed, NotPortable, SpecInvalid
from pytest_containers.images.prune import prune
from pytest_containers.images.store import Store
from pytest_containers.spec import ContainerSpec, ExecSpec, Port
from tests.engines.sites import Site

pytestmark = pytest.mark.kernel


def test_build_makes_what_the_dockerfile_says(site: Site) -> None:
    """Files, environment, folder, command and ports are those of the instructions."""
    site.write({"app/main.sh": "echo $GREETING from $(pwd)\n", "app/data/one": "1"})
    image = site.build(
        "FROM host\n"
        "ARG WHO=world\n"
        "ENV GREETING=hello-$WHO\n"
        "WORKDIR /srv/app\n"
        "COPY app .\n"
        'RUN cat data/one > made && test "$WHO" = world\n'
        "EXPOSE 8000\n"
        "LABEL is=a-test\n"
        'CMD ["sh", "main.sh"]\n'
    )
    assert site.run(image) == "hello-world from /srv/app\n"
    assert site.run(image, "cat", "made") == "1"
    assert image.config.ports == (Port(8000),)
    assert image.config.labels == {"is": "a-test"}
    assert not image.portable


def test_build_takes_from_the_cache_what_has_not_changed(site: Site) -> None:
    """A second build makes nothing; after a change all steps from that line on are made anew."""
    site.write({"first": "1", "second": "2"})
    dockerfile = (
        "FROM host\nCOPY first /srv/\nRUN head -c 8 /dev/urandom > /srv/early\n"
        "COPY second /srv/\nRUN head -c 8 /dev/urandom > /srv/late\n"
    )
    before = site.build(dockerfile)
    again = site.build(dockerfile)
    assert (site.cached, again.diff_ids) == (4, before.diff_ids)
    # The times in its history are those of the first build, so it is the same image.
    assert again.id == before.id
    site.write({"second": "changed"})
    after = site.build(dockerfile)
    assert site.cached == 2
    assert after.diff_ids[:2] == before.diff_ids[:2]
    assert set(after.diff_ids[2:]).isdisjoint(before.diff_ids)


def test_build_without_cache_makes_every_step(site: Site) -> None:
    """Asked not to, a build takes nothing from the cache."""
    dockerfile = "FROM host\nRUN head -c 8 /dev/urandom > /srv/random\n"
    before = site.build(dockerfile)
    after = site.build(dockerfile, use_cache=False)
    assert site.cached == 0
    assert after.diff_ids != before.diff_ids


def test_build_argument_counts_from_its_line_on(site: Site) -> None:
    """A RUN behind the ARG is made anew for another value, one before it is not."""
    dockerfile = "FROM host\nRUN echo a > /srv/a\nARG VALUE\nRUN echo $VALUE > /srv/b\n"
    site.build(dockerfile, args={"VALUE": "1"})
    image = site.build(dockerfile, args={"VALUE": "2"})
    assert site.cached == 1
    assert site.run(image, "cat", "/srv/b") == "2\n"


def test_build_of_stages_makes_those_that_are_needed(site: Site) -> None:
    """A stage copies from another; one that nothing needs is not built."""
    image = site.build(
        "FROM host AS maker\nRUN mkdir /out && echo made > /out/file && chmod 0640 /out/file\n"
        "FROM host AS never\nRUN exit 1\n"
        "FROM host\nCOPY --from=maker --chown=7:8 /out/ /srv/copied/\n"
        "COPY --from=maker /out/f*e /srv/wild/\n"
    )
    assert site.run(image, "stat", "-c", "%a %u %g", "/srv/copied/file") == "640 7 8\n"
    assert site.run(image, "cat", "/srv/wild/file") == "made\n"
    assert not [event for event in site.told if "never" in event.step]


def test_stage_on_a_stage_inherits_arguments_behind_its_environment(site: Site) -> None:
    """Arguments of the stage below are known; a name that its ENV has set means that value."""
    image = site.build(
        "FROM host AS below\nENV NAME=env\nARG NAME=argument\nARG OTHER=other\n"
        "FROM below\nRUN echo $NAME $OTHER > /srv/names\n"
    )
    assert site.run(image, "cat", "/srv/names") == "env other\n"


def test_build_that_fails_says_where_and_what(site: Site) -> None:
    """The error has file, line, exit code and the last lines of output; no image has the name."""
    with pytest.raises(BuildFailed) as caught:
        site.build("FROM host\nRUN true\nRUN echo this is why >&2; exit 3\n", use_cache=False)
    assert caught.value.what.startswith("Dockerfile:3: RUN echo this is why")
    assert "exit code 3" in caught.value.what
    assert "this is why" in caught.value.seen
    ends = [(event.step.partition("] ")[2], event.kind) for event in site.told if event.kind != "output"]
    assert ends[:2] == [("RUN true", "begin"), ("RUN true", "done")]
    assert [kind for _, kind in ends[2:]] == ["begin", "failed"]


def test_secret_is_seen_and_left_nowhere(site: Site) -> None:
    """A secret is there for its RUN alone: no layer, cache key, history or list of steps has it."""
    secret = os.urandom(12).hex()
    dockerfile = (
        "FROM host\n"
        "RUN --mount=type=secret,id=token,required test -s /run/secrets/token && touch /srv/seen\n"
        "RUN test ! -e /run/secrets/token || test ! -s /run/secrets/token\n"
    )
    image = site.build(dockerfile, secrets={"token": secret.encode()})
    assert site.run(image, "ls", "/srv/seen") == "/srv/seen\n"
    for path in site.store.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert secret.encode() not in path.read_bytes(), path
    assert secret not in "".join(event.step for event in site.told)


def test_cache_mount_outlives_the_build(site: Site) -> None:
    """What a RUN leaves in a cache mount is there for the next one, and in no layer."""
    mount = f"--mount=type=cache,target=/cache,id={site.folder}"
    image = site.build(
        f"FROM host\nRUN {mount} echo kept > /cache/file\nRUN {mount} cp /cache/file /srv/copy\n"
    )
    assert site.run(image, "cat", "/srv/copy") == "kept\n"
    assert site.run(image, "sh", "-c", "ls /cache/file 2>/dev/null || echo none") == "none\n"


def test_bind_mount_shows_the_context(site: Site) -> None:
    """A bind of the context is seen by its RUN, and a change in it makes the step anew."""
    site.write({"input": "one"})
    dockerfile = "FROM host\nRUN --mount=target=/context cp /context/input /srv/input\n"
    site.build(dockerfile)
    site.write({"input": "two"})
    assert site.run(site.build(dockerfile), "cat", "/srv/input") == "two"


def test_heredoc_is_a_script(site: Site) -> None:
    """Lines of a heredoc are run by the shell, or by the program that they name."""
    image = site.build(
        "FROM host\nRUN <<EOF\necho one > /srv/lines\necho two >> /srv/lines\nEOF\n"
        "RUN <<EOF\n#!/usr/bin/env perl\nopen(F, '>', '/srv/perl'); print F 6 * 7;\nEOF\n"
        "COPY <<EOF /srv/inline\ninline\nEOF\n"
    )
    assert site.run(image, "cat", "/srv/lines", "/srv/perl", "/srv/inline") == "one\ntwo\n42inline\n"


def test_build_of_host_cannot_be_pushed(site: Site) -> None:
    """An image on this machine's own files says that it cannot leave it."""
    site.build("FROM host\nRUN echo > /srv/made\n")
    with pytest.raises(NotPortable):
        site.engine.images.push("made")


def test_scratch_holds_what_was_copied_alone(site: Site) -> None:
    """FROM scratch with a COPY is one portable layer."""
    site.write({"file": "content", "ignored": "", ".dockerignore": "ignored\n"})
    image = site.build("FROM scratch\nCOPY . /\n")
    assert image.portable
    handle = site.engine.create(ContainerSpec(name="box", command=("/none",)), image)
    with contextlib.closing(_Removed(handle.remove)):
        layer = site.engine.images.pull("made")
        assert len(layer.diff_ids) == 1


class _Removed:
    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("RUN --security=insecure true", "not allowed"),
        ("RUN --network=host true", "not allowed"),
        ("ADD https://me:word@localhost/x /srv/", "has a user or password"),
        ("FROM --platform=linux/s390x host", "not this machine's"),
        ("COPY missing /srv/", "missing"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(site: Site, line: str, why: str) -> None:
    """What is not supported, or not there, is an error that names file, line and reason."""
    with pytest.raises(SpecInvalid, match=why) as caught:
        site.build(f"FROM host\nRUN touch /srv/step-of-{os.urandom(4).hex()}\n{line}\n")
    assert "Dockerfile:3" in caught.value.what


def test_trigger_of_a_base_runs_once(site: Site) -> None:
    """ONBUILD of a base image runs first in what is built on it, and not in what is built on that."""
    site.build("FROM host\nONBUILD RUN echo run >> /srv/triggered\n")
    site.engine.images.tag("made", "base-with-trigger")
    site.build("FROM base-with-trigger\nRUN wc -l < /srv/triggered > /srv/count\n")
    site.engine.images.tag("made", "second-of-trigger")
    image = site.build("FROM second-of-trigger\nRUN true\n")
    assert site.run(image, "cat", "/srv/triggered", "/srv/count") == "run\n1\n"


def test_prune_spares_what_a_container_stands_on(site: Site) -> None:
    """The layers of a running container stay, its image's name or not; they go when it is removed."""
    site.write({"file": "content"})
    image = site.build("FROM host\nCOPY file /srv/\n")
    handle = site.engine.create(ContainerSpec(name="box", command=("sleep", "60")), image)
    try:
        handle.start()
        site.engine.images.remove("made")
        prune(Store.open(site.store), max_bytes=0)
        result = handle.exec(ExecSpec(argv=("cat", "/srv/file")))
        assert result.stdout == "content"
        assert all(folder.is_dir() for folder in Store.open(site.store).layers(image)[1:])
    finally:
        handle.remove()
    assert prune(Store.open(site.store), max_bytes=0).chains
