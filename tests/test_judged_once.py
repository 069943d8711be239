"""What a job's folders lead to is judged once: what was judged is what is worked with, and a change begins anew."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from listener.database import connect
from listener.immich import catalog
from listener.immich.api import Features
from listener.immich.layout import Layout, SwappedError
from listener.ops.metrics import Metrics
from listener.sync.files import OriginalLinks
from listener.sync.placing import Placer
from listener.sync.reconciler import Reconciler
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.disks import HEALS_WITHIN, healed
from tests.photos import PhotoHouse, evented_house


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


def becomes_a_symlink(carol: PhotoHouse) -> None:
    """As where somebody gives bob the folder itself, the older way."""
    prefix = Path(carol.house.jobs[0].target_path_prefix)
    if prefix.exists():
        prefix.rename(prefix.with_name("former"))
    prefix.symlink_to(carol.folder)


def becomes_a_folder(carol: PhotoHouse) -> None:
    prefix = Path(carol.house.jobs[0].target_path_prefix)
    prefix.unlink()
    prefix.mkdir()


@pytest.mark.parametrize("immich", ["2.3.1", "3.0.3"], indirect=True)
def test_a_prefix_that_becomes_a_symlink_gets_no_unguarded_copy(carol: PhotoHouse) -> None:
    carol.add(2)
    with carol.house.running() as process:
        healed(carol, 2, process)
        becomes_a_symlink(carol)
        (new,) = carol.add(1, start=100)
        words = "triggers install" if carol.house.immich.release == "3.0.3" else "upgrade Immich to 2.4"
        eventually(lambda: words in process.get("/readyz").text, within=HEALS_WITHIN, describe=lambda: process.output)
        assert "were judged: they are judged anew" in process.output
        assert process.metric("refused") == 1
        carol.house.sweep()
        # The other job goes on.
        (upload,) = carol.upload(1)
        eventually(lambda: carol.copied(upload), within=HEALS_WITHIN)
        assert not carol.copied(new)
        if carol.house.immich.release == "2.3.1":
            return
        # With the guard it is the older way, which is safe.
        carol.house.install_triggers()
        process.wait_ready()
        healed(carol, 4, process)
        becomes_a_folder(carol)
        eventually(lambda: carol.link(new).is_symlink(), within=HEALS_WITHIN, describe=lambda: process.output)
        healed(carol, 4, process)


@pytest.mark.parametrize("change", [becomes_a_symlink, becomes_a_folder])
async def test_a_prefix_that_is_swapped_in_the_middle_of_a_batch(
    carol: PhotoHouse, roots: Roots, monkeypatch: pytest.MonkeyPatch, change: Callable[[PhotoHouse], None]
) -> None:
    job = carol.house.jobs[0]
    if change is becomes_a_folder:
        becomes_a_symlink(carol)
    (photo,) = await asyncio.to_thread(carol.add, 1)
    prefixes = [Path(job.source_path_prefix), Path(job.target_path_prefix)]
    place = Placer.copies

    def swapped(self: Placer, *args: Any) -> object:
        change(carol)
        return place(self, *args)

    async with await connect(carol.house.immich.conninfo) as connection:
        reconciler = Reconciler.compose(
            await catalog.read(connection),
            layout=Layout(roots.media, roots.external).as_seen(prefixes),
            link_mode="auto",
            metrics=Metrics(),
            jobs=carol.house.jobs,
            features=lambda: Features(smart_search=False, facial_recognition=False, ocr=False),
            ml_wait=0,
            removal_limit=None,
        )
        monkeypatch.setattr(Placer, "copies", swapped)
        with pytest.raises(SwappedError, match="they are judged anew"):
            await reconciler.assets(connection, job, [photo.id])
    assert carol.copies() == 0


@pytest.fixture
def prefixes(roots: Roots) -> Sequence[Path]:
    source, target = roots.external / "carol", roots.external / "shared" / "bob"
    source.mkdir()
    return source, target


def test_a_prefix_that_is_made_is_no_change(roots: Roots, prefixes: Sequence[Path]) -> None:
    _, target = prefixes
    seen = Layout(roots.media, roots.external).as_seen(prefixes)
    target.mkdir(parents=True)
    seen.confirm()
    target.rmdir()
    seen.confirm()


def test_the_work_goes_by_what_was_judged(roots: Roots, prefixes: Sequence[Path]) -> None:
    source, target = prefixes
    target.mkdir(parents=True)
    seen = Layout(roots.media, roots.external).as_seen(prefixes)
    target.rmdir()
    target.symlink_to(source)
    assert not OriginalLinks(seen, str(target)).directory
    with pytest.raises(SwappedError, match=f"{target} leads to {source} now"):
        seen.confirm()
    seen = seen.as_seen(prefixes)
    seen.confirm()
    target.unlink()
    target.mkdir()
    assert OriginalLinks(seen, str(target)).directory
    with pytest.raises(SwappedError, match="judged anew"):
        seen.confirm()


def test_a_source_prefix_that_leads_elsewhere_is_a_change(roots: Roots, prefixes: Sequence[Path]) -> None:
    source, _ = prefixes
    seen = Layout(roots.media, roots.external).as_seen(prefixes)
    source.rename(source.with_name("elsewhere"))
    source.symlink_to("elsewhere")
    with pytest.raises(SwappedError, match="judged anew"):
        seen.confirm()
