"""Errors of the commands: each is one sentence on stderr and a non-zero exit."""

from __future__ import annotations


class CommandError(Exception):
    """A command can't go on; the sentence says what and what to do.

    Args:
        sentence: For the person at the terminal.
        exit_code: What the command exits with.
    """

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        """Keep the exit code beside the sentence."""
        super().__init__(sentence)
        self.exit_code = exit_code


class ServerUnreachable(CommandError):
    """No consumer answers at the address."""


class ServerRefused(CommandError):
    """The consumer answered with an error; the sentence is its own."""
