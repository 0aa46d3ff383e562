"""Settings: keyword over environment over default, errors that name what is wrong, no secret shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runwire import _settings
from runwire._errors import RunwireError, SettingsError, UsageTypeError
from runwire._settings import Settings, read_settings
from runwire_schemas.topics import Destination

HERE = Path("/home/ada/digits")


def read(environ: dict[str, str] | None = None, **keywords: Any) -> Settings:
    """Settings as a process started in HERE reads them."""
    return read_settings(environ=environ or {}, folder=HERE, **keywords)


def test_without_anything_there_are_defaults() -> None:
    """A laptop: events stay in the home next to the code."""
    settings = read({"LOGNAME": "ada"})
    assert settings.destination == Destination("dir", path="/home/ada/digits/.runwire/topic")
    assert settings.home.path == HERE / ".runwire"
    assert (settings.project, settings.name, settings.run_id) == ("digits", None, None)
    assert (settings.group, settings.tags, settings.user, settings.mode) == (None, (), "ada", "on")
    assert settings.sender == "thread"


PRECEDENCE = [
    ("run_id", "RUNWIRE_RUN_ID", "env-id", "keyword-id"),
    ("project", "RUNWIRE_PROJECT", "env-project", "keyword-project"),
    ("name", "RUNWIRE_NAME", "env-name", "keyword-name"),
    ("group", "RUNWIRE_GROUP", "env-group", "keyword-group"),
    ("user", "RUNWIRE_USER", "env-user", "keyword-user"),
    ("mode", "RUNWIRE_MODE", "offline", "off"),
    ("sender", "RUNWIRE_SENDER", "relay", "thread"),
    ("fsync", "RUNWIRE_FSYNC", "interval", "each"),
]


@pytest.mark.parametrize(("argument", "variable", "from_environ", "keyword"), PRECEDENCE)
def test_keyword_beats_environment_beats_default(argument: str, variable: str, from_environ: str, keyword: str) -> None:
    """And an empty variable is as good as absent."""
    environ = {variable: from_environ}
    assert getattr(read(environ), argument) == from_environ
    assert getattr(read(environ, **{argument: keyword}), argument) == keyword
    assert getattr(read({variable: ""}), argument) == getattr(read(), argument)


def test_every_variable_is_documented() -> None:
    """The module's own list is the manual."""
    for _, variable, *_ in [
        *PRECEDENCE,
        ("", "RUNWIRE_URL"),
        ("", "RUNWIRE_HOME"),
        ("", "RUNWIRE_TAGS"),
        ("", "RUNWIRE_AUTO_METRICS"),
        ("", "RUNWIRE_JOURNAL_BYTES"),
    ]:
        assert f"    {variable} " in str(_settings.__doc__)


DESTINATIONS = [
    ("kafka://broker:9092/team", Destination("kafka", ("broker:9092",), "team")),
    ("dir:/data/topic", Destination("dir", path="/data/topic")),
    ("dir:topic", Destination("dir", path="/home/ada/digits/topic")),
    ("memory:test", Destination("memory", path="test")),
]


@pytest.mark.parametrize(("url", "destination"), DESTINATIONS)
def test_urls_are_read(url: str, destination: Destination) -> None:
    """Folders become absolute: a training may change its own."""
    assert read({"RUNWIRE_URL": url}).destination == destination
    assert read({"RUNWIRE_URL": "dir:/elsewhere"}, url=url).destination == destination


def test_home_moves_journal_and_default_destination() -> None:
    """Given as a path or by the variable."""
    assert read(home=Path("/data/x")).destination == Destination("dir", path="/data/x/topic")
    assert read({"RUNWIRE_HOME": "/data/y"}).home.journal == Path("/data/y/journal")


def test_tags_are_a_list_without_repetition() -> None:
    """Commas in the variable, strings in the keyword."""
    assert read({"RUNWIRE_TAGS": " base, wide,,base "}).tags == ("base", "wide")
    assert read({"RUNWIRE_TAGS": "base"}, tags=["b", "a", "b"]).tags == ("b", "a")
    assert read({"RUNWIRE_TAGS": "base"}, tags=[]).tags == ()


@pytest.mark.parametrize(
    ("url", "variable", "keyword", "chosen"),
    [
        ("dir:topic", "", None, True),
        ("kafka://broker/team", "", None, True),
        ("memory:test", "", None, False),  # a test that captures finds what it logged and nothing else
        ("memory:test", "on", None, True),
        ("dir:topic", "OFF", None, False),
        ("dir:topic", "off", True, True),
        ("dir:topic", "on", False, False),
        ("memory:test", "", True, True),
    ],
)
def test_automatic_metrics_are_on_but_for_tests(url: str, variable: str, keyword: bool | None, chosen: bool) -> None:  # noqa: FBT001 - a table's columns
    settings = read({"RUNWIRE_AUTO_METRICS": variable}, url=url, auto_metrics=keyword)
    assert settings.auto_metrics is chosen


WRONG = [
    ({"RUNWIRE_AUTO_METRICS": "1"}, {}, SettingsError, "RUNWIRE_AUTO_METRICS must be one of on, off, not '1'."),
    ({}, {"auto_metrics": "on"}, UsageTypeError, "auto_metrics: must be True or False, not 'on'"),
    ({"RUNWIRE_URL": "http://host"}, {}, SettingsError, "RUNWIRE_URL: "),
    ({}, {"url": "ftp://host"}, SettingsError, "url: "),
    ({}, {"url": 3}, UsageTypeError, "url: must be a string, not int"),
    ({"RUNWIRE_MODE": "maybe"}, {}, SettingsError, "RUNWIRE_MODE must be one of on, offline, off, not 'maybe'."),
    ({}, {"mode": "maybe"}, SettingsError, "mode must be one of"),
    ({"RUNWIRE_SENDER": "me"}, {}, SettingsError, "RUNWIRE_SENDER must be one of thread, relay, not 'me'."),
    ({}, {"project": 3}, UsageTypeError, "project: must be a string, not int"),
    ({}, {"project": "x" * 129}, SettingsError, "project has 129 characters"),
    ({"RUNWIRE_NAME": "x" * 2_000}, {}, SettingsError, "RUNWIRE_NAME has 2,000 characters"),
    ({}, {"tags": "base"}, UsageTypeError, "tags: must be a list of strings, not 'base'"),
    ({}, {"tags": [1]}, UsageTypeError, "tags: must be a list of strings, not list"),
    ({}, {"tags": 1}, UsageTypeError, "tags: must be a list of strings, not int 1"),
    ({}, {"tags": list(map(str, range(101)))}, SettingsError, "tags: 101 are given"),
    ({}, {"home": 3}, UsageTypeError, "home: must be a string, not int"),
]


@pytest.mark.parametrize(("environ", "keywords", "error", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_what_cannot_be_used_is_an_error_that_names_it(
    environ: dict[str, str], keywords: dict[str, Any], error: type[RunwireError], says: str
) -> None:
    """The variable or the argument, what was given, what to do."""
    with pytest.raises(error) as caught:
        read(environ, **keywords)
    assert str(caught.value).startswith(says)


def test_no_secret_is_shown() -> None:
    """Neither in `repr` nor in an error."""
    secret = "hunter" + "22"
    assert secret not in repr(read({"WANDB_API_KEY": secret}))
    known = read({"RUNWIRE_KAFKA_PASSWORD": secret}, url=f"kafkas://ada:{secret}@host/topic")
    assert secret not in repr(known) + repr(known.destination) + str(known.destination)
    with pytest.raises(SettingsError) as caught:
        read(url=f"kafka://ada:{secret}@host:port/topic")
    assert secret not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        read(url=f"https://ada:{secret}@host/topic")
    assert secret not in str(caught.value)


def test_the_environment_is_read_once() -> None:
    """A later change of the mapping changes nothing."""
    environ = {"RANK": "1"}
    settings = read(environ)
    environ["RANK"] = "2"
    assert settings.environ["RANK"] == "1"


def test_a_folder_that_no_url_can_name_is_an_error() -> None:
    """Its name is no UTF-8, or holds a NUL."""
    with pytest.raises(SettingsError, match="isn't UTF-8"):
        read_settings(environ={}, folder=Path("/nowhere/x\udcff"))
    with pytest.raises(SettingsError, match="NUL"):
        read_settings(home="a\0b", environ={}, folder=Path("/nowhere"))
    with pytest.raises(SettingsError, match=r"^home is no UTF-8 text \(/x\\udcff\): name a folder whose path is"):
        read_settings(home="/x\udcff", environ={}, folder=Path("/nowhere"))
    with pytest.raises(SettingsError, match="RUNWIRE_HOME is no UTF-8 text"):
        read_settings(environ={"RUNWIRE_HOME": "/x\udcff"}, folder=Path("/nowhere"))


@pytest.mark.parametrize(
    ("size", "journal_bytes_max"),
    [
        ("", 8 * 2**30),
        ("16777216", 2**24),
        ("512MiB", 512 * 2**20),
        ("8GiB", 8 * 2**30),
        ("1 tib", 2**40),
        ("20000KiB", 20_000 * 2**10),
    ],
)
def test_the_journals_cap_is_a_size(size: str, journal_bytes_max: int) -> None:
    """A number of bytes, or with a unit of powers of 1,024, in any case."""
    assert read({"RUNWIRE_JOURNAL_BYTES": size}).journal_bytes_max == journal_bytes_max


@pytest.mark.parametrize("size", ["8GB", "1.5GiB", "-1", "many", "MiB", "0x10", "٣MiB", "1" * 30])
def test_a_cap_that_is_no_size(size: str) -> None:
    """The sentence shows what one looks like."""
    with pytest.raises(
        SettingsError, match="RUNWIRE_JOURNAL_BYTES must be a number of bytes, or such as 512MiB or 8GiB"
    ):
        read({"RUNWIRE_JOURNAL_BYTES": size})


def test_a_cap_too_small_for_a_journal() -> None:
    """Eight segments that each take the longest record."""
    with pytest.raises(SettingsError, match="RUNWIRE_JOURNAL_BYTES must be at least 16MiB, not '15MiB'"):
        read({"RUNWIRE_JOURNAL_BYTES": "15MiB"})


def test_an_fsync_mode_that_is_none() -> None:
    """The sentence lists them."""
    with pytest.raises(SettingsError, match="RUNWIRE_FSYNC must be one of none, interval, each, not 'always'"):
        read({"RUNWIRE_FSYNC": "always"})
