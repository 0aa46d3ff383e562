"""Who we are to a broker and whom we trust: user, password and certificates, from environment and files.

RUNWIRE_KAFKA_USER, RUNWIRE_KAFKA_PASSWORD, RUNWIRE_KAFKA_PASSWORD_FILE    as whom (the same for MQTT: RUNWIRE_MQTT_...)
RUNWIRE_KAFKA_SASL      SCRAM-SHA-512 (default), SCRAM-SHA-256 or PLAIN
RUNWIRE_CA              certificates in PEM form that are trusted (default: the system's)
RUNWIRE_CLIENT_CERT, RUNWIRE_CLIENT_KEY    certificate and key in PEM form, where the broker wants them (mTLS)
RUNWIRE_CLIENT_KEY_PASSWORD, RUNWIRE_CLIENT_KEY_PASSWORD_FILE    of a key that is encrypted

Files are read for each connection and not before: a renewed certificate or password is taken without a restart, and a
file that is missing is a connection that fails and is tried again. No secret is in a `repr` or an error.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runwire_schemas.errors import SecurityError

if TYPE_CHECKING:
    from collections.abc import Mapping

MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
SECRET_BYTES_MAX = 64 * 2**10
# X509_V_ERR_...: who signed it can't be followed to an authority that is trusted.
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21, 27})
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = frozenset({62, 64})


@dataclass(frozen=True, slots=True)
class Security:
    """What a connection is made with; texts are empty where nothing is given.

    Attributes:
        name: Of the system, as in the names of its variables: KAFKA or MQTT.
        user: As whom; without one nobody logs in.
        password: Its password, or
        password_file: the file that holds it.
        mechanism: How Kafka gets it.
        ca: File of the authorities that are trusted.
        certificate: File of our own certificate.
        key: File of its key; empty where the certificate's file holds it.
        key_password: What the key is encrypted with, or
        key_password_file: the file that holds it.
    """

    name: str = "KAFKA"
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    mechanism: str = MECHANISMS[0]
    ca: str = ""
    certificate: str = ""
    key: str = ""
    key_password: str = field(default="", repr=False)
    key_password_file: str = ""

    @classmethod
    def of(cls, name: str, variables: Mapping[str, str], user: str = "", password: str = "") -> Security:
        """From the environment; a user and password of a URL come first.

        Args:
            name: KAFKA or MQTT.
            variables: The environment; an empty variable is as good as absent.
            user: From the URL; with another user than the variable's its password isn't taken.
            password: From the URL.
        """

        def given(variable: str) -> str:
            return variables.get(variable) or ""

        named = given(f"RUNWIRE_{name}_USER")
        is_ours = not password and (not user or named in {"", user})
        return cls(
            name=name,
            user=user or named,
            password=password or (given(f"RUNWIRE_{name}_PASSWORD") if is_ours else ""),
            password_file=given(f"RUNWIRE_{name}_PASSWORD_FILE") if is_ours else "",
            mechanism=given(f"RUNWIRE_{name}_SASL").upper() or MECHANISMS[0],
            ca=given("RUNWIRE_CA"),
            certificate=given("RUNWIRE_CLIENT_CERT"),
            key=given("RUNWIRE_CLIENT_KEY"),
            key_password=given("RUNWIRE_CLIENT_KEY_PASSWORD"),
            key_password_file=given("RUNWIRE_CLIENT_KEY_PASSWORD_FILE"),
        )

    def login(self) -> tuple[str, str]:
        """User and password, as they are now.

        Raises:
            SecurityError: There is no password for the user, or its file can't be read.
        """
        variable = f"RUNWIRE_{self.name}_PASSWORD_FILE"
        password = self.password or _secret_in(self.password_file, variable)
        if not password:
            raise SecurityError(f"user {self.user!r} has no password: set {variable} to the file that holds it")
        return self.user, password

    def variables(self) -> dict[str, str]:
        """User and password as `of` takes them, for a program that is started with the URL alone."""
        given = {"USER": self.user, "PASSWORD": self.password, "PASSWORD_FILE": self.password_file}
        return {f"RUNWIRE_{self.name}_{name}": value for name, value in given.items()} if self.user else {}

    def context(self) -> ssl.SSLContext:
        """What TLS is spoken with: 1.2 at least, the other side always verified.

        Raises:
            SecurityError: A file is missing or unreadable, or a key needs another passphrase.
        """
        ca = _file(self.ca, "RUNWIRE_CA")
        try:
            context = ssl.create_default_context(cafile=ca or None)
        except (OSError, ssl.SSLError, ValueError):
            raise SecurityError(
                f"{ca} (RUNWIRE_CA) holds no certificate in PEM form: give the file of the authority that signed "
                "the broker's"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate:
            self._load_own(context)
        elif self.key:
            raise SecurityError("RUNWIRE_CLIENT_KEY is set without RUNWIRE_CLIENT_CERT: give both")
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        certificate = _file(self.certificate, "RUNWIRE_CLIENT_CERT")
        key = _file(self.key, "RUNWIRE_CLIENT_KEY")
        asked = False

        def passphrase() -> str:
            nonlocal asked
            asked = True
            return self.key_password or _secret_in(self.key_password_file, "RUNWIRE_CLIENT_KEY_PASSWORD_FILE")

        try:
            context.load_cert_chain(certificate, key or None, password=passphrase)
        except (ssl.SSLError, ValueError) as error:
            raise SecurityError(self._key_trouble(error, key or certificate, certificate, asked=asked)) from None

    def _key_trouble(self, error: Exception, key: str, certificate: str, *, asked: bool) -> str:
        if asked and not (self.key_password or self.key_password_file):
            return f"the key {key} is encrypted: set RUNWIRE_CLIENT_KEY_PASSWORD_FILE to a file with its passphrase"
        if asked:
            return f"the passphrase of the key {key} is wrong: correct RUNWIRE_CLIENT_KEY_PASSWORD_FILE"
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            return f"the key {key} doesn't belong to the certificate {certificate}: give the pair"
        return f"{certificate} and {key} hold no certificate with its key in PEM form: give the pair"


def is_local(server: str) -> bool:
    """Whether HOST or HOST:PORT means this machine by its name alone; an address in brackets is one of IPv6."""
    host = server[1:].partition("]")[0] if server.startswith("[") else server.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def tls_reason(error: BaseException, security: Security, servers: str) -> str | None:
    """Why TLS can't be spoken with a broker, half a sentence that says what to do; None where TLS isn't the reason."""
    match error:
        case ssl.SSLCertVerificationError():
            return _distrust(error, servers)
        case ssl.SSLError():
            problem = str(error.reason or error).upper().replace(" ", "_")
        case ConnectionResetError() | ConnectionAbortedError():
            problem = "EOF"
        case _:
            return None
    if "EOF" in problem:
        return f"{servers} hangs up while TLS begins: it restarts, or doesn't speak TLS there: use its TLS port"
    if "ALERT" not in problem:
        return f"{servers} doesn't speak TLS there: use its TLS port, or {security.name.lower()}:// if it has none"
    if not security.certificate:
        return f"{servers} wants a certificate of ours: set RUNWIRE_CLIENT_CERT and RUNWIRE_CLIENT_KEY"
    return (
        f"{servers} doesn't take our certificate, {security.certificate} ({problem}): give one that is valid and "
        "signed by an authority that the broker trusts"
    )


def _distrust(error: ssl.SSLCertVerificationError, servers: str) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return f"the certificate of {servers} has expired: have it renewed"
    if code == _NOT_YET_VALID:
        return f"the certificate of {servers} isn't valid yet: set this machine's clock, or the broker's"
    if code in _OTHER_NAME:
        return f"the certificate of {servers} is for another name: use a name that is in it ({error.verify_message})"
    if code in _UNKNOWN_AUTHORITY:
        return (
            f"the certificate of {servers} is signed by an authority that isn't known here: set RUNWIRE_CA to the "
            "file of its certificate"
        )
    return f"the certificate of {servers} isn't good ({error.verify_message}): have it replaced"


def _file(path: str, variable: str) -> str:
    """The path, once it can be read; OpenSSL's own error names no file."""
    if not path:
        return ""
    full = Path(path).expanduser()
    try:
        with full.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise SecurityError(f"{path} ({variable}) can't be read ({error.strerror}): give a file that can") from None
    return str(full)


def _secret_in(path: str, variable: str) -> str:
    if not path:
        return ""
    try:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            return file.read(SECRET_BYTES_MAX).strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is no text"
        raise SecurityError(f"{path} ({variable}) can't be read ({problem}): give a file that can") from None
