"""The whole path: a real Immich's writes, the triggers, the listener as a process, finished copies."""

import sys
from pathlib import Path

import pytest

from listener.standin.player import Player
from tests.conftest import ImmichDatabase, Roots
from tests.house import House, share


@pytest.fixture
def house(immich: ImmichDatabase, roots: Roots, player: Player, tmp_path: Path) -> House:
    folder = "grace" if immich.release == "3.1.0" else "carol"
    made = share(immich, roots, player.recording.owner_id, tmp_path, photos=str(roots.external / folder / "photos"))
    made.install_triggers()
    return made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("immich", ["2.7.5", "3.0.3"], indirect=True)
def test_after_each_of_the_32_steps_the_judge_finds_nothing(house: House, player: Player) -> None:
    assert len(player.steps) == 32
    copies = {}
    with house.running():
        for step in player.steps:
            player.play_step(step)
            copies[step] = house.settled().copies
    assert copies["external library scan"] == 31
    assert copies["two trashed"] == 29
    assert copies["one restored"] == 30
    assert copies["moved to the locked folder"] == 29
    assert copies["external file vanished"] == 28
    assert copies["forced face detection of everybody"] == 29


@pytest.mark.timeout(300)
@pytest.mark.parametrize("immich", ["3.1.0"], indirect=True)
def test_after_each_of_the_65_steps_the_judge_finds_nothing(house: House, player: Player) -> None:
    """Live and motion photos, a motion part of two stills, albums, tags, watching, crops, and what is forced."""
    assert len(player.steps) == 65
    with house.running():
        for step in player.steps:
            sys.stdout.write(f"{step}\n")  # shown where it fails
            player.play_step(step)
            house.settled()
