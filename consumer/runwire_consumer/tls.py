"""TLS of the HTTP server, 1.2 at least, from two PEM files; what is wrong with them is said in a sentence."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from runwire_consumer.errors import FaceError


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where the two files are; the certificate's holds the chain too, its own first."""

    certificate: Path
    key: Path


def server_context(files: Certificate) -> ssl.SSLContext:
    """What the server speaks TLS with.

    Raises:
        FaceError: A file is missing, unreadable, encrypted, or the two don't belong together.
    """
    for path, what in ((files.certificate, "certificate"), (files.key, "key")):
        try:
            path.read_bytes()
        except OSError as error:
            raise FaceError(f"The TLS {what} {path} can't be read: {error.strerror or error}.") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    encrypted = False

    def no_password() -> str:
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        context.load_cert_chain(files.certificate, files.key, password=no_password)
    except (ssl.SSLError, ValueError) as error:
        raise FaceError(_sentence(error, files, encrypted=encrypted)) from None
    return context


def _sentence(error: Exception, files: Certificate, *, encrypted: bool) -> str:
    if encrypted:
        return (
            f"The TLS key {files.key} is encrypted, and nobody is there to type its password: "
            "decrypt it into a file of mode 0600 (openssl pkey -in KEY -out PLAIN)."
        )
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"The TLS key {files.key} doesn't belong to the certificate {files.certificate}: give the pair."
    if not _is_certificate(files.certificate):
        return f"{files.certificate} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)."
    return f"{files.key} holds no private key in PEM form that fits the certificate {files.certificate}."


def _is_certificate(path: Path) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return False
    return True


def own_certificate(path: Path) -> str:
    """The server's own certificate as PEM: what a client of the same home trusts, whatever name it bears.

    Raises:
        FaceError: The file holds none.
    """
    text = path.read_text(encoding="ascii", errors="replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    at = text.find(begin)
    until = text.find(end, at)
    if at < 0 or until < 0:
        raise FaceError(f"{path} holds no certificate in PEM form ({begin}).")
    return text[at : until + len(end)] + "\n"
