"""Who a run is: its id, its attempt and the name it gets when nobody gives it one.

A run id has 16 characters [a-z2-7]: 80 bits of SHA-256 over the project and whatever names the launch, each
part with its length in front so that no two lists of parts look alike. So every rank and every restart finds
the same id without talking to the others, and two launches never share one by accident.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runwire._context.words import ADJECTIVES, NOUNS
from runwire._errors import SettingsError
from runwire._values import utf8

if TYPE_CHECKING:
    from pathlib import Path

    from runwire._context.launch import Launch

RUN_ID_CHARACTERS = 16
RUN_ID_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz234567")
TOKEN_CHARACTERS_MAX = 128
PROJECT_CHARACTERS_MAX = 128


def run_id(project: str, launch: Launch, *, explicit: str | None, nth_init: int, entropy: bytes) -> str:
    """The run's id.

    Args:
        project: The run's project.
        launch: Where this process was launched.
        explicit: What the user named the run; an id made here is taken as it is, to join that run.
        nth_init: 1 for the first `init` of this process, 2 for the second.
        entropy: At least 16 random bytes, used where nothing names the launch.

    Raises:
        SettingsError: Several ranks that nothing unites; the sentence says what to set.
    """
    if explicit is not None:
        return explicit if is_run_id(explicit) else explicit_run_id(project, explicit)
    if launch.job is not None:
        return digest("launch", project, launch.job, str(nth_init))
    if launch.problem is not None:
        raise SettingsError(f"RUNWIRE_RUN_ID: {launch.problem}.")
    return digest("random", project, entropy.hex())


def explicit_run_id(project: str, explicit: str) -> str:
    """The id of the run that the user calls so."""
    return digest("explicit", project, explicit)


def attempt_token(launch: Launch, *, explicit: str | None, emitter_id: str, resumes: bool = False) -> str:
    """What all ranks of one life of a run share, and no other life has.

    Who resumes begins a new attempt, also within a job that would otherwise be one. Several ranks need a name that
    they share. At most TOKEN_CHARACTERS_MAX characters.
    """
    if resumes and launch.world_size == 1:
        return emitter_id
    named = launch.job
    # Several ranks that only this id unites are one attempt; a pod with index 0 doesn't know of the others.
    if named is None and (launch.world_size > 1 or launch.launcher == "kubernetes"):
        named = explicit
    if named is None:
        return emitter_id
    life = f"#{launch.restart_count}" + (f":{launch.life}" if launch.life else "")
    token: str = utf8(f"{named}{life}")
    return token if len(token) <= TOKEN_CHARACTERS_MAX else digest(named, life)


def run_name(identifier: str) -> str:
    """A name such as `brisk-heron-42`, the same on every rank."""
    number = int.from_bytes(_hash("name", identifier)[:8], "big")
    number, adjective = divmod(number, len(ADJECTIVES))
    number, noun = divmod(number, len(NOUNS))
    return f"{ADJECTIVES[adjective]}-{NOUNS[noun]}-{number % 1_000}"


def is_run_name(text: str) -> bool:
    """Whether the text has the form of a name that `run_name` makes."""
    adjective, _, rest = text.partition("-")
    noun, _, number = rest.partition("-")
    return adjective in ADJECTIVES and noun in NOUNS and number.isdecimal()


def default_project(git_root: Path | None, folder: Path) -> str:
    """The repository's name, else the folder's."""
    name: str = utf8((git_root or folder).name)
    return name[:PROJECT_CHARACTERS_MAX] or "default"


def is_run_id(text: str) -> bool:
    """Whether the text has the form of a run id."""
    return len(text) == RUN_ID_CHARACTERS and RUN_ID_ALPHABET.issuperset(text)


def digest(*parts: str) -> str:
    """16 characters [a-z2-7] that stand for these texts."""
    from base64 import b32encode  # noqa: PLC0415 - as in _hash

    return b32encode(_hash(*parts)[: RUN_ID_CHARACTERS * 5 // 8]).decode().lower()


def _hash(*parts: str) -> bytes:
    # Imported here: a run is named once, and `import runwire` stays light.
    import hashlib  # noqa: PLC0415

    total = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "backslashreplace")
        total.update(len(encoded).to_bytes(8, "big") + encoded)
    return total.digest()
