"""The token: made once, kept private, compared in constant time, never shown."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from runwire_consumer.errors import TokenRefused
from runwire_consumer.tokens import Token, ensure_token, read_token, reader_token


def test_the_first_start_makes_a_private_token(tmp_path: Path) -> None:
    """It is random, readable by its owner only, and the same at the next start."""
    home = tmp_path / "home"
    made = ensure_token(home)
    assert len(made.text) >= 40
    assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600
    assert ensure_token(home) == made == read_token(home)
    assert [path.name for path in home.iterdir()] == ["token"]
    assert ensure_token(tmp_path / "another") != made


def test_a_given_token_is_not_written_down(tmp_path: Path) -> None:
    """RUNWIRE_TOKEN rules over the file and leaves no trace of itself."""
    kept = ensure_token(tmp_path)
    assert ensure_token(tmp_path, "g" * 20).text == "g" * 20
    assert read_token(tmp_path) == kept
    assert read_token(tmp_path / "empty") is None


def test_two_first_starts_agree(tmp_path: Path) -> None:
    """Whoever comes second takes what the first has made."""
    made: list[Token] = []
    threads = [threading.Thread(target=lambda: made.append(ensure_token(tmp_path / "home"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "text", ["", " ", "short", "x" * 15, "x" * 1_001, "with space " * 3, "ü" * 20, "x" * 20 + "\n"]
)
def test_a_useless_token_is_refused(tmp_path: Path, text: str) -> None:
    """Empty, short, endless or unsendable: one sentence."""
    with pytest.raises(TokenRefused):
        Token(text)
    with pytest.raises(TokenRefused):
        ensure_token(tmp_path, text)


def test_the_token_for_reading_is_another_one() -> None:
    """A typing error in it isn't taken for the right to do everything, or for none."""
    home = Token("h" * 20)
    assert reader_token(home, None) is None
    assert reader_token(home, "r" * 20) == Token("r" * 20)
    for given, words in {
        "h" * 20: "may do everything: give another",
        "short": "RUNWIRE_READ_TOKEN can't be used",
    }.items():
        with pytest.raises(TokenRefused, match=words):
            reader_token(home, given)


def test_a_spoilt_file_is_named(tmp_path: Path) -> None:
    """The sentence says which file to delete; nothing is made silently."""
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(TokenRefused, match=r"Delete .*token to get a new one"):
        ensure_token(tmp_path)
    (tmp_path / "token").write_bytes(b"\xff" * 20)
    with pytest.raises(TokenRefused, match="can't be read"):
        ensure_token(tmp_path)


@pytest.mark.parametrize(
    ("presented", "same"),
    [("s" * 20, True), ("s" * 19, False), ("s" * 21, False), ("", False), ("\udcff", False), ("S" * 20, False)],
)
def test_only_the_token_matches(presented: str, same: bool) -> None:  # noqa: FBT001 - a column of the table
    """Prefixes, other cases and odd bytes don't."""
    assert Token("s" * 20).matches(presented) is same


def test_it_masks_itself() -> None:
    """Neither repr nor str shows it."""
    token = Token("secret-secret-secret")
    assert "secret" not in f"{token!r} {token}"
