"""Names that a file system takes for one: where case, or how accents are written, makes no difference to it.

Two photos may have names that differ in nothing else, and their copies' links then need two places. Nobody asks which
file system it is: a link that answers to another name than its own tells.
"""

import contextlib
import os
import unicodedata


def is_anothers(path: str, top: str) -> bool:
    """Tell whether what is at a path below ``top`` has another name there, that this file system takes for the same.

    Raises OSError.
    """
    rest = path.removeprefix(top)
    here = _lstat(path)
    if here is None or not any(_same(_lstat(top + variant), here) for variant in _variants(rest)):
        return False
    folder = top
    for name in rest.strip("/").split("/"):
        if name not in os.listdir(folder):  # noqa: PTH208 - names only
            return True
        folder = f"{folder}/{name}"
    return False


def _variants(name: str) -> set[str]:
    return {name.swapcase(), unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)} - {name}


def _lstat(path: str) -> os.stat_result | None:
    # A variant may be longer than a name can be.
    with contextlib.suppress(OSError):
        return os.lstat(path)
    return None


def _same(one: os.stat_result | None, other: os.stat_result) -> bool:
    return one is not None and os.path.samestat(one, other)
