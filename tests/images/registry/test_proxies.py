"""Proxies as the environment names them: which server is reached by one, and which is not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_containers.errors import RegistryError
from pytest_containers.images.origin import Origin
from pytest_containers.images.transport import Transport
from pytest_containers.images.transport.proxies import proxy_for

if TYPE_CHECKING:
    from pytest_containers.images.transport import Settings


@pytest.mark.parametrize(
    ("url", "exempt", "direct"),
    [
        ("https://registry.example:5000", "registry.example", True),
        ("https://registry.example:5000", "other,.example", True),
        ("https://registry.example:5000", "other, *.example", True),
        ("https://registry.example:5000", "other example", True),
        ("https://registry.example:5000", "*", True),
        ("https://registry.example:5000", "registry.example:5000", True),
        ("https://registry.example:5000", ".example:5000", True),
        ("https://registry.example:5000", "REGISTRY.example", True),
        ("https://registry.example:5000", "registry.example:80", False),
        ("https://registry.example:5000", ".example:80", False),
        ("https://registry.example", "registry.example:443", True),
        ("http://registry.example", "registry.example:443", False),
        ("https://registry.example:5000", "istry.example", False),
        ("https://registry.example:5000", "", False),
        ("https://registry.example:5000", ",:5000,.,*.", False),
        ("https://192.0.2.7:5000", "192.0.2.7", True),
        ("https://192.0.2.7:5000", "192.0.2.7:5000", True),
        ("https://192.0.2.7:5000", "192.0.2.7:80", False),
        ("https://192.0.2.7", "192.0.2.0/24", True),
        ("https://192.0.2.7", "192.0.2.9/24", True),
        ("https://192.0.3.7", "192.0.2.0/24", False),
        ("https://192.0.2.7", "192.0.2.0/33", False),
        ("https://192.0.2.7", "0.0.0.0/0", True),
        ("https://registry.example", "0.0.0.0/0", False),
        ("https://[2001:db8::7]:5000", "2001:db8::/32", True),
        ("https://[2001:db8::7]:5000", "2001:DB8:0::7", True),
        ("https://[2001:db8::7]:5000", "[2001:db8::7]", True),
        ("https://[2001:db8::7]:5000", "[2001:db8::7]:5000", True),
        ("https://[2001:db8::7]:5000", "[2001:db8::7]:80", False),
        ("https://[2001:db8::7]", "192.0.2.0/24", False),
        ("https://[::ffff:192.0.2.7]", "192.0.2.0/24", True),
        ("https://10.1.example", "10.0.0.0/8", False),
    ],
)
def test_proxy_leaves_out_what_no_proxy_names(url: str, exempt: str, direct: bool) -> None:
    """NO_PROXY names hosts, domains in whole labels, addresses and networks, with a port or without."""
    environ = {"https_proxy": "proxy:3128", "http_proxy": "proxy:3128", "NO_PROXY": exempt}
    assert (proxy_for(Origin.of(url), environ) == "") is direct


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({"HTTPS_PROXY": "a"}, "https://r.example", "a"),
        ({"HTTPS_PROXY": "a", "https_proxy": "b"}, "https://r.example", "b"),
        ({"HTTPS_PROXY": "a"}, "http://r.example", ""),
        ({"HTTP_PROXY": "a"}, "http://r.example", ""),
        ({"http_proxy": "a"}, "http://r.example", "a"),
        ({"ALL_PROXY": "a"}, "http://r.example", "a"),
        ({"ALL_PROXY": "a"}, "https://localhost", ""),
        ({"ALL_PROXY": "a", "no_proxy": "q.example", "NO_PROXY": "r.example"}, "https://r.example", "a"),
    ],
)
def test_proxy_comes_from_the_environment(environ: dict[str, str], url: str, proxy: str) -> None:
    """Each scheme has its variable; HTTP_PROXY in upper case is no one's (httpoxy)."""
    assert proxy_for(Origin.of(url), environ) == proxy


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "socks5h://127.0.0.1:1", "ftp://127.0.0.1:1"])
def test_proxy_of_another_kind_is_refused_by_name(settings: Settings, proxy: str) -> None:
    """A SOCKS proxy is told as what it is, at once and not as a connection that broke off."""
    through = replace(settings, environ={"ALL_PROXY": proxy})
    with (
        Transport(through) as transport,
        pytest.raises(RegistryError, match="a kind that is not spoken") as caught,
    ):
        transport.send("GET", "https://registry.example/v2/")
    assert caught.value.seen == f"{proxy.partition(':')[0]}:// in the environment"
