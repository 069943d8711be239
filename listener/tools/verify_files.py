"""The judge's look at the disk: thumbnails, videos, originals, and what lies there for nobody.

Paths come from rows, as Immich's server sees them. Nothing is written; contents are read only where a copy
does not share its source's inode.
"""

import filecmp
import hashlib
import os
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from listener.settings import Job
from listener.tools.verify_model import Difference, Pair

GENERATED_FOLDERS = ("thumbs", "encoded-video")
"""Folders below the media root where Immich keeps what it makes, by owner."""


# The seconds that a date can say: from the year 1 to 9999.
_FIRST, _END = -62_135_596_800, 253_402_300_800


@dataclass(frozen=True, slots=True)
class GeneratedFile:
    """A file of the copy and the file of the source it was made from.

    ``rule`` opens the names of the rules: ``file`` or ``person.thumbnail``. ``shared`` tells whether both may
    be one inode: Immich rewrites edited files and person thumbnails of the target in place, which would reach
    the source through a shared inode. ``own``: what it shows is the target user's to choose. ``private``: the
    source's is not for the target to see.
    """

    rule: str
    job: str
    source_asset_id: UUID | None
    target_asset_id: UUID | None
    what: str
    source: str
    copy: str
    shared: bool
    own: bool = False
    private: bool = False

    def differs(self, kind: str, detail: str) -> Difference:
        """Return a difference of this file."""
        rule = f"{self.rule}.{kind}"
        return Difference(
            rule, self.job, self.source_asset_id, self.target_asset_id, f"{self.what}: {self.copy} {detail}"
        )


def expected_path(path: str, media_root: Path, source_id: UUID, target_user: UUID, target_id: UUID) -> str | None:
    """Return where the target's file belongs: named as the source's, with the target's owner and id.

    Immich: ``<media root>/<folder>/<owner>/<aa>/<bb>/<name with the id>``. None where the source's file is
    not below the media root: no copy may name such a file.
    """
    if unsafe(path):
        return None
    try:
        folder, *_, name = Path(path).relative_to(media_root).parts
    except ValueError:
        return None
    new = str(target_id)
    return str(
        media_root / folder / str(target_user) / new[0:2] / new[2:4] / name.replace(str(source_id), str(target_id))
    )


def _differs(file: GeneratedFile) -> tuple[str, str] | None:
    """Return in what the contents differ; a copy may go while it is read, and so may its source."""
    try:
        same = filecmp.cmp(file.source, file.copy, shallow=False)
    except FileNotFoundError:
        return None if _stat(file.source) is None else ("missing", "is not there")
    return None if same else ("content", f"has other bytes than the source's {file.source}")


def _wrong_content(file: GeneratedFile) -> tuple[str, str] | None:
    if file.private:
        return None if _differs(file) else ("private", f"is the source's {file.source}, of a photo that is not shared")
    return None if file.own else _differs(file)


def compare_files(files: Sequence[GeneratedFile]) -> Iterator[Difference]:
    """Compare each file of the copies with its source's.

    A source's file that is missing is not the copy's fault. Another inode with the same bytes is right where
    hard links cannot be; it is wrong (it will not follow the source) where this very job has hard links to
    the same device in the same folder.
    """
    filecmp.clear_cache()
    own: list[tuple[GeneratedFile, tuple[str, str, int]]] = []
    linked: set[tuple[str, str, int]] = set()
    for file in files:
        source, copy = _stat(file.source), _stat(file.copy)
        if source is None:
            continue
        if copy is None or not stat.S_ISREG(copy.st_mode):
            yield file.differs("missing", "is not there")
            continue
        if os.path.samestat(source, copy):
            if file.shared:
                linked.add(_place(file, copy))
            else:
                yield file.differs("inode", f"is the same file as the source's {file.source}")
        elif (words := _wrong_content(file)) is not None:
            yield file.differs(*words)
        elif file.shared and source.st_dev == copy.st_dev:
            own.append((file, _place(file, copy)))
    for file, place in own:
        if place in linked:
            yield file.differs("inode", f"is no hard link to {file.source}, though others of its job are")


def check_checksums(
    pairs: Mapping[UUID, Pair],
    originals: Sequence[tuple[UUID, str, bytes, int]],
    contents: Mapping[UUID, tuple[bytes, bool]],
) -> Iterator[Difference]:
    """Compare with the hash of the path, which Immich gives to assets of external libraries.

    With the hash of the content, the target's phone would not back up the user's own file of the same photo. But the
    copy of a video that was taken out of a photo (Android) must have that: Immich would take it out again at the next
    look into the photo, and delete the copy. ``contents``: that hash, and whether somebody else has it there.
    """
    for target, path, checksum, _ in originals:
        of_path = hashlib.sha1(b"path:" + path.encode(), usedforsecurity=False).digest()
        if pairs[target].extracted:
            content, taken = contents[target]
            if checksum != content and not (taken and checksum == of_path):
                yield pairs[target].differs(
                    "asset.checksum", f"{checksum.hex()} is not the hash of the content of {path}"
                )
        elif checksum != of_path:
            yield pairs[target].differs("asset.checksum", f"{checksum.hex()} is not the hash of path:{path}")


def check_originals(
    pairs: Mapping[UUID, Pair], copies: Iterable[tuple[UUID, str, int]], media_root: Path
) -> Iterator[Difference]:
    """Check the link and the recorded time of each copy's original.

    ``copies`` are (copy's id, its originalPath, its fileModifiedAt in microseconds). Immich compares that
    time, in milliseconds, with the file at every library scan and processes the photo again if they differ.
    """
    real_media = os.path.realpath(media_root)
    folders = _Folders()
    for target, path, modified in copies:
        pair = pairs[target]
        source = _stat(pair.source_path)
        if source is not None:
            off = abs(modified * 1000 - source.st_mtime_ns)
            # What no date can say, Immich has in its own words.
            if _FIRST <= source.st_mtime < _END and (off > 500_000 or modified % 1000):
                yield pair.differs(
                    "asset.fileModifiedAt",
                    f"is {modified / 1e6:.6f} s, the original's is {source.st_mtime_ns / 1e9:.6f} s",
                )
            # A motion part from elsewhere is its still's, wherever it lies.
            placed = _below(pair.source_path, pair.job.source_path_prefix)
            if pair.job.kind == "uploads" and placed and not _below_media(folders, pair.source_path, media_root):
                yield pair.differs("source.path", f"{pair.source_path} leads out of the media root")
        if path == pair.path and (fault := _link_fault(pair, source is not None, folders, real_media)):
            yield pair.differs(*fault)


def _link_fault(pair: Pair, there: bool, folders: "_Folders", real_media: str) -> tuple[str, str] | None:
    if folders.real_folder(pair.job.target_path_prefix) == folders.real_folder(pair.job.source_path_prefix):
        # The target prefix leads through a symlinked directory to the source's folder: both paths are one file.
        return None
    try:
        text = os.readlink(pair.path)  # noqa: PTH115 - Path normalises, and the text must be exact
    except OSError:
        kind = "is no symlink" if os.path.lexists(pair.path) else "is not there"
        return "original.link", f"{pair.path} {kind}"
    if text != pair.source_path:
        return "original.link", f"{pair.path} leads to {text}, not to {pair.source_path}"
    if there and _stat(pair.path) is None:
        return "original.link", f"{pair.path} leads nowhere"
    if _below(folders.real_folder(os.path.dirname(pair.path)), real_media):  # noqa: PTH120
        return "original.media", f"{pair.path} is a symlink below the media root"
    return None


def _below_media(folders: "_Folders", path: str, media_root: Path) -> bool:
    """Tell whether a file is below the media root, or where its folder there leads, as to another disk."""
    folder = path.removeprefix(f"{media_root}/").partition("/")[0]
    real = folders.real(path)
    return any(_below(real, os.path.realpath(root)) for root in (media_root, media_root / folder))


def _is_named(path: str, named: Collection[str]) -> bool:
    """Tell whether rows name a link by another name, which its file system takes for the same."""
    alike = [name for name in named if _alike(name) == _alike(path)]
    return any(os.path.samestat(os.lstat(name), os.lstat(path)) for name in alike if os.path.lexists(name))


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def find_orphan_links(jobs: Iterable[Job], named: Collection[str], media_root: Path) -> Iterator[Difference]:
    """Find symlinks under the jobs' target prefixes that no row of the target names.

    Where the prefix itself leads to the source's files, nothing there is ours.
    """
    for job in jobs:
        prefix = os.path.realpath(job.target_path_prefix)
        if _below(prefix, os.path.realpath(job.source_path_prefix)) or _below(prefix, os.path.realpath(media_root)):
            continue
        for path in _walk(job.target_path_prefix):
            orphan = path not in named and os.path.islink(path) and not os.path.isdir(path)  # noqa: PTH112, PTH114
            if orphan and not _is_named(path, named):
                yield Difference("original.orphan", job.name, None, None, f"{path} belongs to no row")


def find_orphan_files(
    jobs: Iterable[Job],
    named: Collection[str],
    begun: Collection[str],
    ours: Callable[[UUID, str], bool],
    media_root: Path,
) -> Iterator[Difference]:
    """Find files of copies in the target users' folders of generated files that no row of theirs names.

    ``begun``: ids of copies that could not be made so far, each recorded as a failure; their files are known.
    ``ours``: tells for a target user whether an id is a copy's or a mirrored person's. Other files are Immich's own.
    """
    users = {job.target_user_id: job.name for job in reversed(list(jobs))}
    for user, job_name in users.items():
        for folder in GENERATED_FOLDERS:
            for path in _walk(str(media_root / folder / str(user))):
                id_ = path.rpartition("/")[2][:36]
                if path not in named and id_ not in begun and ours(user, id_):
                    yield Difference("file.orphan", job_name, None, None, f"{path} belongs to no row")


def leads_to_source(job: Job) -> bool:
    """Return True where the job's target prefix is, through a symlinked directory, the source's own folder."""
    return os.path.realpath(job.target_path_prefix) == os.path.realpath(job.source_path_prefix)


def unsafe(path: str) -> bool:
    """Return True for a path with a ``..``: it may leave its prefix."""
    return ".." in path.split("/")


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - many thousands of calls
    except OSError:
        return None


def _place(file: GeneratedFile, copy: os.stat_result) -> tuple[str, str, int]:
    return (file.job, Path(file.copy).parts[-5], copy.st_dev)


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _walk(top: str) -> Iterator[str]:
    for folder, folders, names in os.walk(top):
        yield from (f"{folder}/{name}" for name in names)
        # A symlink to a folder stands among the folders and is not entered; it may still be ours.
        yield from (path for name in folders if os.path.islink(path := f"{folder}/{name}"))  # noqa: PTH114


class _Folders:
    """Real paths, each folder resolved once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def real_folder(self, folder: str) -> str:
        if folder not in self._known:
            self._known[folder] = os.path.realpath(folder)
        return self._known[folder]

    def real(self, path: str) -> str:
        if os.path.islink(path):  # noqa: PTH114
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        return f"{self.real_folder(folder)}/{name}"
