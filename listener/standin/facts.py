"""The facts about Immich's schema: what PostgreSQL's catalog says after a release's migrations.

One JSON file per release lies in ``listener/standin/data/schema``. A database read back by
`listener.standin.schema.read_facts` has the same form, so that the two can be compared with ``==``.
Nothing here is Immich's own text: names, types and rules only.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, TypeAdapter

_DATA = Path(__file__).resolve().parent / "data" / "schema"


def _without_brackets(expression: str) -> str:
    """Strip the brackets around a whole expression: PostgreSQL and the data files differ in their number."""
    while expression.startswith("(") and _closing_bracket(expression) == len(expression) - 1:
        expression = expression[1:-1]
    return expression


def _closing_bracket(expression: str) -> int:
    depth = 0
    for position, character in enumerate(expression):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
    raise ValueError(f"a bracket is not closed: {expression}")


IndexColumn = Annotated[str, AfterValidator(_without_brackets)]
"""A column's name, or an expression without brackets around it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `type` and `default` as PostgreSQL prints them."""

    name: str
    type: str
    nullable: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class PrimaryKey:
    """A primary key with its columns in key order."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unique:
    """A unique constraint or unique index; `where` is a partial index's predicate."""

    name: str
    kind: Literal["constraint", "index"]
    columns: tuple[IndexColumn, ...]
    where: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """The table and columns that a foreign key points to."""

    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key; the actions are words, such as ``SET NULL``."""

    name: str
    columns: tuple[str, ...]
    references: Reference
    on_delete: str
    on_update: str


@dataclass(frozen=True, slots=True)
class Check:
    """A check constraint; `expression` begins with ``CHECK``."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Index:
    """An index that is not unique.

    `columns` holds names and expressions; `opclass` has one entry per column (None for the default one),
    or is empty where all are the default.
    """

    name: str
    method: str
    columns: tuple[IndexColumn, ...]
    where: str | None
    opclass: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class TransitionTables:
    """The names under which a trigger's function sees the rows before and after."""

    old: str | None = None
    new: str | None = None


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger; `when` is its condition in brackets, `description` what its function does, in our words."""

    name: str
    timing: str
    events: tuple[str, ...]
    level: Literal["ROW", "STATEMENT"]
    transition_tables: TransitionTables | None
    when: str | None
    function: str
    description: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Table:
    """A table: columns in their order, everything else sorted by name."""

    columns: tuple[Column, ...]
    primary_key: PrimaryKey | None = None
    unique: tuple[Unique, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    checks: tuple[Check, ...] = ()
    indexes: tuple[Index, ...] = ()
    triggers: tuple[Trigger, ...] = ()

    def column_names(self) -> tuple[str, ...]:
        """Return the names of the columns, in table order."""
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Facts:
    """A schema: enum types with their labels in order, and tables by name."""

    enums: dict[str, tuple[str, ...]]
    tables: dict[str, Table]


_FACTS = TypeAdapter(Facts)


def parse_facts(raw: object) -> Facts:
    """Make `Facts` of the decoded JSON of a data file or of the catalog query."""
    return _FACTS.validate_python(raw)


def releases() -> tuple[str, ...]:
    """Return the Immich releases whose facts are here, oldest first: ``("2.0.0", …, "3.3.0")``."""
    found = [path.stem.removeprefix("v") for path in _DATA.glob("v*.json")]
    return tuple(sorted(found, key=_numbers))


@cache
def load_facts(release: str) -> Facts:
    """Return the facts of one release, such as ``"3.0.3"``; ValueError if they are not here."""
    return parse_facts(_read(release))


@cache
def applied_migrations(release: str) -> tuple[str, ...]:
    """Return the names in ``kysely_migrations`` of a server of this release, in order.

    From 3.2.0 they are not known: the list of the newest release before it that has one stands in.
    """
    for candidate in reversed(releases()):
        if _numbers(candidate) <= _numbers(release):
            names = _read(candidate)["applied_migrations"]
            if isinstance(names, list):
                return tuple(names)
    raise ValueError(f"no list of migrations is known for Immich {release} or an earlier release")


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def _read(release: str) -> dict[str, object]:
    path = _DATA / f"v{release}.json"
    if not path.is_file():
        raise ValueError(f"no schema facts for Immich {release}: there are {', '.join(releases())}")
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content
