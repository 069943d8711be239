"""What the actor writes when assets come from libraries, move, and go with the trash or their user, on 12 releases."""

import os
from pathlib import Path

from listener.standin.actor import NEW, Picture
from listener.standin.actor_files import look_at, modified_at
from tests.standin.stage import SUMMER, Stage, every_release

pytest_plugins = ("tests.standin.stage_fixtures",)


@every_release
def test_libraries(stage: Stage) -> None:
    photos = stage.roots.external / "carol"
    with stage.act("carol") as actor:
        library = actor.add_library(photos)
        first, second, third = actor.scan_library(
            library, ["a/1.jpg", "a/2.jpg", "b/3.mp4"], picture=Picture(SUMMER, faces=1)
        )
        row = actor.asset(first)
        assert (row["originalPath"], row["isExternal"]) == (str(photos / "a/1.jpg"), True)
        assert actor.asset(third)["type"] == "VIDEO"
        faces = {face["id"] for face in actor.faces_of(first)}
        actor.change_file(first, faces=2)
        (photos / "a/2.jpg").rename(photos / "a/4.jpg")
        (fourth,) = actor.scan_library(library)
        assert faces.isdisjoint(face["id"] for face in actor.faces_of(first))
        assert len(actor.faces_of(first)) == 2
        assert actor.asset(first)["fileModifiedAt"] == modified_at(photos / "a/1.jpg")
        offline = actor.asset(second)
        assert (offline["isOffline"], offline["status"]) == (True, "active")
        assert offline["deletedAt"]

        actor.set_exclusions(library, "**/b/**")
        assert actor.scan_library(library) == []
        assert actor.asset(third)["isOffline"]
        actor.set_exclusions(library, "**/*")
        actor.scan_library(library)
        assert all(actor.asset(asset)["isOffline"] for asset in actor.assets())
        actor.set_exclusions(library)
        actor.scan_library(library)
        assert {a: actor.asset(a)["isOffline"] for a in actor.assets()} == {
            first: False, second: True, third: False, fourth: False,
        }  # fmt: skip
        assert actor.asset(first)["deletedAt"] is None

        thumbnails = [Path(file["path"]) for file in actor.files_of(first)]
        actor.delete_library(library, finish=False)
        assert actor.asset(first)["deletedAt"]
        actor.delete_library(library)
        assert actor.assets() == []
        assert (photos / "a/1.jpg").exists(), "originals of a library that goes are not deleted"
        assert not any(path.exists() for path in thumbnails)


@every_release
def test_trash_and_purge_unlink_what_the_rows_name(stage: Stage) -> None:
    kept, apart, photos = (stage.roots.external / name for name in ("kept", "apart", "links"))
    for folder in (kept, apart, photos):
        folder.mkdir()
    (photos / "through").symlink_to(kept)
    with stage.act("carol") as actor:
        library = actor.add_library(photos)
        (photos / "link.jpg").symlink_to(apart / "1.jpg")
        linked, *through = actor.scan_library(library, ["link.jpg", "through/2.jpg", "through/3.jpg"])
        upload = actor.upload("a.jpg")
        actor.describe(upload, "text")
        original = Path(actor.asset(upload)["originalPath"])
        files = [Path(file["path"]) for file in actor.files_of(upload)]

        actor.trash(linked, upload)
        assert {actor.asset(asset)["status"] for asset in (linked, upload)} == {"trashed"}
        actor.restore(upload)
        assert (actor.asset(upload)["status"], actor.asset(upload)["deletedAt"]) == ("active", None)
        actor.empty_trash()
        assert linked not in actor.assets()
        assert not (photos / "link.jpg").is_symlink()
        assert (apart / "1.jpg").exists(), "only the link goes"

        actor.delete_for_good(upload)
        assert not any(path.exists() for path in (original, Path(f"{original}.xmp"), *files))

        actor.trash(through[0])
        actor.purge()
        assert through[0] in actor.assets()
        actor.purge(days=0)
        assert through[0] not in actor.assets()
        assert not (kept / "2.jpg").exists(), "Immich's unlink follows a linked folder"

        stage.all('UPDATE asset SET "isOffline" = true WHERE id = %s RETURNING 1', through[1])
        actor.delete_for_good(through[1])
        assert (kept / "3.jpg").exists() == (stage.release >= (2, 4))


@every_release
def test_files_move_and_change(stage: Stage) -> None:
    with stage.act("carol") as actor:
        asset = actor.upload("a.jpg", taken=SUMMER, template="2024/a.jpg")
        moved = Path(actor.asset(asset)["originalPath"])
        assert moved == stage.roots.media / "library" / str(actor.user_id) / "2024" / "a.jpg"
        actor.describe(asset, "text")
        other = actor.upload("a.jpg", template="2024/a.jpg")
        assert Path(actor.asset(other)["originalPath"]).name == "a+1.jpg"
        again = actor.move_by_storage_template(asset, "2020/b.jpg")
        assert look_at(again).taken == SUMMER
        assert not moved.exists()
        assert Path(f"{again}.xmp").exists()
        assert actor.refresh_metadata(asset)
        assert actor.exif(asset)["description"] == "text"
        assert stage.all("SELECT count(*) FROM move_history") == [(0,)]

        paths = {f["type"]: Path(f["path"]) for f in actor.files_of(asset) if f["type"] != "sidecar"}
        before = {path: (path.stat().st_ino, path.read_bytes()) for path in paths.values()}
        actor.refresh_thumbnails(asset)
        after = {path: (path.stat().st_ino, path.read_bytes()) for path in paths.values()}
        assert all(before[p][0] == after[p][0] and before[p][1] != after[p][1] for p in before)
        os.link(paths["preview"], stage.roots.media / "held")
        actor.refresh_thumbnails(asset, new_inode=True)
        assert paths["preview"].stat().st_nlink == 1
        new = actor.change_thumbnail_format(asset)
        assert new.suffix == ".jpeg"
        assert not paths["thumbnail"].exists()
        full = actor.make_fullsize(asset)
        assert {str(new), str(full)} < {file["path"] for file in actor.files_of(asset)}


@every_release
def test_a_removed_user_leaves_nothing(stage: Stage) -> None:
    with stage.act("carol") as carol, stage.act("bob") as bob:
        photos = stage.roots.external / "carol"
        one, two = carol.scan_library(carol.add_library(photos), ["1.jpg", "2.jpg"], picture=Picture(faces=1))
        upload = carol.upload("a.jpg", people=[NEW])
        original = Path(carol.asset(upload)["originalPath"])
        carol.stack(one, two)
        carol.album_create("Holidays", one)
        carol.tag("home", one)
        kept = bob.upload("b.jpg")
        bob.remove_user(carol.user_id, finish=False)
        assert one in carol.assets()
        bob.restore_user(carol.user_id)
        bob.remove_user(carol.user_id)
        assert stage.all("SELECT id FROM asset") == [(kept,)]
        counts = "(SELECT count(*) FROM {})"
        tables = ("album", "tag", "stack", "library", "person", "asset_face", "asset_file")
        (left,) = stage.all("SELECT " + ", ".join(counts.format(table) for table in tables))
        assert dict(zip(tables, left, strict=True)) == {**dict.fromkeys(tables, 0), "asset_file": 2}
        assert not original.exists()
        assert (photos / "1.jpg").exists()
