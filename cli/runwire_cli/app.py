"""The commands of a full install; each imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from runwire_cli.access_app import login, logout, token_app
from runwire_cli.data_app import add_data_commands
from runwire_cli.letters_app import letters_app
from runwire_cli.options import AsCsv, AsJson, GroupedCommands, HomeOption, RunArgument, help_of

if TYPE_CHECKING:
    from runwire_cli.client import Reader
    from runwire_cli.output import Output
    from runwire_consumer.database import Database

app = typer.Typer(
    name="runwire",
    cls=GroupedCommands,
    help="Stream what training processes do: from log() into SQL and live gauges.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The log (RUNWIRE_URL).", show_default=False)
]


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


@app.command(help=help_of("up"))
def up(
    *,
    once: Annotated[bool, typer.Option("--once", help="Read what waits, then end.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    url: UrlOption = None,
    home: HomeOption = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Address to listen at (RUNWIRE_HOST; 127.0.0.1).", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65_535,
            help="Port to listen at (RUNWIRE_PORT; 8470); 0 takes any.",
            show_default=False,
        ),
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
            metavar="PROJECT=30d",
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
    if once:
        raise typer.Exit(serve_once(settings, Output(Form.TABLE)))
    raise typer.Exit(serve_forever(settings, opens=open_page))


@app.command(help=help_of("demo"))
def demo(
    *,
    url: UrlOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the consumer up at the end, until Ctrl-C.")] = False,
) -> None:
    """Show the whole way."""
    from rich.console import Console  # noqa: PLC0415 - only here

    from runwire_cli.demo import run_demo  # noqa: PLC0415 - numpy, duckdb

    run_demo(url, keep=keep, console=Console())


@app.command(help=help_of("runs"))
def runs(
    *,
    project: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this project's.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="How many, newest first.")] = 50,
    json: AsJson = False,
    csv: AsCsv = False,
    home: HomeOption = None,
) -> None:
    """List the runs."""
    from runwire_cli import reading  # noqa: PLC0415 - rich

    _read(home, json, csv, lambda reader, output: reading.runs(reader, output, project, limit))


@app.command(help=help_of("show"))
def show(run: RunArgument, *, json: AsJson = False, csv: AsCsv = False, home: HomeOption = None) -> None:
    """Show one run."""
    from runwire_cli import reading  # noqa: PLC0415 - rich

    _read(home, json, csv, lambda reader, output: reading.show(reader, output, run))


@app.command(help=help_of("watch"))
def watch(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Their curves; else all runs that live.", show_default=False),
    ] = None,
    *,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only metrics like this, as 'val/*'; may be repeated.", show_default=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Say how it stands, in words, then end.")] = False,
    home: HomeOption = None,
) -> None:
    """Watch runs."""
    from runwire_cli import watch as watching  # noqa: PLC0415 - rich
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    if once or not watching.can_draw():
        _read(home, json=False, csv=False, command=lambda reader, output: watching.once(reader, output, runs, metric))
    raise typer.Exit(watching.watch(read_command_settings(home=home), runs, metric))


@app.command(help=help_of("sql"))
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


@app.command(help=help_of("shell"))
def shell(
    query: Annotated[
        str | None, typer.Argument(metavar="[SQL]", help="Run this and end; else ask.", show_default=False)
    ] = None,
    *,
    newest: Annotated[
        bool, typer.Option("--newest", help="Take the newest snapshot there is, whatever its age.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Open a snapshot."""
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - --help needs none of it
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above
    from runwire_cli.shell import shell as open_shell  # noqa: PLC0415 - DuckDB

    settings = read_command_settings(home=home)
    raise typer.Exit(open_shell(settings, Output(Form.TABLE), query, newest=newest))


@app.command(help=help_of("verify"))
def verify(run: RunArgument, *, json: AsJson = False, csv: AsCsv = False, home: HomeOption = None) -> None:
    """Print a receipt."""
    from runwire_cli import reading  # noqa: PLC0415 - rich

    _read(home, json, csv, lambda reader, output: reading.verify(reader, output, run))


@app.command(help=help_of("snapshot"))
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


@app.command(help=help_of("restore"))
def restore(
    snapshot: Annotated[
        str | None,
        typer.Argument(
            metavar="SNAPSHOT", help="A snapshot's name or path; without one the newest.", show_default=False
        ),
    ] = None,
    *,
    home: HomeOption = None,
) -> None:
    """Put a backup in place."""
    from runwire_cli import backup  # noqa: PLC0415 - DuckDB
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    raise typer.Exit(backup.restore(read_command_settings(home=home), Output(Form.TABLE), snapshot))


@app.command(help=help_of("doctor"))
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


@app.command(help=help_of("sync"))
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


@app.command(help=help_of("bridge"))
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


app.add_typer(token_app(), name="token", help=help_of("token"))
app.command(help=help_of("login"))(login)
app.command(help=help_of("logout"))(logout)
add_data_commands(app, _read)
app.add_typer(letters_app(_read), name="dead-letters", help=help_of("dead-letters"))
