"""The callables behind the fixtures: a container, a network, and for how long (floor 4).

A scope decides when something ends, and who shares it: in a scope wider than the test, the same
order is the same container. What a *place* of the test run is, and when it ends, the face of the
framework says (`Place`); nothing here knows pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Unpack, cast, get_args

from pytest_containers.container import Container
from pytest_containers.engines.base import Network
from pytest_containers.errors import SpecInvalid
from pytest_containers.ledger import Claim, Ledger
from pytest_containers.order import Image, Lifetime, Options, Order, Scope
from pytest_containers.probe import Probe
from pytest_containers.session import Session

__all__ = ["ContainerFactory", "Keep", "NetworkFactory", "Place", "ScopedOptions", "Shared", "judge_scope"]


class ScopedOptions(Options, total=False):
    """The keywords of ``container()``: those of a container, and its scope."""

    scope: Scope | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A container that others may get, and the probes that have held for it."""

    container: Container
    held: list[Probe]


class Keep:
    """The containers that are shared in one place of the test run, by their orders' fingerprints."""

    def __init__(self) -> None:
        self._shared: dict[str, Shared] = {}

    def find(self, order: Order) -> Shared | None:
        """Return the container of the same order, unless a test has removed it, or its run has died."""
        shared = self._shared.get(order.fingerprint())
        return None if shared is None or shared.container.removed or shared.container.lost else shared

    def add(self, order: Order, container: Container, probe: Probe) -> None:
        """Share *container*, for which *probe* holds, with whoever orders the same."""
        self._shared[order.fingerprint()] = Shared(container=container, held=[probe])

    def forget(self, order: Order) -> None:
        """Share it no longer."""
        self._shared.pop(order.fingerprint(), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a container lives.

    *at_end* registers what is called when the place ends, the last one first. *keep* is None
    where nothing is shared: in a single test, or in one fixture.
    """

    lifetime: Lifetime
    at_end: Callable[[Callable[[], object]], None]
    keep: Keep | None
    claim: Callable[[Claim], None]


def judge_scope(scope: str, callers: str, fixture: str | None) -> None:
    """Raise SpecInvalid for a scope that is none, or ends before its caller's scope *callers*."""
    scopes: tuple[str, ...] = get_args(Scope)
    if scope not in scopes:
        raise SpecInvalid(f"{scope!r} is not a scope", mend=f"choose one of {', '.join(scopes)}")
    if scopes.index(scope) < scopes.index(callers):
        raise SpecInvalid(
            f"the fixture {fixture} lives as long as its {callers}; scope {scope!r} ends before that",
            mend="leave scope= out: the container then lives as long as the fixture",
        )


class ContainerFactory:
    """Starts containers: the value of the ``container`` fixture."""

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        place: Callable[[Scope | None], Place],
        claims: Callable[[], Iterable[Claim]],
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._place = place
        self._claims = claims

    def __call__(self, image: Image, **options: Unpack[ScopedOptions]) -> Container:
        """Return a container of *image*, started and ready.

        *image* is a name of the catalog, an image reference, a folder with a Dockerfile, ``host``, or
        what `Shelf.build` and its kin return. Without *scope* it
        lives as long as the test or the fixture that called. With a wider one, the same order
        from anywhere in that scope is the same container; ``"run"`` is one for all processes.
        Raises SpecInvalid, Unsupported, ImageError, StartError, NotReady and their kin.
        """
        place = self._place(options.pop("scope", None))
        order = Order.of(image, **cast("Options", options))
        known = place.keep.find(order) if place.keep else None
        container = self._again(order, known) if known else self._start(order, place)
        place.claim(Claim(asked=order.image, container=container))
        return container

    def __getitem__(self, name: str) -> Container:
        """Return the container of this test with that name, or of that image as it was asked for.

        Raises SpecInvalid where there is none.
        """
        claims = tuple(self._claims())
        for claim in reversed(claims):
            if name in (claim.container.name, claim.asked):
                return claim.container
        known = ", ".join(sorted({f"{claim.container.name} ({claim.asked})" for claim in claims}))
        raise SpecInvalid(
            f"this test has no container {name!r}",
            seen=known or "it has none",
            mend=f"start it: container({name!r}), or @pytest.mark.container({name!r})",
        )

    def _again(self, order: Order, known: Shared) -> Container:
        """Return a shared container, ready by this order's own probe."""
        probe = self._session.probe(order, known.container.image)
        if probe not in known.held:
            known.container.wait_for(probe, timeout=order.timeout_s)
            known.held.append(probe)
        return known.container

    def _start(self, order: Order, place: Place) -> Container:
        container = self._session.launch(order, lifetime=place.lifetime)
        if place.lifetime == "owner":
            place.at_end(lambda: self._ledger.retire(container))
        if (keep := place.keep) is not None:
            keep.add(order, container, self._session.probe(order, container.image))
            place.at_end(lambda: keep.forget(order))
        return container


class NetworkFactory:
    """Makes networks: the value of the ``network`` fixture."""

    def __init__(self, session: Session, ledger: Ledger, place: Callable[[Scope | None], Place]) -> None:
        self._session = session
        self._ledger = ledger
        self._place = place

    def __call__(
        self, name: str | None = None, *, internal: bool = False, scope: Scope | None = None
    ) -> Network:
        """Return a new private network; *internal* has no way out of it.

        It lives as long as the test or the fixture that called, or as *scope* says. Raises
        SpecInvalid for a name taken.
        """
        if scope == "run":
            raise SpecInvalid("a network cannot have scope='run'", mend='use "session": one for each worker')
        if name in ("default", "host", "none"):
            raise SpecInvalid(
                f"a network cannot be named {name!r}", mend="that one is there: network=" + repr(name)
            )
        place = self._place(scope)
        network = self._session.network(name, internal=internal)
        place.at_end(lambda: self._ledger.retire(network))
        return network
