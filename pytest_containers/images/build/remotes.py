"""The sources of ADD that come over the network, as trees to copy from.

A source is first resolved to a key, the digest or commit that its content is, and fetched as a
tree only where a layer has to be made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from pytest_containers.errors import BuildFailed, DigestMismatch, RegistryError
from pytest_containers.images.build.download import Downloads
from pytest_containers.images.build.git import Repositories
from pytest_containers.images.build.halt import Halt
from pytest_containers.images.build.instruction import Add
from pytest_containers.images.build.nodes import Item
from pytest_containers.images.build.remote import GitSource, HttpSource, read_remote
from pytest_containers.images.origin import printable
from pytest_containers.images.store import Store
from pytest_containers.images.transport import Settings

__all__ = ["Remote", "Remotes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """One remote source: *key* stands for its content, *items* are its files until the scope ends."""

    key: str
    items: Callable[[ExitStack], list[Item]]


class Remotes:
    """Fetches for one build, into *store*; safe between threads. Close it at the build's end.

    *agent* is the socket of the SSH agent that git may ask, empty for none.
    """

    def __init__(self, store: Store, settings: Settings, agent: str, halt: Halt) -> None:
        self._downloads = Downloads(store, settings)
        self._repositories = Repositories(
            store.root / "build" / "git",
            agent=agent,
            offline=settings.offline,
            environ=settings.environ,
            check=halt.check,
            cancel=halt.event,
        )

    def close(self) -> None:
        """End every request and connection."""
        self._downloads.close()

    def of(self, add: Add) -> tuple[Remote, ...]:
        """Return the remote sources of an expanded *add*, resolved.

        Raises BuildFailed, with the line, where one cannot be had.
        """
        found: list[Remote] = []
        for text in add.sources:
            source = read_remote(text)
            if source is None:
                continue
            with _told(source, add):
                remote = self._resolve(source, add)
            found.append(replace(remote, items=partial(_fetched, remote, source, add)))
        return tuple(found)

    def _resolve(self, source: HttpSource | GitSource, add: Add) -> Remote:
        if isinstance(source, HttpSource):
            file = self._downloads.fetch(source, add.checksum)
            unpack = add.unpack is True
            return Remote(key=f"{source.name} {file.digest}", items=lambda _: [file.item(unpack=unpack)])
        wanted = replace(
            source,
            checksum=add.checksum or source.checksum,
            keep_git_dir=source.keep_git_dir if add.keep_git_dir is None else add.keep_git_dir,
        )
        commit = self._repositories.resolve(wanted)
        key = f"{commit} {wanted.subdir} {bool(wanted.keep_git_dir)} {wanted.submodules is not False}"
        return Remote(
            key=key, items=lambda scope: self._repositories.items(wanted, commit, scope, add.exclude)
        )


def _fetched(remote: Remote, source: HttpSource | GitSource, add: Add, scope: ExitStack) -> list[Item]:
    with _told(source, add):
        return remote.items(scope)


@contextmanager
def _told(source: HttpSource | GitSource, add: Add) -> Iterator[None]:
    """Have what cannot be fetched be a failure of its line."""
    try:
        yield
    except RegistryError as error:
        url = source.url if isinstance(source, HttpSource) else source.remote
        raise BuildFailed(
            f"{add.location}: {printable(url)} cannot be fetched",
            seen=f"{error.what}: {error.seen}" if error.seen else error.what,
            mend=error.mend,
        ) from error
    except DigestMismatch as error:
        raise DigestMismatch(f"{add.location}: {error.what}", seen=error.seen, mend=error.mend) from error
