"""Users, passwords and certificates: found where they should be, shown nowhere, named when they can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_schemas.errors import DestinationError, SecurityError
from runwire_schemas.security import Security, is_local
from runwire_schemas.topics import need_no_password, parse_url
from tests.services.authority import Authority

PASSPHRASE = "open-s3same"  # noqa: S105 - of a throw-away key


@pytest.mark.parametrize(
    ("url", "variables", "login"),
    [
        ("kafkas://b/t", {}, ("", "")),
        ("kafkas://u:p%40%2F@b/t", {}, ("u", "p@/")),
        ("kafkas://b/t", {"RUNWIRE_KAFKA_USER": "u", "RUNWIRE_KAFKA_PASSWORD": "p"}, ("u", "p")),
        ("kafkas://u@b/t", {"RUNWIRE_KAFKA_PASSWORD": "p"}, ("u", "p")),
        ("kafkas://u:p@b/t", {"RUNWIRE_KAFKA_USER": "v", "RUNWIRE_KAFKA_PASSWORD": "q"}, ("u", "p")),
        # Nobody's password goes with another one's name.
        ("kafkas://u@b/t", {"RUNWIRE_KAFKA_USER": "v", "RUNWIRE_KAFKA_PASSWORD": "q"}, ("u", "")),
        # A journal's URL has no user: those of RUNWIRE_URL are for its own brokers, and for no others.
        ("kafkas://b/t", {"RUNWIRE_URL": "kafkas://u:p@b/other"}, ("u", "p")),
        ("kafkas://c/t", {"RUNWIRE_URL": "kafkas://u:p@b/t"}, ("", "")),
        ("kafka://b/t", {"RUNWIRE_URL": "kafkas://u:p@b/t"}, ("", "")),
        ("kafkas://b/t", {"RUNWIRE_MQTT_USER": "u", "RUNWIRE_MQTT_PASSWORD": "p"}, ("", "")),
        ("kafkas://b/t", {"RUNWIRE_KAFKA_USER": "", "RUNWIRE_URL": "nonsense:"}, ("", "")),
    ],
)
def test_a_login_is_found(url: str, variables: dict[str, str], login: tuple[str, str]) -> None:
    security = parse_url(url).secured(variables).security
    assert security is not None
    assert (security.user, security.password) == login


def test_no_secret_is_shown() -> None:
    """Neither in a `repr` nor as the URL that journals and logs keep."""
    there = parse_url("kafkas://u:secret@b/t").secured({"RUNWIRE_CLIENT_KEY_PASSWORD": "secret"})
    for text in (repr(there), str(there), repr(there.security), f"{there}"):
        assert "secret" not in text
    assert there.security is not None
    assert there.security.login() == ("u", "secret")


def test_a_password_file_is_read_for_each_connection(tmp_path: Path) -> None:
    """A password that is changed is taken without a restart; the line's end is none of it, its blanks are."""
    path = tmp_path / "password"
    path.write_text(" first \n")
    security = Security.of("KAFKA", {"RUNWIRE_KAFKA_USER": "u", "RUNWIRE_KAFKA_PASSWORD_FILE": str(path)})
    assert security.login() == ("u", " first ")
    path.write_text("second")
    assert security.login() == ("u", "second")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    for name in ("client", "another"):
        made.sign(name)
    made.encrypted_key("client", PASSPHRASE)
    return made


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CA": "absent.pem"}, "absent.pem (RUNWIRE_CA) can't be read (No such file or directory)"),
        ({"CA": "client.key"}, "client.key (RUNWIRE_CA) holds no certificate"),
        ({"CLIENT_CERT": "absent.pem"}, "absent.pem (RUNWIRE_CLIENT_CERT) can't be read"),
        ({"CLIENT_KEY": "client.key"}, "RUNWIRE_CLIENT_KEY is set without RUNWIRE_CLIENT_CERT"),
        ({"CLIENT_CERT": "client.crt", "CLIENT_KEY": "another.key"}, "doesn't belong to the certificate"),
        ({"CLIENT_CERT": "client.crt"}, "hold no certificate with its key in PEM form"),
        ({"CLIENT_CERT": "client.key"}, "hold no certificate with its key in PEM form"),
        (
            {"CLIENT_CERT": "client.crt", "CLIENT_KEY": "client.secret.key"},
            "is encrypted: set RUNWIRE_CLIENT_KEY_PASSWORD_FILE",
        ),
        (
            {"CLIENT_CERT": "client.crt", "CLIENT_KEY": "client.secret.key", "CLIENT_KEY_PASSWORD": "wrong-s3cret"},
            "passphrase of the key .*client.secret.key is wrong",
        ),
        (
            {"CLIENT_CERT": "client.crt", "CLIENT_KEY": "client.secret.key", "CLIENT_KEY_PASSWORD_FILE": "absent"},
            "absent (RUNWIRE_CLIENT_KEY_PASSWORD_FILE) can't be read",
        ),
    ],
)
def test_what_cant_be_used_is_a_sentence(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    """It names the file and the variable, and no secret."""
    monkeypatch.chdir(authority.folder)
    security = Security.of("KAFKA", {f"RUNWIRE_{name}": value for name, value in variables.items()})
    pattern = words if ".*" in words else words.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(SecurityError, match=pattern) as caught:
        security.context()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"CLIENT_CERT": "client.pem"},
        {"CLIENT_CERT": "client.crt", "CLIENT_KEY": "client.key", "CA": "ca.crt"},
        {"CLIENT_CERT": "client.crt", "CLIENT_KEY": "client.secret.key", "CLIENT_KEY_PASSWORD": PASSPHRASE},
        {"CLIENT_CERT": "client.crt", "CLIENT_KEY": "client.secret.key", "CLIENT_KEY_PASSWORD_FILE": "passphrase"},
    ],
)
def test_a_pair_is_taken(authority: Authority, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    monkeypatch.chdir(authority.folder)
    Path("passphrase").write_text(f"{PASSPHRASE}\n")
    context = Security.of("MQTT", {f"RUNWIRE_{name}": value for name, value in variables.items()}).context()
    assert context.check_hostname
    assert context.minimum_version.name == "TLSv1_2"


def test_a_user_without_a_password_is_a_sentence() -> None:
    with pytest.raises(SecurityError, match="user 'u' has no password: set RUNWIRE_MQTT_PASSWORD_FILE"):
        Security(name="MQTT", user="u").login()


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://127.0.0.1:1,localhost,[::1]:9092/t", ""),
        ("kafkas://broker.example/t", ""),
        ("kafka://broker.example/t", "broker.example:9092"),
        ("kafka://localhost,10.0.0.7:1/t", "10.0.0.7:1"),
        ("kafka://127.example/t", "127.example:9092"),
        ("dir:/data", ""),
    ],
)
def test_plaintext_to_others_is_said(url: str, servers: str) -> None:
    """Of those servers alone that aren't this machine."""
    warning = parse_url(url).plaintext_warning
    assert warning.startswith(f"PLAINTEXT: everything that goes to {servers} can be read") if servers else not warning


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("kafkas://u:p@b/t", True),
        ("kafkas://u@b/t", False),
        ("kafkas://b:9093/t", False),
        ("dir:/a:b@c", False),
        ("dir://a:b@c", False),
    ],
)
def test_a_password_on_a_command_line_is_refused(url: str, *, has: bool) -> None:
    if not has:
        need_no_password(url, "--url")
        return
    with pytest.raises(DestinationError, match="--url has a password") as caught:
        need_no_password(url, "--url")
    assert url not in str(caught.value)


def test_local_is_by_name_alone() -> None:
    assert [is_local(one) for one in ("localhost:1", "[::1]:1", "127.9.9.9", "::1x", "local", "[fe80::1]:9")] == [
        *([True] * 3),
        *([False] * 3),
    ]
