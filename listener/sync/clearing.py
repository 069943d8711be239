"""How files of copies go: links and what lies beside them, and generated files. Never another file."""

import errno
import os
import stat
from collections.abc import Container, Sequence
from pathlib import Path

from listener.immich.layout import Layout, RefusedPathError
from listener.ops import logs
from listener.sync.files import FileProblemError, kind_of, words_of
from listener.sync.folders import held, really_held
from listener.sync.names import is_anothers

_limited = logs.Limited(logs.get("clearing"))


def remove_beside(layout: Layout, prefix: str, path: str) -> bool:
    """Remove the link of a copy, or the XMP beside it, and folders below ``prefix`` that are empty then.

    Never another file. What lies behind a symlink that somebody put in the way is not ours any more. Raises
    FileProblemError.
    """
    if not layout.is_external(path):
        return False
    root = layout.external_of(path)
    try:
        with held(Path(path), root) as entry:
            mode = entry.lstat().st_mode
            if not stat.S_ISLNK(mode) and not (stat.S_ISREG(mode) and path.endswith(".xmp")):
                return False
            if is_anothers(path, prefix):
                return False
            entry.unlink()
        for folder in Path(path).parents:
            if not str(folder).startswith(prefix + "/"):
                break
            with held(folder, root) as entry:
                os.rmdir(entry.name, dir_fd=entry.folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except RefusedPathError as error:
        _limited.warning("links of copies that are gone lie behind a symlink now: they are left", reason=str(error))
        return False
    except OSError as error:
        # The folder is still needed, or another batch was faster.
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise FileProblemError(kind_of(error), f"cannot remove {path!r}: {words_of(error)}") from error
    return True


def remove_files(
    layout: Layout, folders: Sequence[Path], id_: str, named: Sequence[str], *, but: Container[str] = ()
) -> int:
    """Remove the generated files of one copy or person: those given and any other named by its id, ``but`` these.

    Folders stay, also empty ones: Immich may just be about to write there. Returns how many files were removed.
    Raises FileProblemError, and SwappedError where a disk came or went meanwhile: what was not found may be there.
    """
    media = f"{layout.media_root}/"
    paths = {Path(path) for path in named if path.startswith(media) and id_ in Path(path).name}
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                paths.update(folder / entry.name for entry in entries if entry.name.startswith(id_))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise FileProblemError(kind_of(error), f"cannot look through {str(folder)!r}: {words_of(error)}") from error
    removed = 0
    for path in paths:
        if str(path) in but:
            continue
        try:
            layout.inside_media(str(path.parent))
            with really_held(path, layout.media_of(str(path))) as entry:
                entry.unlink()
            removed += 1
        except FileNotFoundError:
            continue
        except RefusedPathError as error:
            raise FileProblemError("refused", str(error)) from error
        except OSError as error:
            raise FileProblemError(kind_of(error), f"cannot remove {str(path)!r}: {words_of(error)}") from error
    layout.confirm()
    return removed
