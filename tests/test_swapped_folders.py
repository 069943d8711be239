"""An attacker who may write below our folders swaps one for a symlink between any two calls.

A check that is made before the use must hold at the use.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from listener.immich.layout import Layout
from listener.sync.clearing import remove_beside, remove_files
from listener.sync.files import FileProblemError, FileTask, OriginalLinks, place
from tests.tracing import everything

CALLS = (
    *(
        "stat",
        "lstat",
        "readlink",
        "open",
        "link",
        "symlink",
        "rename",
        "replace",
        "unlink",
        "remove",
        "mkdir",
        "rmdir",
    ),
    *("chmod", "chown", "lchown", "utime", "scandir", "listdir", "access"),
)


@dataclass
class Attacker:
    """Swaps a folder for a symlink just before the n-th call that has to do with files."""

    folder: Path
    victim: Path
    at: int
    calls: int = 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self._swap()
            return call(*args, **kwargs)

        return wrapped

    def _swap(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            _rename(self.folder, self.folder.with_name("away"))
        with contextlib.suppress(OSError):
            _symlink(self.victim, self.folder)


_rename, _symlink = os.rename, os.symlink


@dataclass(frozen=True, slots=True)
class Scene:
    """Bob's folder with links, his folder of thumbnails, and a folder of alice's that is none of his."""

    root: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.root / "data", self.root / "external_library")

    @property
    def links(self) -> OriginalLinks:
        return OriginalLinks(self.layout, str(self.root / "external_library" / "shared" / "bob"))

    @property
    def linked(self) -> Path:
        return self.root / "external_library" / "shared" / "bob" / "2024"

    @property
    def generated(self) -> Path:
        return self.root / "data" / "thumbs" / "bob" / "11"

    @property
    def picture(self) -> Path:
        return self.root / "data" / "thumbs" / "alice" / "p.jpeg"

    def build(self, victim: Path) -> None:
        for folder in (self.linked / "deep", self.generated, self.picture.parent, victim / "deep"):
            folder.mkdir(parents=True)
        self.picture.write_text("picture")
        for name in ("made.jpg", "moved.jpg", "gone.jpg"):
            (self.linked / name).symlink_to("/old") if name != "made.jpg" else None
            (victim / name).write_text("alice's") if name == "gone.jpg" else None
        (victim / "moved.jpg").symlink_to("/alice's own")
        (self.linked / "deep" / "last.jpg").symlink_to("/old")
        (self.generated / "id_old.jpeg").write_text("old")
        (victim / "id_old.jpeg").write_text("alice's")
        (victim / "id_there.jpeg").write_text("alice's")
        (self.generated / "id_there.jpeg").write_text("old")


DEEDS: Mapping[str, tuple[str, Callable[[Scene], object]]] = {
    "link": ("linked", lambda scene: scene.links.link(str(scene.linked / "made.jpg"), "/new")),
    "link anew": ("linked", lambda scene: scene.links.link(str(scene.linked / "moved.jpg"), "/new")),
    "link deeper": ("linked", lambda scene: scene.links.link(str(scene.linked / "b" / "c" / "made.jpg"), "/new")),
    "unlink": ("linked", lambda scene: remove_beside(
        scene.layout, str(scene.linked), str(scene.linked / "gone.jpg"))),
    "unlink the last": ("linked", lambda scene: remove_beside(
        scene.layout, str(scene.linked), str(scene.linked / "deep" / "last.jpg"))),
    "hardlink": ("generated", lambda scene: place(
        FileTask(str(scene.picture), str(scene.generated / "id_there.jpeg"), shared=True), scene.layout, "auto")),
    "copy": ("generated", lambda scene: place(
        FileTask(str(scene.picture), str(scene.generated / "id_there.jpeg"), shared=False), scene.layout, "auto")),
    "copy deeper": ("generated", lambda scene: place(
        FileTask(str(scene.picture), str(scene.generated / "a" / "id_new.jpeg"), shared=False), scene.layout, "auto")),
    "remove": ("generated", lambda scene: remove_files(
        scene.layout, [scene.generated], "id_", [str(scene.generated / "id_old.jpeg")])),
}  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS)
def test_a_folder_swapped_for_a_symlink_at_any_moment_leads_nowhere(
    deed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    which, act = DEEDS[deed]
    tries = 0
    while True:
        tries += 1
        scene = Scene(tmp_path.resolve() / str(tries))
        # Alice's folder is below the same root, where only the folder itself is forbidden; or outside the media root.
        victim = scene.root / ("external_library/alice/2024" if which == "linked" else "outside")
        scene.build(victim)
        links = scene.links
        assert not links.directory
        attacker = Attacker(getattr(scene, which), victim, at=tries)
        before = everything(victim)
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, attacker.wrap(getattr(os, name)))
            with contextlib.suppress(FileProblemError):
                act(scene)
        assert everything(victim) == before, f"swapped before call {tries}"
        if attacker.calls < tries:
            break
    assert tries > 5, "the attacker never came to act"
