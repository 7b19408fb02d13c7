"""Debian's docker-registry as a test wants it: with passwords, tokens, TLS, certificates of clients.

Each runs in a container of its own, so that no machine has to have it installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

import pytest

if TYPE_CHECKING:
    from pytest_containers import ContainerFactory
    from tests.plugins.authority import Authority

# bcrypt of "secret", cost 5: the only hash that distribution's htpasswd knows.
HTPASSWD: Final = "alice:$2b$05$TgEiVpeBQ1FUzjSI5EZLl.8qgCQhmfbZvtK8ZmY4Rnx8PeTafG/va\n"


class RegistryStarter(Protocol):
    """Starts Debian's registry."""

    def __call__(
        self,
        *,
        password: bool = False,
        token: Mapping[str, str] | None = None,
        tls: Authority | None = None,
        clients: Authority | None = None,
    ) -> str:
        """Return ``127.0.0.1:port`` of a new, empty registry.

        With *password* only alice comes in, by "secret"; *token* is the configuration of
        distribution's token authentication, whose tokens the authority of *tls*, or of the suite,
        has signed. With *tls* it speaks TLS by that certificate, and with *clients* only to whoever
        shows a certificate of that authority.
        """


@pytest.fixture
def start_registry(container: ContainerFactory, registry_image: str, authority: Authority) -> RegistryStarter:
    """Return what starts real registries; they end with the test."""

    def start(
        *,
        password: bool = False,
        token: Mapping[str, str] | None = None,
        tls: Authority | None = None,
        clients: Authority | None = None,
    ) -> str:
        files: dict[str, str | bytes] = {"/etc/htpasswd": HTPASSWD, "/etc/tokens.crt": authority.pem()}
        http: dict[str, object] = {"addr": ":5000", "secret": "of no one"}
        if tls is not None:
            http["tls"] = secured = {"certificate": "/etc/server.crt", "key": "/etc/server.key"}
            files |= {"/etc/server.crt": tls.pem(), "/etc/server.key": tls.key_pem()}
            if clients is not None:
                http["tls"] = {**secured, "clientcas": ["/etc/clients.crt"]}
                files["/etc/clients.crt"] = clients.pem()
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": "/srv/registry"}, "delete": {"enabled": True}},
            "http": http,
        }
        if password:
            config["auth"] = {"htpasswd": {"realm": "test", "path": "/etc/htpasswd"}}
        if token is not None:
            config["auth"] = {"token": {**token, "rootcertbundle": "/etc/tokens.crt"}}
        # YAML takes JSON as it is.
        files["/etc/registry.yml"] = json.dumps(config)
        return str(container(registry_image, files=files).address(5000, published=True))

    return start
