"""Finds variables that are none of ours, and probably were meant to be one.

The environment and ``.env`` may hold whatever else, Immich's own variables among it: none of those is as near.
"""

import difflib
from collections.abc import Iterable, Iterator

# Read by docker-compose.yml alone.
_BY_COMPOSE = frozenset({"UPLOAD_LOCATION", "EXTERNAL_LIBRARY_DIR", "PUID", "PGID"})
# Immich's own, and as near to ours.
_OF_IMMICH = frozenset({"DB_DATABASE_NAME_FILE"})
_NEAR = 0.87


def told(given: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    """Yield a line for each of the given names that is nearly one of the known ones."""
    ours = {_squeezed(name): name for name in known}
    for name in sorted({*given} - {*ours.values(), *_BY_COMPOSE, *_OF_IMMICH}):
        if close := difflib.get_close_matches(_squeezed(name), ours, n=1, cutoff=_NEAR):
            meant = ours[close[0]]
            # HOSTNAME, say: a name of its own, which every container has.
            if not meant.endswith(f"_{name}"):
                yield f"{name}: is no variable of the listener: it has no effect. Did you mean {meant}?"


def _squeezed(name: str) -> str:
    return name.upper().replace("_", "").replace("-", "").replace(".", "")
