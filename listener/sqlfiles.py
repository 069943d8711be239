"""Finds and reads the project's SQL files.

SQL lives in ``sql/`` at the top of a checkout and in ``listener/sql/`` of an installed wheel. A file of
named queries is a row of blocks; each block opens with a line ``-- name: <name>`` and may go on with
comments that say why.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)


def sql_dir() -> Path:
    """Return the folder of the SQL files, in a checkout as in an installed wheel."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "sql", package.parent / "sql"):
        if (candidate / "queries").is_dir():
            return candidate
    raise FileNotFoundError(f"the SQL files are missing beside {package}: the installation is damaged")


@cache
def read_sql(name: str) -> str:
    """Return the text of one SQL file, named by its path below ``sql/``."""
    return (sql_dir() / name).read_text(encoding="utf-8")


@cache
def named_queries(name: str) -> Mapping[str, str]:
    """Return the named blocks of one SQL file: ``{"name": "statement"}``.

    Raises ValueError if a name stands twice or text stands before the first name.
    """
    text = read_sql(name)
    head, *parts = _NAME.split(text)
    if any(line.strip() and not line.startswith("--") for line in head.splitlines()):
        raise ValueError(f"{name}: a statement stands before the first '-- name:' line")
    names = parts[0::2]
    doubled = {n for n in names if names.count(n) > 1}
    if doubled:
        raise ValueError(f"{name}: query names stand twice: {', '.join(sorted(doubled))}")
    return MappingProxyType({n: body.strip() for n, body in zip(names, parts[1::2], strict=True)})
