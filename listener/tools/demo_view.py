"""What the demo shows: a live table in a terminal, one line a step where there is none."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console
from rich.live import Live
from rich.table import Table

# Lines of the terminal that the table's head and the text around it take.
_AROUND = 8


@dataclass(frozen=True, slots=True)
class StepRow:
    """One line of the table. ``latency`` is the median in seconds, NaN where nothing was copied."""

    step: str
    transactions: int
    events: int | None = None
    made: int = 0
    removed: int = 0
    latency: float = math.nan


class View:
    """Prints the demo's story to a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._rows: list[StepRow] = []
        self._now: Callable[[], StepRow] | None = None
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line with the seconds since the start."""
        seconds = f"{time.monotonic() - self._began:5.1f} s"
        self.console.print(f"{seconds}  {text}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def table(self) -> Iterator[None]:
        """Show the steps while the block runs, and all of them at its end."""
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self._visible, console=self.console, refresh_per_second=8, transient=True):
            yield
        self.console.print(_table(self._rows))

    def begin(self, now: Callable[[], StepRow]) -> None:
        """Begin a step; ``now`` tells how it stands, and is called from another thread."""
        self._now = now

    def end(self, row: StepRow) -> None:
        """End a step."""
        self._now = None
        self._rows.append(row)
        if not self.console.is_terminal:
            latency = "" if math.isnan(row.latency) else f", median {milliseconds(row.latency)}"
            self.say(f"{row.step}: events {row.events}, copies made {row.made}, removed {row.removed}{latency}")

    def summary(self, lines: Mapping[str, str]) -> None:
        """Print the figures, a name and a value in each line."""
        self.console.print()
        width = max(map(len, lines))
        for name, value in lines.items():
            self.console.print(f"{name:{width}}  {value}", markup=False, highlight=False, soft_wrap=True)

    def _visible(self) -> Table:
        now = self._now
        rows = [*self._rows, *([replace(now(), step=f"{now().step} …")] if now else [])]
        return _table(rows[-max(1, self.console.height - _AROUND) :])


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds, for people."""
    return f"{seconds * 1000:.1f} ms"


def _table(rows: list[StepRow]) -> Table:
    # Narrow: it fits a terminal of 80 columns.
    table = Table(caption="made and gone are copies, ms is the median time from the write to the finished copy")
    table.add_column("what carol did", no_wrap=True)
    for name in ("writes", "events", "made", "gone", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.step,
            str(row.transactions),
            "" if row.events is None else str(row.events),
            str(row.made or ""),
            str(row.removed or ""),
            "" if math.isnan(row.latency) else f"{row.latency * 1000:.1f}",
        )
    return table
