"""The home: found where it should be, made safely, and one sentence where it can't be."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runwire._errors import SettingsError
from runwire._home import Home, find_home
from runwire._settings import read_settings


def test_the_nearest_home_upward_wins(tmp_path: Path) -> None:
    """Over the repository's root and the current folder."""
    here = tmp_path / "project" / "src"
    here.mkdir(parents=True)
    (tmp_path / "project" / ".git").mkdir()
    (tmp_path / "project" / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert find_home(None, here).path == tmp_path / "project" / ".runwire"
    (tmp_path / ".runwire").mkdir()
    assert find_home(None, here).path == tmp_path / ".runwire"
    (here / ".runwire").mkdir()
    assert find_home(None, here).path == here / ".runwire"


def test_outside_of_a_repository_home_is_here(tmp_path: Path) -> None:
    """And nothing is made by looking."""
    home = find_home(None, tmp_path)
    assert home.path == tmp_path / ".runwire"
    assert not home.path.exists()


@pytest.mark.parametrize(
    ("given", "path"),
    [("/data/home", "/data/home"), ("below", "{here}/below"), ("~/kept", f"{Path.home()}/kept")],
)
def test_a_given_home_is_taken(tmp_path: Path, given: str, path: str) -> None:
    """Absolute, relative to the current folder, or the user's."""
    (tmp_path / ".runwire").mkdir()
    assert str(find_home(given, tmp_path).path) == path.format(here=tmp_path)


def test_a_home_is_private_and_out_of_version_control(tmp_path: Path) -> None:
    """Mode 0700, a .gitignore of everything; made twice is made once."""
    home = Home(tmp_path / "a" / "b").create().create()
    for folder in [home.path, home.journal, home.topic]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (home.path / ".gitignore").read_text() == "*\n"
    assert home.database == home.path / "runwire.duckdb"
    assert home.token == home.path / "token"
    assert not home.database.exists()


def test_a_home_that_is_there_keeps_its_mode_and_files(tmp_path: Path) -> None:
    """A folder shared on purpose stays shared."""
    tmp_path.chmod(0o770)
    (tmp_path / ".gitignore").write_text("mine\n")
    home = Home(tmp_path).create()
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o770
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


def test_ranks_may_make_a_home_at_once(tmp_path: Path) -> None:
    """All succeed."""
    with ThreadPoolExecutor(8) as pool:
        homes = list(pool.map(lambda _: Home(tmp_path / "deep" / "home").create(), range(32)))
    assert all(home.journal.is_dir() for home in homes)


def test_a_home_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """It names the variable, the folder and the way out."""
    (tmp_path / "file").write_text("")
    for path in [tmp_path / "file", tmp_path / "file" / "below", Path("/proc/runwire")]:
        with pytest.raises(SettingsError, match=r"^RUNWIRE_HOME: can't write to the folder .*: set RUNWIRE_HOME"):
            Home(path).create()


def test_a_home_from_the_keyword_is_named_so(tmp_path: Path) -> None:
    """The argument, where that chose it; the variable, also where the keyword is empty."""
    file = tmp_path / "file"
    file.write_text("")
    cases: list[tuple[str | Path | None, str]] = [
        (str(file), "home"),
        (file, "home"),
        (None, "RUNWIRE_HOME"),
        ("", "RUNWIRE_HOME"),
    ]
    for keyword, source in cases:
        settings = read_settings(home=keyword, environ={"RUNWIRE_HOME": str(file)}, folder=tmp_path)
        with pytest.raises(SettingsError, match=rf"^{source}: can't write to the folder .*: set {source} to"):
            settings.home.create()
