"""The whole first path: a real Immich's writes, the triggers, the listener as a process, finished copies."""

from pathlib import Path

import pytest

from listener.standin.player import Player
from tests.conftest import ImmichDatabase, Roots
from tests.house import House, share

UPLOADED = ("start", "upload photos", "upload live photo", "upload video", "external library scan")
LEAVING = ("two trashed", "one restored", "one deleted for good", "moved to the locked folder")


@pytest.fixture
def house(immich: ImmichDatabase, roots: Roots, player: Player, tmp_path: Path) -> House:
    made = share(immich, roots, player.recording.owner_id, tmp_path, photos=str(roots.external / "carol" / "photos"))
    made.install_triggers()
    return made


@pytest.mark.parametrize("immich", ["2.7.5", "3.0.3"], indirect=True)
def test_after_each_step_the_judge_finds_nothing(house: House, player: Player) -> None:
    with house.running():
        for step in player.steps:
            player.play_step(step)
            if step in UPLOADED or step in LEAVING:
                report = house.settled()
    assert report.copies == 29
