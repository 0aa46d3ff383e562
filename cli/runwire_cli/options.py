"""Options that several commands have, and how the whole install's `--help` lists the commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from runwire_cli.commands import COMMANDS, GROUPS

if TYPE_CHECKING:
    from runwire_cli.client import Reader
    from runwire_cli.output import Output

Read = Callable[[str | None, bool, bool, "Callable[[Reader, Output], int]"], None]
"""Opens a reader in (home, json, csv), runs a command with it, exits."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
HomeOption = Annotated[
    str | None, typer.Option("--home", metavar="DIR", help="The home (RUNWIRE_HOME).", show_default=False)
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the begin of it, or its name.")]


def help_of(command: str) -> str:
    """The command's line as a sentence."""
    text = COMMANDS[command]
    return f"{text[0].upper()}{text[1:]}."


class GroupedCommands(TyperGroup):
    """Lists the commands by what they are for, in the order of `GROUPS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer hides click's types
        """Write them, a section a group, all with the same left edge."""
        width = max(map(len, COMMANDS))
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), help_of(name)) for name in names])
