"""What a scan of an external library takes in: would it import the links of copies as photos of its owner's?

Immich walks the folders of a library's import paths, through symlinks too. An import path that is only the beginning of
a name, such as ``/external_library/shared/bob_``, is no folder above ``/external_library/shared/bob_photos``.
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

# A name without anything that a glob reads otherwise, and a text without anything that a regular expression does.
_PLAIN_GLOB = re.compile(r"\*\*/([^/*?\[\]{}()!+@|\\]+)/\*\*")
_PLAIN_EXPRESSION = re.compile(r"(?:[\w/ -]|\\[^\w])+")
_ALL_GLOBS = frozenset({"**/*", "**"})
_ALL_EXPRESSIONS = frozenset({".*", "^.*$", ".+"})


@dataclass(frozen=True, slots=True)
class Library:
    """An external library that is there. ``owner``: the name of its user.

    leads: where import paths lead, of those that were looked up already.
    """

    id: UUID
    name: str
    owner: str
    imports: Sequence[str]
    exclusions: Sequence[str]
    leads: Mapping[str, str] = field(default_factory=dict)


def covering(library: Library, prefix: str, root: str, *, expressions: bool) -> str | None:
    """Return the import path by which a scan takes in what is below a folder; None where none does, for sure.

    root: below it Immich and we see the same; what leads where is looked up there only. expressions: the library's
    exclusion patterns are regular expressions, as from Immich 3.2 on.
    """
    # Where the folder itself leads is not asked: to the source's own library, it may be.
    above, name = os.path.split(prefix)
    places = {prefix, os.path.join(os.path.realpath(above), name)}  # noqa: PTH118 - texts, as in the rows
    for path in library.imports:
        named = os.path.normpath(path)
        folders = {named, library.leads.get(named) or os.path.realpath(named)} if _within(named, root) else {named}
        for folder, place in itertools.product(folders, places):
            if _within(place, folder):
                below = place.removeprefix(folder).strip("/")
            elif _within(folder, place):
                below = ""
            else:
                continue
            if not _excluded(library.exclusions, named, below, expressions=expressions):
                return path
    return None


def exclusion(prefix: str, *, expressions: bool) -> str:
    """Return an exclusion pattern that keeps a scan out of a folder."""
    return re.escape(f"{prefix}/") if expressions else f"**/{os.path.basename(prefix)}/**"  # noqa: PTH119


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _excluded(exclusions: Sequence[str], folder: str, below: str, *, expressions: bool) -> bool:
    """Tell whether a scan of ``folder`` surely leaves out all that is in its folder ``below``: only in simple cases."""
    if expressions:
        seen = f"{folder}/{below}/" if below else f"{folder}/"
        plain = [pattern for pattern in exclusions if _PLAIN_EXPRESSION.fullmatch(pattern)]
        return not _ALL_EXPRESSIONS.isdisjoint(exclusions) or any(
            re.sub(r"\\(.)", r"\1", pattern) in seen for pattern in plain
        )
    names = {found[1] for pattern in exclusions if (found := _PLAIN_GLOB.fullmatch(pattern))}
    return not _ALL_GLOBS.isdisjoint(exclusions) or not names.isdisjoint(below.split("/"))
