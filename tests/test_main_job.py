"""The main job on real input: a registry, an empty store, a real server, and nothing survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pytest_containers.shelf import Shelf

SETTINGS: Final = "[pytest]\naddopts = -q -p no:cacheprovider\n"
# What a user would write, but for the registry's port.
USERS_TEST: Final = """
import socket


def test_lock(container):
    redis = container("{registry}/redis:7")
    with socket.create_connection(redis.address(6379), timeout=10) as client:
        client.sendall(b"SET lock mine NX\\r\\nSET lock yours NX\\r\\n")
        answer = b""
        while len(answer) < 10:
            answer += client.recv(100)
    assert answer == b"+OK\\r\\n$-1\\r\\n"
"""


@pytest.fixture
def pushed(images: Shelf, portable_redis_image: str, registry: str) -> str:
    """Return the registry, with ``redis:7`` in it and out of our store."""
    images.tag(portable_redis_image, f"{registry}/redis:7")
    images.push(f"{registry}/redis:7")
    images.remove(f"{registry}/redis:7")
    return registry


@pytest.mark.kernel
@pytest.mark.slow
def test_image_is_pulled_unpacked_and_answers(pytester: pytest.Pytester, tmp_path: Path, pushed: str) -> None:
    """On an empty store an image comes from its registry and runs; the second run needs no registry."""
    pytester.makeini(SETTINGS)
    pytester.makepyfile(USERS_TEST.format(registry=pushed))
    store = f"--containers-store={tmp_path / 'store'}"
    pytester.runpytest_subprocess(store).assert_outcomes(passed=1)
    pytester.runpytest_subprocess(store, "--containers-offline").assert_outcomes(passed=1)


@pytest.mark.kernel
def test_offline_run_says_what_is_missing(pytester: pytest.Pytester, tmp_path: Path, pushed: str) -> None:
    """Offline and on an empty store the image is named, and nothing is asked."""
    pytester.makeini(SETTINGS)
    pytester.makepyfile(USERS_TEST.format(registry=pushed))
    result = pytester.runpytest_subprocess(f"--containers-store={tmp_path / 'store'}", "--containers-offline")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines_random([rf".*ImageNotFound.*{pushed}/redis:7.*"])


@pytest.mark.kernel
def test_store_is_an_oci_layout(pytester: pytest.Pytester, tmp_path: Path, pushed: str) -> None:
    """What a pull leaves on disk is the layout of image-spec, so that any tool can carry it."""
    pytester.makeini(SETTINGS)
    pytester.makepyfile(USERS_TEST.format(registry=pushed))
    store = tmp_path / "store"
    pytester.runpytest_subprocess(f"--containers-store={store}").assert_outcomes(passed=1)
    assert json.loads((store / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((store / "index.json").read_text())["manifests"]
    algorithm, _, name = entry["digest"].partition(":")
    assert (store / "blobs" / algorithm / name).stat().st_size == entry["size"]
