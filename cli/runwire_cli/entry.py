"""The `runwire` command: the whole of it, or in a bare install what needs nothing but the trainer's SDK."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence

from runwire_cli.commands import COMMANDS

NEEDED = ("typer", "rich", "duckdb", "pyarrow", "starlette", "uvicorn", "prometheus_client")
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code. What can't be done is one sentence on stderr."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _guarded(lambda: run_bare(arguments))
    from runwire_cli.app import run_whole  # noqa: PLC0415 - typer and rich are absent in a bare install

    return _guarded(lambda: run_whole(arguments))


def run_bare(arguments: Sequence[str]) -> int:
    """The command line of a bare install: help and sync; every other command names what it needs."""
    import argparse  # noqa: PLC0415 - the whole install has typer

    from runwire._version import __version__  # noqa: PLC0415 - as above

    parser = argparse.ArgumentParser(
        prog="runwire",
        description="Stream what training processes do. This is the bare install: it sends, and others read.",
        epilog="All but sync need: pip install 'runwire[local]'; demo needs: pip install 'runwire[demo]'",
    )
    parser.add_argument("--version", action="version", version=f"runwire {__version__}", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, add_help=name == "sync")
        if name == "sync":
            command.add_argument("folder", nargs="?", metavar="DIR", help="a home or a folder of journals")
            command.add_argument("--to", metavar="URL", help="send everything there")
            command.add_argument("--follow", action="store_true", help="go on, with what running processes write")
            command.add_argument("--home", metavar="DIR", help="the home (RUNWIRE_HOME)")
    known, rest = parser.parse_known_args(list(arguments))
    if known.command != "sync":
        extra = "demo" if known.command == "demo" else "local"
        sys.stderr.write(f"runwire {known.command} needs more than the bare install: pip install 'runwire[{extra}]'\n")
        return EXIT_FAILED
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - --help needs none of it
    from runwire_cli.sync import follow, sync  # noqa: PLC0415 - as above

    home = read_command_settings(home=known.home).home
    return follow(known.folder, known.to, home.path) if known.follow else sync(known.folder, known.to, home.journal)


def _guarded(command: Callable[[], int]) -> int:
    """Run; an error of ours is its sentence on stderr, never a trace."""
    try:
        return command()
    except BrokenPipeError:
        # The reader of our pipe went away: as other tools, end quietly.
        sys.stderr.close()
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return EXIT_INTERRUPTED
    except Exception as error:
        if not isinstance(error, _expected()):
            raise
        from runwire_cli.text import clean  # noqa: PLC0415 - only here

        sys.stderr.write(f"runwire: {clean(error)}\n")
        return getattr(error, "exit_code", EXIT_FAILED)


def _expected() -> tuple[type[Exception], ...]:
    """The errors whose text is a sentence for a person; asked for only once there is one, for they cost imports."""
    from runwire._errors import RunwireError  # noqa: PLC0415 - see above
    from runwire_cli.errors import CommandError  # noqa: PLC0415 - as above
    from runwire_schemas.errors import SchemaError  # noqa: PLC0415 - as above

    ours: tuple[type[Exception], ...] = (CommandError, RunwireError, SchemaError, OSError)
    if importlib.util.find_spec("runwire_consumer") is None:
        return ours
    from runwire_consumer.errors import ConsumerError  # noqa: PLC0415 - absent in a bare install

    return (*ours, ConsumerError)
