"""What is mutated, by which tests a mutant is to be found, and what is left alone because it is dangerous."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["DANGEROUS", "MODULES", "Dangerous"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dangerous:
    """Functions or classes of which no mutant is run: it would run with root's rights on this machine."""

    module: str
    names: tuple[str, ...]
    reason: str


_CONTRACT: Final = tuple(
    f"tests/engines/test_contract{part}.py" for part in ("", "_exec", "_files", "_network", "_control")
)

# Each module with the tests nearest to it, those that find most of its mutants soonest first.
MODULES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "order.py": ("tests/test_order.py", "tests/test_catalog.py", "tests/test_session.py"),
        "probe.py": ("tests/test_probe.py", "tests/test_container.py"),
        "checks.py": ("tests/test_probe.py", "tests/test_container.py"),
        "container.py": ("tests/test_container.py", "tests/test_transfer.py", "tests/test_probe.py"),
        "session.py": ("tests/test_session.py", "tests/test_catalog.py", "tests/test_layers.py"),
        "images/reference.py": ("tests/images/test_reference.py",),
        "images/layer.py": ("tests/images/test_layer.py", "tests/images/test_chains.py"),
        "images/upload.py": ("tests/images/registry/test_upload.py", "tests/images/registry/test_push.py"),
        "images/build/stages.py": ("tests/images/build/test_stages.py", "tests/engines/test_build_stages.py"),
        "images/build/picking.py": (
            "tests/images/build/test_copying.py",
            "tests/images/build/test_selection.py",
            "tests/images/build/test_wildcard.py",
            "tests/images/build/test_context.py",
        ),
        "runtime/requests.py": (
            "tests/runtime/test_requests.py",
            "tests/runtime/test_service.py",
            "tests/runtime/test_volumes.py",
            *_CONTRACT,
        ),
        "runtime/sandbox.py": (
            "tests/runtime/test_sandbox.py",
            "tests/runtime/test_handle.py",
            "tests/runtime/test_removal.py",
        ),
        "runtime/join.py": ("tests/runtime/test_join.py", "tests/attacks/test_reading.py"),
        "runtime/init.py": ("tests/runtime/test_init.py", "tests/runtime/test_binds.py"),
        "runtime/network/firewall.py": (
            "tests/runtime/network/test_firewall.py",
            "tests/runtime/network/test_switch.py",
            "tests/runtime/network/test_shared.py",
        ),
        "runtime/network/egress.py": (
            "tests/runtime/network/test_egress.py",
            "tests/runtime/network/test_quota.py",
        ),
        "runtime/network/acceptor.py": (
            "tests/runtime/network/test_acceptor.py",
            "tests/runtime/network/test_egress.py",
        ),
        "engines/native_container.py": ("tests/runtime/test_handle.py", *_CONTRACT),
    }
)

DANGEROUS: Final = (
    Dangerous(
        module="images/layer.py",
        names=("_split", "_through", "_no_target"),
        reason="they keep the entries of a layer below its folder; a hostile layer of the tests would write "
        "on the machine",
    ),
    Dangerous(
        module="images/build/picking.py",
        names=("clean", "_follow", "_outside"),
        reason="they keep COPY inside the build context; what is copied would be the machine's files",
    ),
    Dangerous(
        module="runtime/join.py",
        names=("join", "_enter"),
        reason="they go into a container's root and namespaces; what tests write and remove would be the "
        "machine's",
    ),
    Dangerous(
        module="runtime/sandbox.py",
        names=("_clone", "_discard_apart"),
        reason="one goes to the machine's network namespace and back, the other removes trees of files",
    ),
    Dangerous(
        module="runtime/init.py",
        names=(
            *("enter", "_pivot", "_sysctls", "_network"),
            *("detach", "_outside", "_inside", "lay", "lay_etc", "_place", "_attach", "_tmpfs"),
            *("_restrict_each", "_remount", "_mask", "_seal", "_dev", "_sys", "_files"),
        ),
        reason="pivot_root, binds, masks and read-only flags stand between a container's root user and the "
        "machine's files and settings",
    ),
)
