"""The commands of a full install; each imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from runwire_cli.access_app import login, logout, token_app
from runwire_cli.commands import COMMANDS
from runwire_cli.data_app import add_data_commands
from runwire_cli.letters_app import letters_app

if TYPE_CHECKING:
    from runwire_cli.client import Reader
    from runwire_cli.output import Output
    from runwire_consumer.database import Database

app = typer.Typer(
    name="runwire",
    help="Stream what training processes do: from log() into SQL and live gauges.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
HomeOption = Annotated[
    str | None, typer.Option("--home", metavar="DIR", help="The home (RUNWIRE_HOME).", show_default=False)
]
UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The log (RUNWIRE_URL).", show_default=False)
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the begin of it, or its name.")]


def _help(command: str) -> str:
    text = COMMANDS[command]
    return f"{text[0].upper()}{text[1:]}."


def run_whole(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(arguments) or ["--help"], prog_name="runwire", standalone_mode=False)
    except typer.Exit as ended:
        return int(ended.exit_code)
    except typer.Abort:
        return 1
    except Exception as error:
        # click's own: an unknown option, a missing argument
        if not hasattr(error, "format_message"):
            raise
        sys.stderr.write(f"runwire: {error.format_message()} See runwire --help.\n")
        return int(getattr(error, "exit_code", 2))
    return int(code or 0)


def _print_version(*, value: bool) -> None:
    if value:
        from runwire._version import __version__  # noqa: PLC0415 - only here

        sys.stdout.write(f"runwire {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Stream what training processes do: from log() into SQL and live gauges."""


@app.command(help=_help("up"))
def up(
    *,
    once: Annotated[bool, typer.Option("--once", help="Read what waits, then end.")] = False,
    url: UrlOption = None,
    home: HomeOption = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Listen here (RUNWIRE_HOST; 127.0.0.1).", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Listen here (RUNWIRE_PORT; 8470); 0 takes any.", show_default=False),
    ] = None,
    tls_cert: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Speak TLS with this certificate (RUNWIRE_TLS_CERT).", show_default=False),
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its key (RUNWIRE_TLS_KEY).", show_default=False)
    ] = None,
    retention: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROJECT=DAYSd",
            help="Keep full resolution of ended runs so long, as digits=30d or *=90d (RUNWIRE_RETENTION).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Read the log into the database."""
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - --help needs none of it
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above
    from runwire_cli.up import serve_forever, serve_once  # noqa: PLC0415 - as above

    settings = read_command_settings(
        url=url, home=home, host=host, port=port, certificate=tls_cert, key=tls_key, retention=retention or ()
    )
    raise typer.Exit(serve_once(settings, Output(Form.TABLE)) if once else serve_forever(settings))


@app.command(help=_help("demo"))
def demo(
    *,
    url: UrlOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the consumer up at the end, until Ctrl-C.")] = False,
) -> None:
    """Show the whole way."""
    from rich.console import Console  # noqa: PLC0415 - only here

    from runwire_cli.demo import run_demo  # noqa: PLC0415 - numpy, duckdb

    run_demo(url, keep=keep, console=Console())


@app.command(help=_help("runs"))
def runs(
    *,
    project: Annotated[str | None, typer.Option(help="Only this project's.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    json: AsJson = False,
    csv: AsCsv = False,
    home: HomeOption = None,
) -> None:
    """List the runs."""
    from runwire_cli import reading  # noqa: PLC0415 - rich

    _read(home, json, csv, lambda reader, output: reading.runs(reader, output, project, limit))


@app.command(help=_help("show"))
def show(run: RunArgument, *, json: AsJson = False, csv: AsCsv = False, home: HomeOption = None) -> None:
    """Show one run."""
    from runwire_cli import reading  # noqa: PLC0415 - rich

    _read(home, json, csv, lambda reader, output: reading.show(reader, output, run))


@app.command(help=_help("sql"))
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT; - reads it from stdin.")],
    *,
    json: AsJson = False,
    csv: AsCsv = False,
    home: HomeOption = None,
) -> None:
    """Answer a query."""
    from runwire_cli import reading  # noqa: PLC0415 - rich

    text = sys.stdin.read() if query == "-" else query
    _read(home, json, csv, lambda reader, output: reading.sql(reader, output, text))


@app.command(help=_help("verify"))
def verify(run: RunArgument, *, json: AsJson = False, csv: AsCsv = False, home: HomeOption = None) -> None:
    """Print a receipt."""
    from runwire_cli import reading  # noqa: PLC0415 - rich

    _read(home, json, csv, lambda reader, output: reading.verify(reader, output, run))


@app.command(help=_help("snapshot"))
def snapshot(
    *,
    listing: Annotated[bool, typer.Option("--list", help="Show the snapshots there are; take none.")] = False,
    json: AsJson = False,
    home: HomeOption = None,
) -> None:
    """Take a backup."""
    from runwire_cli import snapshots  # noqa: PLC0415 - rich
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    settings, output = read_command_settings(home=home), Output(Form.JSON if json else Form.TABLE)
    raise typer.Exit(snapshots.show(settings, output) if listing else snapshots.take(settings, output))


@app.command(help=_help("restore"))
def restore(
    snapshot: Annotated[
        str | None,
        typer.Argument(metavar="SNAPSHOT", help="A snapshot's name or path; the newest.", show_default=False),
    ] = None,
    *,
    home: HomeOption = None,
) -> None:
    """Put a backup in place."""
    from runwire_cli import backup  # noqa: PLC0415 - DuckDB
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    raise typer.Exit(backup.restore(read_command_settings(home=home), Output(Form.TABLE), snapshot))


@app.command(help=_help("doctor"))
def doctor(
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Look at every row and point.")] = False,
    json: AsJson = False,
    url: UrlOption = None,
    home: HomeOption = None,
) -> None:
    """Say what is wrong."""
    from runwire_cli.doctor import doctor as look  # noqa: PLC0415 - rich
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    output = Output(Form.JSON if json else Form.TABLE)
    raise typer.Exit(look(read_command_settings(url=url, home=home), output, deep=deep))


@app.command(help=_help("sync"))
def sync(
    folder: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="A home or a folder of journals.", show_default=False)
    ] = None,
    *,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Send everything there.", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on, with what running processes write.")] = False,
    home: HomeOption = None,
) -> None:
    """Send what waits."""
    from runwire_cli import sync as sending  # noqa: PLC0415 - --help needs none of it
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    found = read_command_settings(home=home).home
    raise typer.Exit(sending.follow(folder, to, found.path) if follow else sending.sync(folder, to, found.journal))


@app.command(help=_help("bridge"))
def bridge(
    source: Annotated[str, typer.Argument(metavar="MQTT_URL", help="mqtt://HOST[:PORT][/PREFIX], or mqtts://.")],
    target: Annotated[str, typer.Argument(metavar="URL", help="kafka://HOST:PORT/TOPIC, or dir:PATH.")],
    *,
    client_id: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the session at the broker.", show_default=False)
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Serve Prometheus metrics there.", show_default=False)
    ] = None,
) -> None:
    """Forward from MQTT."""
    from runwire_cli import bridge as bridging  # noqa: PLC0415 - --help needs none of it
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    raise typer.Exit(bridging.bridge(source, target, client_id, metrics_port, read_command_settings().host))


def _read(
    home: str | None,
    json: bool,  # noqa: FBT001 - an option handed on
    csv: bool,  # noqa: FBT001 - as above
    command: Callable[[Reader, Output], int],
) -> None:
    from runwire_cli.client import open_reader  # noqa: PLC0415 - only readers need it
    from runwire_cli.errors import CommandError  # noqa: PLC0415 - as above
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    if json and csv:
        raise CommandError("Choose one of --json and --csv.", 2)
    output = Output(Form.JSON if json else Form.CSV if csv else Form.TABLE)
    settings = read_command_settings(home=home)

    def open_file(lock_wait_seconds: float) -> Database:
        from runwire_cli.up import open_materialized  # noqa: PLC0415 - engine and service: only without a consumer

        return open_materialized(settings, output, lock_wait_seconds)

    reader = open_reader(settings, open_file)
    try:
        code = command(reader, output)
    finally:
        reader.close()
    raise typer.Exit(code)


app.add_typer(token_app(), name="token", help=_help("token"))
app.command(help=_help("login"))(login)
app.command(help=_help("logout"))(logout)
add_data_commands(app, _read)
app.add_typer(letters_app(_read), name="dead-letters", help=_help("dead-letters"))
