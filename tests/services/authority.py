"""A throw-away certificate authority, by OpenSSL's command: what it signs is good for two days, or has expired."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.tiers import require_service

_CONFIG = """
[ca]
default_ca = ours
[ours]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


class Authority:
    """Files below one folder: `ca.crt`, and for each name NAME.crt, NAME.key and NAME.pem, both in one."""

    def __init__(self, folder: Path, name: str = "Runwire test authority") -> None:
        require_service("OpenSSL", shutil.which("openssl") is not None, "apt-get install openssl")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "ca.cnf").write_text(_CONFIG)
        self._openssl(
            "req", "-x509", *_new_key("ca"), "-days", "2", "-subj", f"/CN={name}", "-out", "ca.crt",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        self.certificate = folder / "ca.crt"

    def sign(self, name: str, names: str = "", *, expired: bool = False) -> Path:
        """A pair for NAME that is good for some `subjectAltName`s; returns the file of both."""
        extensions = ["-addext", f"subjectAltName={names}"] if names else []
        self._openssl("req", "-new", *_new_key(name), "-subj", f"/CN={name}", *extensions, "-out", f"{name}.csr")
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"] if expired else ["-days", "2"]
        self._openssl(
            "ca", "-batch", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key", *dates,
            "-in", f"{name}.csr", "-out", f"{name}.crt", "-notext",
        )  # fmt: skip
        both = self.folder / f"{name}.pem"
        both.write_text(self.key(name).read_text() + (self.folder / f"{name}.crt").read_text())
        return both

    def key(self, name: str) -> Path:
        """The key of NAME."""
        return self.folder / f"{name}.key"

    def encrypted_key(self, name: str, passphrase: str) -> Path:
        """The same key, encrypted."""
        self._openssl(
            "pkey", "-in", f"{name}.key", "-aes256", "-passout", f"pass:{passphrase}", "-out", f"{name}.secret.key"
        )
        return self.folder / f"{name}.secret.key"

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def _new_key(name: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
