"""Where a run can be looked at, said once when it begins, where a consumer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

import runwire
from runwire._display import first_line


@pytest.mark.parametrize(
    ("server", "line"),
    [
        (None, None),
        ("http://127.0.0.1:8470", "runwire: calm-fox (a1) at http://127.0.0.1:8470/runs/a1"),
        ("https://runs.example.org/", "runwire: calm-fox (a1) at https://runs.example.org/runs/a1"),
        ("runs.example.org:8470", "runwire: calm-fox (a1) at http://runs.example.org:8470/runs/a1"),
        ("http://ada:secret@runs.example.org", None),
        ("http://runs.example.org\x1b[2J", None),
    ],
)
def test_the_line(server: str | None, line: str | None) -> None:
    """A secret or a control character in the address is repeated nowhere."""
    assert first_line("calm-fox", "a1", server) == line


def test_init_says_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the training's first rank alone: not of an evaluation, of other ranks, or of a run that isn't tracked."""
    monkeypatch.setenv("RUNWIRE_SERVER", "http://runs.example.org")
    for given in ({}, {"role": "eval"}, {"mode": "off"}):
        runwire.init("digits", name="calm-fox", url="memory:first-line", home=tmp_path, **given).finish()  # type: ignore[arg-type]
    monkeypatch.delenv("RUNWIRE_SERVER")
    (tmp_path / "server.json").write_text('{"host": "0.0.0.0", "port": 8470, "pid": 1}')
    runwire.init("digits", name="brave-owl", url="memory:first-line", home=tmp_path).finish()
    lines = [line for line in capsys.readouterr().err.splitlines() if " at http" in line]
    assert len(lines) == 2
    assert lines[0].startswith("runwire: calm-fox (")
    assert " at http://runs.example.org/runs/" in lines[0]
    assert lines[1].startswith("runwire: brave-owl (")
    assert " at http://127.0.0.1:8470/runs/" in lines[1]
