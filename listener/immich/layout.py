"""Where files are: the paths of a copy, and the walls around what may be touched.

All paths are as Immich's server sees them, which is also how we see them. A path is refused, with words, when
it could lead out of its folder: by ``..``, by an empty part, or by a symlink.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from uuid import UUID

from listener.faults import EveryonesError
from listener.settings import Job, Settings
from listener.threads import Lane, lane_of

# A folder that is never made, below the target prefix.
NOWHERE = ".nowhere"
# Folders below the media root that Immich names files of assets by id in.
_FILE_FOLDERS = ("thumbs", "encoded-video")
# All folders that Immich has in its media root. Each may be a symlink to another disk.
_MEDIA_FOLDERS = (*_FILE_FOLDERS, "upload", "library", "profile")
# Folder below a target prefix for motion parts that are in no place of their job.
_MOTION_PARTS = "motion-parts"
# What `apart` puts at the end of a name.
_APART = re.compile("~[0-9a-f]{8}$")
# What tells a folder from another at the same path, as from the mount point below it: device and inode, or a device.
Identity = tuple[int, ...]


class RefusedPathError(Exception):
    """A path leads out of where it must stay. The text names the path and the folder."""


class SwappedError(EveryonesError):
    """Another folder is where one of Immich's was a moment ago, or none: a disk came or went. The text names it.

    Or a prefix of a job leads elsewhere than it did when the jobs were judged.
    """


@dataclass(frozen=True, slots=True)
class Root:
    """A folder below which something is made or removed, and which folder it was when we began; None if not known."""

    path: Path
    was: Identity | None = None

    def confirm(self, now: Identity | None) -> None:
        """Raise SwappedError unless the folder that is here now is the one that was."""
        if self.was is not None and self.was != (now and now[: len(self.was)]):
            raise SwappedError(
                f"{self.path} is not the folder that it was: a disk was mounted or unmounted, or its file system has "
                f"given it another number (device and inode {self.was} before, {now} now)"
            )


@dataclass(frozen=True, slots=True)
class Layout:
    """The roots that Immich and we both see.

    more: roots of external libraries beside the first one. seen: which folders they were when we began, see `as_seen`.
    Where that is known, nothing is made or removed in others. leads: where paths led then, through symlinks. Whatever
    depends on that is judged by it, and by nothing that is looked up later.
    """

    media_root: Path
    external_root: Path
    more: tuple[Path, ...] = ()
    seen: Mapping[Path, Identity] = field(default_factory=dict, compare=False)
    leads: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        """Return the layout that the settings name."""
        return cls(settings.media_root, settings.external_root, settings.more_roots)

    @property
    def external_roots(self) -> tuple[Path, ...]:
        """All roots of external libraries."""
        return (self.external_root, *self.more)

    @property
    def media(self) -> Root:
        """The media root, and which folder it was."""
        return Root(self.media_root, self.seen.get(self.media_root))

    def media_of(self, path: str) -> Root:
        """Return the root of a file of Immich's: the media root, or where one of its folders leads, if out of it."""
        name = plain(path).removeprefix(f"{self.media_root}/").partition("/")[0]
        if below(path, str(self.media_root)) and name in _MEDIA_FOLDERS:
            folder = self._elsewhere(name)
            if folder is not None:
                return Root(folder, self.seen.get(folder))
        return self.media

    def _elsewhere(self, name: str) -> Path | None:
        """Return where a folder of the media root leads, if out of it, as to another disk."""
        leads = self.leads_to(f"{self.media_root}/{name}")
        return None if _is_inside(leads, self.leads_to(str(self.media_root))) else Path(leads)

    def external_of(self, path: str) -> Root:
        """Return the root of the external libraries that a path is below: the deepest, or the first for one of none."""
        holding = [root for root in self.external_roots if _is_inside(path, str(root))]
        root = max(holding, key=lambda each: len(str(each)), default=self.external_root)
        return Root(root, self.seen.get(root))

    def holds(self, path: str) -> bool:
        """Tell whether a path is one of the roots, or below one."""
        return any(_is_inside(path, str(root)) for root in (self.media_root, *self.external_roots))

    def is_external(self, path: str) -> bool:
        """Tell whether a path is below one of the roots of external libraries."""
        return any(path.startswith(f"{root}/") for root in self.external_roots)

    def lane(self, job: Job) -> Lane:
        """Return the threads of one job's work on files."""
        return lane_of(*(str(folder) for folder in self._needed(job)))

    def _needed(self, job: Job) -> list[Path]:
        generated = [self.media_root / name for name in _FILE_FOLDERS]
        prefixes = [job.source_path_prefix, job.target_path_prefix]
        roots = [self.media_root, *(self.external_of(prefix).path for prefix in prefixes)]
        return list(dict.fromkeys([*roots, *generated, *map(Path, prefixes)]))

    def of_job(self, job: Job) -> "Layout":
        """Return this layout with what one job needs: a folder of another one's may be away, or not answer."""
        elsewhere = {self._elsewhere(name) for name in _MEDIA_FOLDERS}
        mine = {*self._needed(job), *(self.media_root / name for name in _MEDIA_FOLDERS), *elsewhere}
        return replace(
            self,
            seen={folder: was for folder, was in self.seen.items() if folder in mine},
            leads={path: led for path, led in self.leads.items() if Path(path) in mine},
        )

    def as_seen(self, others: Iterable[Path] = (), *, silent: Collection[Path] = ()) -> "Layout":
        """Return this layout with the folders that are there now, and others; those that are not are not asked for.

        The roots must stay the same folders. Of those below them only the disk counts: some file systems give folders
        new inode numbers as they go. And where the others and Immich's own folders lead is noted: a folder that is made
        where there was none leads nowhere else. silent: those of the others that do not answer: nothing is asked of
        them, nor judged by them.
        """
        others = [path for path in others if path not in silent]
        media = [self.media_root / name for name in _MEDIA_FOLDERS]
        below = {*(self.media_root / name for name in _FILE_FOLDERS), *others} - {self.media_root, *self.external_roots}
        noted = (*others, *self.external_roots, self.media_root, *media)
        leads = {str(path): os.path.realpath(path) for path in noted} | {str(path): str(path) for path in silent}
        known = replace(self, leads=leads)
        roots = {self.media_root, *self.external_roots}
        roots |= {folder for name in _MEDIA_FOLDERS if (folder := known._elsewhere(name)) is not None}  # noqa: SLF001 - our own
        found = {folder: identity(folder) for folder in roots}
        found |= {folder: at and at[:1] for folder in below - roots for at in [identity(folder)]}
        return replace(known, seen={folder: at for folder, at in found.items() if at is not None})

    def confirm(self) -> None:
        """Raise SwappedError unless all folders are those that were seen, and lead where they led."""
        for folder, was in self.seen.items():
            Root(folder, was).confirm(identity(folder))
        media = os.path.realpath(self.media_root)
        for path, led in self.leads.items():
            above, name = os.path.split(path)
            # Asked for each file that is removed: one look is enough for a folder that is no symlink.
            own = above == str(self.media_root) and not os.path.islink(path)  # noqa: PTH114
            leads = f"{media}/{name}" if own else os.path.realpath(path)
            if leads != led:
                raise SwappedError(
                    f"{path} leads to {leads} now, and led to {led} when the jobs were judged: they are judged anew"
                )

    def leads_to(self, path: str) -> str:
        """Return where a path leads through symlinks; where that was noted when we began, what was noted."""
        return self.leads.get(path) or os.path.realpath(path)

    def relative(self, path: str, root: str) -> str:
        """Return ``path`` below ``root``, without slashes and dots that mean nothing.

        Raises RefusedPathError if it is not plainly below it.
        """
        if "\0" in path or not below(path, root):
            raise RefusedPathError(f"the path {path!r} is not plainly below {root!r}")
        return plain(path).removeprefix(root + "/")

    def copy_original(self, job: Job, source_original: str, motion_part: UUID | None = None) -> str:
        """Return the path of a copy's original: the source's, moved from the source prefix to the target prefix.

        motion_part: the source's id, if it is the motion part of a live photo: one that lies elsewhere (Android, in a
        library: with Immich) gets a place of its own, by its id.
        """
        if job.kind == "uploads" and motion_part is None and not below(source_original, str(self.media_root)):
            raise RefusedPathError(
                f"the upload lies at {source_original!r}, outside Immich's media root {str(self.media_root)!r}: "
                "correct its path in Immich, or UPLOAD_LOCATION_MOUNT"
            )
        if motion_part is not None and not below(source_original, job.source_path_prefix):
            return f"{job.target_path_prefix}/{_MOTION_PARTS}/{motion_part}{Path(source_original).suffix}"
        return f"{job.target_path_prefix}/{self.relative(source_original, job.source_path_prefix)}"

    def is_place_of(self, job: Job, path: str, original: str) -> bool:
        """Tell whether the link of a copy of this original is at this path, be it one that was set apart."""
        place = PurePosixPath(path)
        plain = place.with_name(f"{_APART.sub('', place.stem)}{place.suffix}")
        with contextlib.suppress(RefusedPathError):
            return self.copy_original(job, original) in {path, str(plain)}
        return False

    def nowhere(self, job: Job, target_id: UUID, suffix: str) -> str:
        """Return a path at which nothing is, for a copy that is put away: its own place is free for another then."""
        return f"{job.target_path_prefix}/{NOWHERE}/{target_id}{suffix}"

    def copy_file(self, source_path: str, source_id: UUID, target_id: UUID, target_user: UUID, kind: str) -> str:
        """Return the path of a copy's generated file, named as Immich names it.

        ``thumbs/<source user>/aa/bb/<source id>_preview.jpeg`` becomes
        ``thumbs/<target user>/cc/dd/<target id>_preview.jpeg``; the separator before the file's kind differs
        between releases and stays as it is.
        """
        parts = self.relative(source_path, str(self.media_root)).split("/")
        folder = parts[0] if parts[0] in _FILE_FOLDERS else _FILE_FOLDERS[0]
        name = parts[-1]
        if str(source_id) in name:
            name = name.replace(str(source_id), str(target_id))
        else:
            name = f"{target_id}_{kind}{Path(name).suffix}"
        return str(self._user_folder(folder, target_user, target_id) / name)

    def person_thumbnail(self, person_id: UUID, target_user: UUID, suffix: str) -> str:
        """Return the path of a mirrored person's thumbnail."""
        return str(self._user_folder("thumbs", target_user, person_id) / f"{person_id}{suffix}")

    def folders_of(self, target_id: UUID, target_user: UUID) -> tuple[Path, ...]:
        """Return the folders in which files of this copy can be."""
        return tuple(self._user_folder(folder, target_user, target_id) for folder in _FILE_FOLDERS)

    def user_folders(self, user: UUID) -> tuple[Path, ...]:
        """Return the folders in which all generated files of a user are."""
        return tuple(self.media_root / folder / str(user) for folder in _FILE_FOLDERS)

    def _user_folder(self, folder: str, user: UUID, id_: UUID) -> Path:
        text = str(id_)
        return self.media_root / folder / str(user) / text[0:2] / text[2:4]

    def inside_media(self, path: str) -> Path:
        """Return the path, sure to stay below the media root. Raises RefusedPathError."""
        return _inside(path, self.media_of(path).path)

    def inside_roots(self, path: str) -> Path:
        """Return the path of an original, sure to stay below one of the roots. Raises RefusedPathError."""
        for root in self.external_roots:
            with contextlib.suppress(RefusedPathError):
                return _inside(path, root)
        return self.inside_media(path)


def plain(path: str) -> str:
    """Return a path without the slashes and dots that mean nothing."""
    return "/" + "/".join(part for part in path.split("/") if part not in {"", "."})


def below(path: str, folder: str) -> bool:
    """Tell whether a path is below a plain folder by the letter; the rule of ``pg_temp.below`` (session.sql)."""
    return plain(path).startswith(folder + "/") and ".." not in path.split("/")


def apart(path: str, source_id: UUID) -> str:
    """Return the place of a copy whose own place, to the file system, is another one's: by the source's id."""
    place = PurePosixPath(path)
    return str(place.with_name(f"{place.stem}~{str(source_id)[:8]}{place.suffix}"))


def identity(folder: Path) -> Identity | None:
    """Return what tells a folder from another one at the same path; None where there is none, or it cannot be read."""
    with contextlib.suppress(OSError):
        # Through the folder: what is mounted when it is used (autofs) is mounted then.
        found = os.stat(f"{folder}/.")  # noqa: PTH116 - a Path drops the dot
        return found.st_dev, found.st_ino
    return None


def empty(folder: Path) -> str | None:
    """Return in words why nothing can be in a folder, as in a mount point without its disk; None where something is."""
    try:
        with os.scandir(folder) as entries:
            return "is empty" if next(entries, None) is None else None
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _inside(path: str, root: Path) -> Path:
    real_root = os.path.realpath(root)
    real = os.path.realpath(path)
    if ".." in path.split("/") or not _is_inside(real, real_root):
        raise RefusedPathError(f"the path {path!r} leads out of {str(root)!r}, to {real!r}")
    return Path(path)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def path_checksum(path: str) -> bytes:
    """Return the checksum that Immich gives an external asset: of its path, not of its content."""
    return hashlib.sha1(b"path:" + path.encode(), usedforsecurity=False).digest()
