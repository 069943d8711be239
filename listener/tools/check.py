"""Looks at everything around the copies that could go wrong, and says of each whether it is well.

One finding is one line: what was looked at, ``ok``, ``warning`` or ``danger``, and what to do. A danger is
something that loses photos or copies, or shows them to others. All that is written is a file in ``thumbs/`` and a link
where the copies' are, which go again at once.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from listener import mounts, preflight, roots, triggers
from listener.database import Connection, fetch, query
from listener.immich import api
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout
from listener.settings import Job, Settings
from listener.sync import brake

State = Literal["ok", "warning", "danger"]

_EDITS = (
    "What the target user edits of a copy (description, date, place) is written beside the source's original and "
    "becomes the source's too. Links of their own, in a directory that is no symlink, have no such danger"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: ``subject`` is what was looked at."""

    subject: str
    state: State
    text: str


async def check(connection: Connection, settings: Settings) -> tuple[Finding, ...]:
    """Look at Immich, the triggers, the jobs and the folders. Raises RefusedError if this is no Immich's database."""
    found = await preflight.check_immich(connection)
    settings = await roots.as_immich_says(connection, settings)
    layout = Layout.of(settings)
    guard = await preflight.guard_needed(connection, found, settings.jobs, layout)
    installed = await triggers.status(connection, guard=guard)
    findings = [*await _immich(settings), *_triggers(installed), *await asyncio.to_thread(_folders, layout)]
    findings += await _media_root(connection, settings.jobs, layout)
    unfit = await preflight.unfit(connection, found, settings.jobs, layout)
    for job in settings.jobs:
        subject = f"job {job.name!r}"
        problems = unfit.get(job.name, ())
        findings += [Finding(subject, "danger", problem.removeprefix(f"{subject}: ")) for problem in problems]
        if not problems:
            findings.append(Finding(subject, "ok", "its users are there, and the library is the target user's"))
        findings += _originals(found, job, layout, installed)
        findings += await _links(connection, job, layout)
        findings += await _library(connection, job)
        if found.has("_face_sync_asset_map"):
            findings += await _removal(connection, job, settings)
        if job.accept_risk or job.remove_copies:
            # Else said of the job already.
            covered = await preflight.covered_by(connection, found, job, layout)
            findings += [Finding(f"library of {job.name!r}", "danger", words) for words in covered]
    findings += [
        Finding("copies", "warning", str(left)) for left in await preflight.leftovers(connection, settings.jobs)
    ]
    return tuple(findings)


async def _immich(settings: Settings) -> list[Finding]:
    version = await api.version(settings.api_url, settings.api_key)
    features = await api.features(settings.api_url, settings.api_key)
    if version is None or features is None:
        text = (
            f"its API does not answer at {settings.api_url}: all kinds of machine learning are waited for, "
            f"{settings.ml_wait:g} s at most. Check IMMICH_API_URL"
        )
        return [Finding("Immich", "warning", text)]
    kinds = {"search": features.smart_search, "faces": features.facial_recognition, "text": features.ocr}
    learned = ", ".join(name for name, on in kinds.items() if on) or "none"
    return [Finding("Immich", "ok", f"{version} answers; machine learning that is waited for: {learned}")]


def _triggers(installed: triggers.TriggerStatus) -> list[Finding]:
    if installed.ok:
        return [Finding("triggers", "ok", f"installed (guard of originals: {installed.guard})")]
    bad = [f"{function.name}() {function.state}" for function in installed.functions if function.state != "installed"]
    bad += [f"{table.table} {table.state}" for table in installed.tables if table.state not in {"installed", "absent"}]
    if installed.guard not in {"installed", "not needed", "left over"}:
        bad.append(f"guard of originals {installed.guard}")
    text = f"{', '.join(bad)}: changes are seen by the slow sweep only. Run: listener triggers install"
    return [Finding("triggers", "warning", text)]


def _folders(layout: Layout) -> list[Finding]:
    findings = []
    for name, root in (
        ("UPLOAD_LOCATION_MOUNT", layout.media_root),
        ("EXTERNAL_LIBRARY_MOUNT", layout.external_root),
        *(("EXTERNAL_LIBRARY_MOUNTS", root) for root in layout.more),
    ):
        todo = "Mount it as in Immich's server"
        try:
            empty = next(root.iterdir(), None) is None
        except OSError as error:
            findings.append(Finding(name, "danger", f"{root} cannot be read: {error.strerror}. {todo}"))
            continue
        if empty:
            findings.append(Finding(name, "danger", f"{root} is empty: the wrong folder is mounted, or none. {todo}"))
        else:
            findings.append(Finding(name, "ok", f"{root} is there"))
    findings.append(_hardlinks(layout.media_root / "thumbs"))
    return findings


async def _media_root(connection: Connection, jobs: Sequence[Job], layout: Layout) -> list[Finding]:
    """Compare our media root with what Immich says, for each job with what was written for its source user."""
    disagreements = [await roots.disagreement(connection, job, layout) for job in jobs]
    words = dict.fromkeys(words for words in disagreements if words is not None)
    left_out = await roots.outside(connection, jobs, layout)
    return [
        *(Finding("media root", "danger", text) for text in words),
        *(Finding(f"uploads of {left.job!r}", "warning", str(left)) for left in left_out),
    ] or [Finding("media root", "ok", f"{layout.media_root} is where Immich says that its media are")]


def _hardlinks(folder: Path) -> Finding:
    """Try whether a hardlink can be made where thumbnails are."""
    one = folder / f".listener-check-{uuid4().hex}"
    two = one.with_suffix(".link")
    try:
        with contextlib.ExitStack() as cleaning:
            one.touch(exist_ok=False)
            cleaning.callback(one.unlink, missing_ok=True)
            try:
                os.link(one, two)
                cleaning.callback(two.unlink, missing_ok=True)
            except OSError as error:
                text = f"cannot be made in {folder}: {error.strerror}. Thumbnails of copies take space of their own"
                return Finding("hardlinks", "warning", text)
    except OSError as error:
        text = (
            f"{folder} cannot be written: {error.strerror}. Mount the media root for writing, and check PUID and PGID"
        )
        return Finding("hardlinks", "danger", text)
    return Finding("hardlinks", "ok", f"can be made in {folder}")


def _originals(found: Catalog, job: Job, layout: Layout, installed: triggers.TriggerStatus) -> list[Finding]:
    subject = f"originals of {job.name!r}"
    match preflight.way(job, layout):
        case "links":
            text = "each copy has a link of its own: what Immich deletes or writes there does not reach the source"
            return [Finding(subject, "ok", text)]
        case "elsewhere":
            text = f"{job.target_path_prefix} is a symlink that does not lead to the source: the job is refused"
            return [Finding(subject, "danger", text)]
    through = "copies lead to the source's files through a symlinked directory"
    if not preflight.keeps_offline(found):
        text = (
            f"{through}: a copy that is deleted in Immich takes the source's original along, and this Immich cannot be "
            "kept from it. Upgrade Immich to 2.4 or later, or use a directory that is no symlink"
        )
        return [Finding(subject, "danger", text)]
    if installed.guard != "installed":
        text = (
            f"{through}, and the trigger that keeps Immich from deleting the source's originals is not there. "
            "Run: listener triggers install"
        )
        return [Finding(subject, "danger", text)]
    text = f"{through}: the guard keeps the source's originals when copies are deleted. {_EDITS}"
    return [Finding(subject, "warning", text)]


async def _links(connection: Connection, job: Job, layout: Layout) -> list[Finding]:
    words = await mounts.untried(connection, job, layout)
    return [Finding(f"links of {job.name!r}", "danger", words)] if words is not None else []


async def _removal(connection: Connection, job: Job, settings: Settings) -> list[Finding]:
    verdict = await brake.judge(connection, job, settings.removal_limit)
    if not verdict.held:
        return []
    words = f"{verdict.count} of {verdict.copies} would go, and are held: {await brake.why(connection, job, verdict)}"
    return [Finding(f"copies of {job.name!r}", "danger", f"{words}. To let them go: {brake.command(job)}")]


async def _library(connection: Connection, job: Job) -> list[Finding]:
    rows = await fetch(connection, query("preflight", "library"), {"library": job.target_library_id})
    if not rows:
        return []  # said of the job already
    imports, exclusions = rows[0]
    return await asyncio.to_thread(_scan, job, imports, exclusions)


def _scan(job: Job, imports: Sequence[str], exclusions: Sequence[str]) -> list[Finding]:
    """Say what Immich's scan of the target library does to copies: best nothing."""
    subject = f"library of {job.name!r}"
    covering = [path for path in imports if f"{job.target_path_prefix}/".startswith(path)]
    findings = []
    if not covering:
        text = (
            f"no import path is the beginning of {job.target_path_prefix}: a scan takes all copies offline. "
            f"Set the import path in Immich to the beginning of that path, such as {job.target_path_prefix[:-1]}"
        )
        findings.append(Finding(subject, "danger", text))
    if exclusions:
        text = (
            f"it has exclusion patterns ({', '.join(map(repr, exclusions))}): copies that match one go offline at each "
            "scan. Best is none"
        )
        findings.append(Finding(subject, "warning", text))
    for path in covering:
        if Path(path).is_dir():
            text = (
                f"its import path {path} is a folder: a scan imports a link whose copy is not finished as a photo of "
                "its own. Use a beginning of the copies' paths that is no folder itself"
            )
            findings.append(Finding(subject, "warning", text))
    return findings or [Finding(subject, "ok", "a scan leaves the copies alone")]
