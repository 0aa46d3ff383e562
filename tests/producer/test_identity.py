"""Run ids, attempt tokens and names: the same for all ranks and restarts, never shared by accident."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire._context import words
from runwire._context.identity import attempt_token, default_project, is_run_id, run_id, run_name
from runwire._context.launch import Launch
from runwire._errors import SettingsError

ENTROPY = bytes(range(16))
EMITTER = "0123456789abcdef0123456789abcdef"
LAUNCH = Launch("torchrun", "torchrun:job7", rank=1, world_size=4)
LOST = Launch("torchrun", None, world_size=8, problem="8 ranks share no id: set RUNWIRE_RUN_ID")


def identify(
    project: str = "digits",
    launch: Launch = LAUNCH,
    explicit: str | None = None,
    nth_init: int = 1,
    entropy: bytes = ENTROPY,
) -> str:
    """A run id, with defaults for what a case doesn't vary."""
    return run_id(project, launch, explicit=explicit, nth_init=nth_init, entropy=entropy)


def test_run_ids_stay_the_same_from_version_to_version() -> None:
    """A restart under a newer version finds its run: these literals never change."""
    assert identify() == "yzhh2hzz5wkikuzg"
    assert identify(explicit="mine") == "sjq6dwwifq5i4t5t"
    assert identify(launch=Launch()) == "7jo3z3v3cpob7lyv"


def test_ranks_and_restarts_share_the_id() -> None:
    """Rank, restart count and randomness have no part in it."""
    other = Launch("torchrun", "torchrun:job7", rank=3, world_size=4, restart_count=2)
    assert identify(launch=other, entropy=bytes(16)) == identify()
    assert identify(explicit="mine", launch=other) == identify(explicit="mine", launch=Launch())


def test_what_differs_gives_another_run() -> None:
    """Project, job, n-th init, explicit id, and chance where nothing names the launch."""
    ids = [
        identify(),
        identify(project="letters"),
        identify(nth_init=2),
        identify(launch=Launch("torchrun", "torchrun:job8")),
        identify(explicit="torchrun:job7"),
        identify(explicit="mine"),
        identify(launch=Launch()),
        identify(launch=Launch(), entropy=bytes(16)),
    ]
    assert len(set(ids)) == len(ids)


def test_an_id_made_here_joins_its_run() -> None:
    """What `run.id` says can be given as the id, in any project."""
    assert identify(explicit=identify(), project="other") == identify()


def test_ranks_that_nothing_unites_are_an_error_that_says_what_to_set() -> None:
    """An explicit id is the way out."""
    with pytest.raises(SettingsError, match="set RUNWIRE_RUN_ID"):
        identify(launch=LOST)
    assert is_run_id(identify(launch=LOST, explicit="mine"))


@given(st.text(), st.text(), st.text(), st.text())
def test_parts_never_run_together(project: str, job: str, other_project: str, other_job: str) -> None:
    """Different lists of parts have different ids, however their texts are cut."""
    one = identify(project, Launch("mpi", job))
    two = identify(other_project, Launch("mpi", other_job))
    assert is_run_id(one)
    assert (one == two) == ((project, job) == (other_project, other_job))


TOKENS = [
    (LAUNCH, None, "torchrun:job7#0"),
    (Launch("slurm", "slurm:tau:77.3", restart_count=2), None, "slurm:tau:77.3#2"),
    (LAUNCH, "mine", "torchrun:job7#0"),
    (Launch(), None, EMITTER),
    (Launch(), "mine", EMITTER),
    (LOST, "mine", "mine#0"),
    (replace(LOST, life="46429", restart_count=1), "mine", "mine#1:46429"),
    (Launch("kubernetes"), "mine", "mine#0"),
    (Launch("kubernetes"), None, EMITTER),
]


@pytest.mark.parametrize(("launch", "explicit", "token"), TOKENS)
def test_attempts_are_lives_of_a_launch(launch: Launch, explicit: str | None, token: str) -> None:
    """The launcher's job and restart count, else this process's own start."""
    assert attempt_token(launch, explicit=explicit, emitter_id=EMITTER) == token


def test_long_tokens_are_shortened() -> None:
    """An envelope takes 128 characters; two long jobs stay apart."""
    tokens = {
        attempt_token(Launch("mpi", "x" * 200 + end, life=life), explicit=None, emitter_id=EMITTER)
        for end in "ab"
        for life in "12"
    }
    assert len(tokens) == 4
    assert max(map(len, tokens)) <= 128


def test_names_are_words_and_a_number() -> None:
    """The same on every rank, and easy to say."""
    assert run_name("aaaaaaaaaaaaaaaa") == "quick-willow-310"
    adjective, noun, number = run_name("bbbbbbbbbbbbbbbb").split("-")
    assert adjective in words.ADJECTIVES
    assert noun in words.NOUNS
    assert 0 <= int(number) < 1000


@pytest.mark.parametrize("list_", [words.ADJECTIVES, words.NOUNS])
def test_the_word_lists_are_what_they_say(list_: tuple[str, ...]) -> None:
    """64 different short words of plain letters."""
    assert len(set(list_)) == len(list_) == 64
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) <= 8 for word in list_)


@pytest.mark.parametrize(
    ("git_root", "folder", "project"),
    [
        (None, "/home/ada/digits", "digits"),
        ("/home/ada/repo", "/home/ada/repo/src", "repo"),
        (None, "/", "default"),
    ],
)
def test_the_project_is_named_after_the_repository_or_folder(git_root: str | None, folder: str, project: str) -> None:
    """The root folder has no name."""
    assert default_project(Path(git_root) if git_root else None, Path(folder)) == project
