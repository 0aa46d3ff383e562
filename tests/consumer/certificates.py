"""Certificates for tests, made by OpenSSL's command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from runwire_consumer.tls import Certificate
from tests.tiers import require_service


def make_certificate(folder: Path, name: str = "server", names: str = "IP:127.0.0.1,DNS:localhost") -> Certificate:
    """A pair that signs itself, for some names, in `name`.crt and `name`.key."""
    require_service("OpenSSL", shutil.which("openssl") is not None, "apt-get install openssl")
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
        "-keyout", str(made.key), "-out", str(made.certificate),
    )  # fmt: skip
    return made


def encrypted_key(files: Certificate) -> Path:
    """The same key behind a password."""
    path = files.key.with_suffix(".encrypted")
    _openssl("pkey", "-in", str(files.key), "-aes256", "-passout", "pass:secret-word", "-out", str(path))
    return path


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
