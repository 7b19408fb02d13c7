"""An authority of the suite's own: certificates for servers and clients, and signed tokens.

The keys are made once in a process, since an RSA key of 2048 bits costs 50 ms.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

_LOOPBACK: Final = ipaddress.ip_address("127.0.0.1")
_LIFE: Final = datetime.timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate that is its own issuer, good for 127.0.0.1 and for clients, with its key.

    One certificate is authority, server and client: who trusts it trusts itself.
    """

    certificate: Certificate
    key: RSAPrivateKey

    @classmethod
    def make(cls, name: str) -> Authority:
        """Return a new authority."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.x509.oid import NameOID

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _LIFE)
            .not_valid_after(now + _LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(_LOOPBACK)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate=made, key=key)

    def pem(self) -> bytes:
        """Return the certificate as text (RFC 7468)."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """Return the key as text, not encrypted."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    def write(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """Write ``NAME.crt`` and ``NAME.key`` to *folder*; return both paths."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.pem())
        key.write_bytes(self.key_pem())
        return certificate, key

    def token(self, claims: Mapping[str, object]) -> str:
        """Return a signed JSON web token (RFC 7519; RS256) that brings its certificate along (``x5c``)."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding
        from cryptography.hazmat.primitives.serialization import Encoding

        chain = [base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode("ascii")]
        parts = ({"typ": "JWT", "alg": "RS256", "x5c": chain}, claims)
        signed = b".".join(_text(json.dumps(part).encode()) for part in parts)
        return (signed + b"." + _text(self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))).decode()


def _text(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Return the authority that servers and clients of this process trust."""
    return Authority.make("the suite's own")


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """Return an authority that nobody trusts."""
    return Authority.make("a stranger")
