"""Where requests may go: loopback, plain http, and hops to places of our own."""

from __future__ import annotations

import pytest

from pytest_containers.errors import RegistryError
from pytest_containers.images.origin import Origin, check_hop, printable

NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:5000/v2/", True),
        ("http://127.9.9.9/", True),
        ("http://[::1]:5000/", True),
        ("http://[::ffff:127.0.0.1]/", True),
        ("http://LOCALHOST/", True),
        ("https://localhost./", True),
        ("https://registry.localhost/", True),
        ("https://127.1/", True),
        ("https://127.0.1/", True),
        ("https://2130706433/", True),
        ("https://0x7f000001/", True),
        ("https://0177.0.0.1/", True),
        ("https://0x7f.1/", True),
        ("https://127.0.0.1./", True),
        ("https://0.0.0.0/", True),
        ("https://[::]/", True),
        ("https://0/", True),
        ("http://1234.example/", False),
        ("http://12.example.5/", False),
        ("http://999.1.1.1.1/", False),
        ("http://notlocalhost/", False),
        ("http://127.0.0.1.example/", False),
        ("http://localhost.example/", False),
        ("http://10.0.0.1/", False),
    ],
)
def test_origin_knows_loopback(url: str, loopback: bool) -> None:
    """Loopback is told by address or by the one name that means it, never by looking up."""
    assert Origin.of(url).loopback is loopback


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://Host.Example/x", "host.example"),
        ("https://host:443/x", "host"),
        ("http://host:443/x", "host:443"),
        ("https://[::1]:5000", "[::1]:5000"),
    ],
)
def test_origin_prints_as_a_registry_is_written(url: str, text: str) -> None:
    """An origin reads as the registry part of a reference."""
    assert str(Origin.of(url)) == text


@pytest.mark.parametrize(
    "url", ["", "ftp://host/", "//host/", "https:///x", "https://h:x/", "file:///etc/passwd"]
)
def test_origin_refuses_other_urls(url: str) -> None:
    """What is not http or https leads nowhere."""
    with pytest.raises(RegistryError):
        Origin.of(url)


@pytest.mark.parametrize(
    ("start", "target"),
    [
        ("https://registry.example", "https://cdn.example/blob"),
        ("https://registry.example", "https://10.0.0.7:9000/blob"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001"),
        ("http://10.0.0.7:5000", "http://10.0.0.7:5000/other"),
        ("https://registry.example", "http://plain.example:81/blob"),
    ],
)
def test_hop_is_free_between_registries_and_their_storage(start: str, target: str) -> None:
    """A registry may send a request to its storage, by https or where plain http was allowed."""
    check_hop(Origin.of(start), Origin.of(target), frozenset({"plain.example:81"}))


@pytest.mark.parametrize(
    ("start", "target"),
    [
        ("https://registry.example", "http://registry.example/blob"),
        ("https://registry.example", "http://cdn.example/blob"),
        ("https://registry.example", "http://127.0.0.1:2375/images"),
        ("https://registry.example", "https://localhost/"),
        ("https://registry.example", "https://169.254.169.254/latest/meta-data"),
        ("https://registry.example", "https://[fe80::1]/"),
        ("http://127.0.0.1:5000", "http://169.254.169.254/"),
    ],
)
def test_hop_never_leads_to_this_machine_or_to_plain_http(start: str, target: str) -> None:
    """A registry cannot make us talk to our own services, to metadata, or unencrypted."""
    with pytest.raises(RegistryError, match="leads on"):
        check_hop(Origin.of(start), Origin.of(target), NONE)


def test_printable_cuts_secrets_out_of_urls() -> None:
    """User, password and signed queries never reach a message."""
    assert printable("https://user:pass@host/path?signature=abc#f") == "https://host/path"
    assert printable("https://host/a@b") == "https://host/a@b"


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "2852039166", "169.254.43518", "[fd00:ec2::254]", "[fe80::1]"]
)
def test_metadata_services_are_known_in_every_spelling(host: str) -> None:
    """No answer leads a request to a cloud's metadata service, however its address is written."""
    with pytest.raises(RegistryError, match="an address of this machine's own"):
        check_hop(Origin.of("https://registry.example"), Origin.of(f"https://{host}/"), NONE)
