"""Make a lock file, pull what it says, and compare the store with it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pytest_containers.errors import ImageError, NotPortable, RegistryError
from pytest_containers.images.credentials import Keychain
from pytest_containers.images.host import is_host
from pytest_containers.images.lockfile import LockedBlob, LockedImage, LockedManifest, LockFile
from pytest_containers.images.manifest import read_config
from pytest_containers.images.platform import Platform
from pytest_containers.images.pull import pull
from pytest_containers.images.reference import Reference
from pytest_containers.images.registry import Registry, check_digest
from pytest_containers.images.resolve import Resolved, check_platform, resolve_all
from pytest_containers.images.source import Source
from pytest_containers.images.store import CONFIG_LIMIT_BYTES, REF_NAME, Store
from pytest_containers.images.transport import Settings, Transport
from pytest_containers.progress import Watch
from pytest_containers.spec import ImageRecord

__all__ = ["Problem", "lock", "pull_locked", "verify"]

# Images side by side; each fetches several blobs at once besides.
_PARALLEL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Where a store is not what a lock file says: which image, and what about it."""

    reference: Reference
    what: str

    def __str__(self) -> str:
        return f"{self.reference.familiar}: {self.what}"


def lock(
    references: Iterable[Reference],
    platforms: Iterable[Platform] = (),
    *,
    settings: Settings | None = None,
    keychain: Keychain | None = None,
) -> LockFile:
    """Ask the registries what names mean now, for each platform; return it as a lock file.

    Only manifests are fetched. Without *platforms* it is the machine's own. Raises ImageNotFound
    (unknown, or not for such a platform), NotPortable for ``host``, Unauthorized, RegistryError.
    """
    settings = settings or Settings()
    keychain = keychain or Keychain(environ=settings.environ)
    wanted = tuple(dict.fromkeys(platforms)) or (Platform.host(),)
    names = tuple(dict.fromkeys(references))
    for name in names:
        if is_host(name):
            raise NotPortable("the image host is this machine itself and cannot be locked")
    if settings.offline:
        raise RegistryError("images cannot be locked", seen="offline: no registry is asked")
    with Transport(settings) as transport, ThreadPoolExecutor(_PARALLEL) as threads:

        def one(reference: Reference) -> LockedImage:
            source = Source(reference, transport=transport, keychain=keychain)
            found = resolve_all(source, reference, wanted)
            for platform, each in zip(wanted, found, strict=True):
                _check_platform(source, reference, platform, each)
            manifests = [_locked(platform, each) for platform, each in zip(wanted, found, strict=True)]
            return LockedImage(reference=reference, digest=found[0].root, manifests=tuple(manifests))

        return LockFile().updated(threads.map(one, names))


def pull_locked(
    store: Store,
    lockfile: LockFile,
    *,
    references: Iterable[Reference] = (),
    platform: Platform | None = None,
    settings: Settings | None = None,
    keychain: Keychain | None = None,
    watch: Watch | None = None,
) -> tuple[ImageRecord, ...]:
    """Pull every image of a lock file by digest, name it by its tag, several at a time.

    What the store has whole costs no request. *references* limits it to some; one that is not
    locked raises ImageError. Raises what `pull` raises, for the first image that fails.
    """
    names = tuple(references) or tuple(image.reference for image in lockfile.images)
    images = [(name, _found(lockfile, name)) for name in names]
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="pull-lock") as threads:
        futures = [
            threads.submit(
                pull,
                store,
                name,
                platform=platform,
                settings=settings,
                keychain=keychain,
                pinned=image,
                watch=watch,
            )
            for name, image in images
        ]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def verify(store: Store, lockfile: LockFile, *, platform: Platform | None = None) -> tuple[Problem, ...]:
    """Return where the store is not what the lock file says; empty where it is.

    Every blob is read and compared with its digest, once. A damaged one is removed, so that a
    pull brings it back.
    """
    platform = platform or Platform.host()
    problems: list[Problem] = []
    judged: dict[LockedBlob, str] = {}
    with store.lease() as lease:
        named: dict[str, list[str]] = {}
        for entry in store.entries():
            named.setdefault(entry.annotations[REF_NAME], []).append(entry.digest)
        for image in lockfile.images:
            manifest = image.manifest(platform)
            if manifest is None:
                problems.append(Problem(reference=image.reference, what=f"not locked for {platform}"))
                continue
            lease.cover(*store.contents(manifest.digest))
            found = named.get(str(image.reference))
            if found is None:
                problems.append(Problem(reference=image.reference, what="not in the store"))
            elif manifest.digest not in found:
                what = f"the store has {', '.join(found)}, locked is {manifest.digest}"
                problems.append(Problem(reference=image.reference, what=what))
            for blob in (LockedBlob(digest=manifest.digest, size=manifest.size), *manifest.blobs):
                if blob not in judged:
                    judged[blob] = _judged(store, blob)
                if judged[blob]:
                    problems.append(Problem(reference=image.reference, what=judged[blob]))
    return tuple(problems)


def _found(lockfile: LockFile, reference: Reference) -> LockedImage:
    image = lockfile.find(reference)
    if image is None:
        raise ImageError(
            f"{reference.familiar} is not in the lock file", mend="lock it, or pull it without the lock file"
        )
    return image


def _check_platform(source: Source, reference: Reference, platform: Platform, resolved: Resolved) -> None:
    """Raise ImageNotFound where a name that has no index means another platform, as its config says."""
    if resolved.root != resolved.digest:
        return
    config = resolved.manifest.config
    if config.size > CONFIG_LIMIT_BYTES:
        raise ImageError(f"the config of {reference} is too large", seen=f"{config.size} bytes")

    def fetch(place: Registry) -> bytes:
        sink = _Memory()
        source.fetch(place, config, sink)
        check_digest(bytes(sink.data), config.digest, f"the config of {place}/{reference.repository}")
        return bytes(sink.data)

    read, _ = read_config(source.first(fetch))
    check_platform(read, reference, platform)


class _Memory:
    """A download that is kept in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def offset(self) -> int:
        """The number of bytes that are there."""
        return len(self.data)

    def write(self, data: bytes, /) -> None:
        """Add bytes to the end."""
        self.data += data

    def restart(self) -> None:
        """Forget what is there."""
        self.data.clear()


def _locked(platform: Platform, resolved: Resolved) -> LockedManifest:
    manifest = resolved.manifest
    return LockedManifest(
        platform=platform,
        digest=resolved.digest,
        size=len(resolved.data),
        blobs=tuple(
            LockedBlob(digest=blob.digest, size=blob.size) for blob in (manifest.config, *manifest.layers)
        ),
    )


def _judged(store: Store, blob: LockedBlob) -> str:
    """Return what is wrong with a blob, empty for nothing."""
    if not store.blobs.has(blob.digest):
        return f"blob {blob.digest} is missing ({blob.size} bytes)"
    size = store.blobs.size(blob.digest)
    try:
        store.blobs.verify(blob.digest)
    except ImageError as error:
        return f"{error.what} ({error.seen})"
    return "" if size == blob.size else f"blob {blob.digest} has {size} bytes, locked are {blob.size}"
