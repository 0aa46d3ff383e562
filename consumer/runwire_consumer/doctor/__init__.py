"""What `runwire doctor` finds: each check is a pure function from gathered facts to findings.

A finding's severity says whether somebody has to act: `ok` and `note` never, `warning` soon, `error` now. The worst one
decides how the command exits: 0, 1 for a warning, 2 for an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

_Made = TypeVar("_Made")


class Severity(IntEnum):
    """How much a finding matters."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says.

    Attributes:
        check: Name of the check, a word.
        severity: How much it matters.
        what: A sentence.
        where: The file, topic or process meant; "" where the sentence says it.
        advice: What to do, a sentence; "" where nothing is to be done.
    """

    check: str
    severity: Severity
    what: str
    where: str = ""
    advice: str = ""

    def fields(self) -> dict[str, str]:
        """As JSON has it."""
        severity = self.severity.name.lower()
        texts = (self.check, severity, self.what, self.where, self.advice)
        return dict(zip(FIELDS, texts, strict=True))

    @classmethod
    def of(cls, fields: dict[str, str]) -> Finding:
        """Read back what `fields` gave; ValueError where it is none."""
        try:
            check, severity, *texts = (fields[name] for name in FIELDS)
            return cls(check, Severity[severity.upper()], *texts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no finding: {error!r}") from None


FIELDS = ("check", "severity", "what", "where", "advice")


def ok(check: str, what: str, where: str = "") -> Finding:
    """All is well."""
    return Finding(check, Severity.OK, what, where)


def note(check: str, what: str, where: str = "", advice: str = "") -> Finding:
    """Good to know."""
    return Finding(check, Severity.NOTE, what, where, advice)


def warning(check: str, what: str, where: str = "", advice: str = "") -> Finding:
    """Somebody has to act soon."""
    return Finding(check, Severity.WARNING, what, where, advice)


def error(check: str, what: str, where: str = "", advice: str = "") -> Finding:
    """Somebody has to act now."""
    return Finding(check, Severity.ERROR, what, where, advice)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when nobody has to act, 1 for a warning, 2 for an error."""
    worst = max((finding.severity for finding in findings), default=Severity.OK)
    return max(worst - Severity.NOTE, 0)


def probed(check: str, work: Callable[[], _Made], seconds_max: float) -> tuple[_Made | None, list[Finding]]:
    """What a probe gathers; where it fails, or isn't done in time, that is a finding, and nothing is waited for.

    Args:
        check: The check it gathers for.
        work: Runs in a thread of its own, which is left behind when it hangs (a dead file server).
        seconds_max: How long it may take.
    """
    done: list[_Made] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - whatever a broken machine does to a probe is what we tell
            failed.append(error)

    thread = threading.Thread(target=run, name=f"runwire-doctor-{check}", daemon=True)
    thread.start()
    thread.join(seconds_max)
    if done:
        return done[0], []
    if failed:
        reason = str(failed[0]) or type(failed[0]).__name__
        return None, [warning(check, f"This could not be looked at: {reason}")]
    return None, [
        warning(
            check,
            f"This gave no answer within {seconds_max:g} s.",
            advice="See whether the disk or the server behind it hangs, then ask again.",
        )
    ]
