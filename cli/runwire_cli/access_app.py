"""The commands about who may come in: token, login, logout; each imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from runwire_cli.options import AsJson, HomeOption

ServerArgument = Annotated[
    str | None, typer.Argument(metavar="[SERVER]", help="https://HOST:PORT (RUNWIRE_SERVER).", show_default=False)
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What the token is called.")]


def token_app() -> typer.Typer:
    """The sub-commands of `runwire token`."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

    @app.command(help="Make a token; it is printed once.")
    def create(
        name: NameArgument,
        *,
        scope: Annotated[str, typer.Option(metavar="SCOPE", help="read, write or admin.")] = "read",
        project: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="Only this project's runs; may be repeated.", show_default=False),
        ] = None,
        expires: Annotated[
            str | None,
            typer.Option(metavar="TIME", help="As in 30d, 12h or 45m; without it never.", show_default=False),
        ] = None,
        json: AsJson = False,
        home: HomeOption = None,
    ) -> None:
        from runwire_cli import tokens  # noqa: PLC0415 - rich
        from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
        from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

        output, settings = Output(Form.JSON if json else Form.TABLE), read_command_settings(home=home)
        raise typer.Exit(tokens.create(settings, output, name, scope=scope, projects=project or (), expires=expires))

    @app.command(name="list", help="List the tokens there are.")
    def list_tokens(*, json: AsJson = False, home: HomeOption = None) -> None:
        from runwire_cli import tokens  # noqa: PLC0415 - rich
        from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
        from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

        output = Output(Form.JSON if json else Form.TABLE)
        raise typer.Exit(tokens.list_tokens(read_command_settings(home=home), output))

    @app.command(help="Take a token back, at once.")
    def revoke(name: NameArgument, *, home: HomeOption = None) -> None:
        from runwire_cli import tokens  # noqa: PLC0415 - rich
        from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
        from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

        raise typer.Exit(tokens.revoke(read_command_settings(home=home), Output(Form.TABLE), name))

    return app


def login(server: ServerArgument = None, *, home: HomeOption = None) -> None:
    """Keep a token for a server."""
    from runwire_cli import login as logging_in  # noqa: PLC0415 - rich
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    raise typer.Exit(logging_in.login(read_command_settings(home=home), Output(Form.TABLE), server))


def logout(server: ServerArgument = None, *, home: HomeOption = None) -> None:
    """Forget a server's token."""
    from runwire_cli import login as logging_in  # noqa: PLC0415 - rich
    from runwire_cli.output import Form, Output  # noqa: PLC0415 - as above
    from runwire_cli.settings import read_command_settings  # noqa: PLC0415 - as above

    raise typer.Exit(logging_in.logout(read_command_settings(home=home), Output(Form.TABLE), server))
