"""What the judge hands around: the pairs it looks at, what it found, and how that reads."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from listener.settings import Job


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the rules of a copy say.

    ``rule`` is a short name such as ``asset.column`` or ``original.link``; ``failed`` is a source that could
    not be copied and is recorded with its reason. The ids are None where there is no such asset.
    """

    rule: str
    job: str
    source_asset_id: UUID | None
    target_asset_id: UUID | None
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """What one look at source and copy found.

    ``copies`` are those with a row, ``sources`` the assets that the jobs share, ``waiting`` those of them
    without a copy that Immich has not finished with, or whose files are missing, ``skipped`` those that are left
    out on purpose. ``rows`` counts the copies' rows by table.
    """

    differences: tuple[Difference, ...]
    copies: int
    sources: int
    waiting: int
    rows: Mapping[str, int]
    skipped: int = 0

    @property
    def ok(self) -> bool:
        """Return True when nothing differs."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class SourceAsset:
    """An asset of a job's source user; ``barrier`` names the rule that forbids sharing it.

    place: it lies in the job's place. extracted: a video that Immich has taken out of a photo (Android).
    """

    id: UUID
    path: str
    live: UUID | None
    motion: bool
    place: bool
    extracted: bool
    barrier: str | None
    ready: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A copy and the source that rightly stands for it.

    ``path`` is where the copy's original belongs, ``live`` the copy of its motion part if it has one. ``extracted``: a
    video that Immich has taken out of a photo (Android).
    """

    job: Job
    source: UUID
    target: UUID
    source_path: str
    path: str
    motion: bool
    live: UUID | None
    extracted: bool = False

    def differs(self, rule: str, detail: str) -> Difference:
        """Return a difference of this pair."""
        return Difference(rule, self.job.name, self.source, self.target, detail)


def render(report: Report, limit: int = 50) -> str:
    """Return the report as plain text for people: a verdict, the number of each broken rule, then details.

    At most ``limit`` differences are written out.
    """
    counts = f"{report.copies} copies of {report.sources} shared photos and videos, {report.waiting} waiting"
    if report.skipped:
        counts += f", {report.skipped} skipped"
    if report.ok:
        rows = ", ".join(f"{table} {number}" for table, number in sorted(report.rows.items()) if number)
        return f"ok: {counts}" + (f"\nrows of copies: {rows}" if rows else "")
    lines = [f"{len(report.differences)} differences: {counts}"]
    by_rule = Counter(difference.rule for difference in report.differences)
    lines += [f"  {number:6} {rule}" for rule, number in sorted(by_rule.items())]
    for difference in report.differences[:limit]:
        ids = f"source {difference.source_asset_id or '-'} copy {difference.target_asset_id or '-'}"
        lines.append(f"{difference.rule}  job {difference.job}  {ids}  {difference.detail}")
    if len(report.differences) > limit:
        lines.append(f"… and {len(report.differences) - limit} more")
    return "\n".join(lines)
