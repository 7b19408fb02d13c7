"""Pools of connections: proxies, certificate authorities, and what urllib3's errors mean."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pytest_containers.errors import RegistryError
from pytest_containers.images.origin import Origin, printable
from pytest_containers.images.transport.heads import pools
from pytest_containers.images.transport.pace import TooSlow
from pytest_containers.images.transport.proxies import proxy_for
from pytest_containers.images.transport.settings import Settings

if TYPE_CHECKING:
    import urllib3

__all__ = ["Connections", "failure", "passing"]


class Connections:
    """Connections by proxy and by certificates, made when first needed; safe between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, tuple[Path, ...]], urllib3.PoolManager] = {}

    def pool(self, url: str) -> urllib3.PoolManager:
        """Return the pool that requests to *url* go through."""
        origin = Origin.of(url)
        proxy = proxy_for(origin, self._settings.environ)
        folders = tuple(
            folder for root in self._settings.certificates if (folder := root / str(origin)).is_dir()
        )
        with self._lock:
            key = (proxy, folders)
            if key not in self._pools:
                self._pools[key] = self._make(origin, proxy, folders)
            return self._pools[key]

    def close(self) -> None:
        """Close every idle connection, and each other one when its reply is closed."""
        with self._lock:
            for pool in self._pools.values():
                # Clearing alone leaves the sockets to the garbage collector, which waits for whoever
                # keeps an error with its frames, as pytest does (urllib3/poolmanager.py, "clear").
                for key in pool.pools.keys():  # noqa: SIM118 - it cannot be iterated over itself
                    pool.pools[key].close()
                pool.clear()
            self._pools.clear()

    def _make(self, origin: Origin, proxy: str, folders: tuple[Path, ...]) -> urllib3.PoolManager:
        import urllib3

        timeout = urllib3.Timeout(
            connect=self._settings.connect_timeout_s, read=self._settings.read_timeout_s
        )
        # Reading the system's authorities takes 20 ms; plain http has no use for them.
        context = _context(folders) if origin.scheme == "https" or folders else None
        size = max(self._settings.parallel, 1) + 1
        pool: urllib3.PoolManager
        if proxy:
            parts = urlsplit(proxy if "://" in proxy else "http://" + proxy)
            if parts.scheme not in ("http", "https"):
                raise RegistryError(
                    f"the proxy for {origin} is of a kind that is not spoken here",
                    seen=f"{parts.scheme}:// in the environment",
                    mend="name an http proxy in HTTPS_PROXY, or the host in NO_PROXY",
                )
            pool = urllib3.ProxyManager(
                parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
                proxy_headers=_proxy_headers(unquote(parts.username or ""), unquote(parts.password or "")),
                maxsize=size,
                timeout=timeout,
                ssl_context=context,
            )
        else:
            pool = urllib3.PoolManager(maxsize=size, timeout=timeout, ssl_context=context)
        pool.pool_classes_by_scheme = pools(self._settings)
        return pool


def failure(method: str, url: str, error: Exception, tries: int = 1) -> RegistryError:
    """Return what *error*, of urllib3 or TooSlow, means for a person; the frames behind it are forgotten.

    Those frames hold the request's headers, and pytest shows locals where it is asked to.
    """
    from urllib3 import exceptions

    for link in _links(error):
        link.__traceback__ = None
    host = Origin.of(url) if "://" in url else url
    seen = _innermost(error) + (f" ({tries} tries)" if tries > 1 else "")
    if isinstance(error, exceptions.ProxyError):
        return RegistryError(
            f"{host} cannot be reached through the proxy",
            seen=seen,
            mend="check HTTPS_PROXY and HTTP_PROXY, or name the host in NO_PROXY",
        )
    if isinstance(error, exceptions.SSLError):
        return RegistryError(f"{host} cannot be trusted", seen=seen, mend=_tls_mend(str(host), seen))
    if isinstance(error, exceptions.NameResolutionError):
        return RegistryError(f"{host} has no address", seen=seen, mend="check the name and the network")
    if isinstance(error, exceptions.ConnectTimeoutError):
        return RegistryError(
            f"{host} cannot be reached",
            seen=seen,
            mend="check that the registry runs; without one, take images based on host",
        )
    if isinstance(error, TooSlow):
        return RegistryError(
            f"{method} {printable(url)} is too slow", seen=seen, mend="try again, or name a mirror"
        )
    return RegistryError(f"{method} {printable(url)} broke off", seen=seen, mend="try again")


def passing(error: BaseException) -> bool:
    """Tell whether *error* may go away by itself: a broken connection may, a wrong certificate not."""
    from urllib3 import exceptions

    if isinstance(error, exceptions.SSLError):
        text = _innermost(error)
        return "CERTIFICATE" not in text.upper() and "WRONG_VERSION" not in text
    return isinstance(
        error, exceptions.TimeoutError | exceptions.ProtocolError | exceptions.ProxyError | TooSlow
    )


def _tls_mend(host: str, seen: str) -> str:
    if "WRONG_VERSION_NUMBER" in seen:
        return f"it speaks plain http: --containers-insecure={host}, if that is meant"
    return f"put its authority into /etc/docker/certs.d/{host}/ca.crt, or into SSL_CERT_FILE"


def _context(folders: tuple[Path, ...]) -> ssl.SSLContext:
    """Return the system's authorities and those of *folders* (docs.docker.com, "certificates")."""
    context = ssl.create_default_context()
    try:
        for folder in folders:
            for authority in sorted(folder.glob("*.crt")):
                context.load_verify_locations(authority)
            for client in sorted(folder.glob("*.cert")):
                context.load_cert_chain(client, client.with_suffix(".key"))
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"a certificate in {folder} cannot be used", seen=str(error)) from error
    return context


def _proxy_headers(username: str, password: str) -> dict[str, str] | None:
    from pytest_containers.images.credentials import Credential, Secret

    if not username:
        return None
    return {"Proxy-Authorization": Credential(username=username, password=Secret(password)).basic}


def _links(error: BaseException) -> Iterator[BaseException]:
    """Walk the chain of causes, each once; urllib3 keeps some of them as arguments only."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [near for near in (link.__cause__, link.__context__) if near is not None]
        waiting += [near for near in link.args if isinstance(near, BaseException)]


def _innermost(error: BaseException) -> str:
    """Return the words of the system call or TLS library at the bottom of the chain."""
    links = list(_links(error))
    systems = [link for link in links if isinstance(link, OSError) and (link.strerror or link.args)]
    link = systems[-1] if systems else links[-1]
    return (getattr(link, "strerror", None) or str(link) or type(link).__name__)[:300]
