"""Good settings to begin with, and the problems of bad ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from listener import settings
from listener.settings import SettingsError

ALICE = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
BOB = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
CAROL = "cccccccc-cccc-4ccc-8ccc-cccccccccccc"
LIBRARY = "dddddddd-dddd-4ddd-8ddd-dddddddddddd"
EXTERNAL = {
    "SHARED_PATH_PREFIX": "/external_library/alice/",
    "SOURCE_USER_ID": ALICE,
    "TARGET_USER_ID": BOB,
    "TARGET_LIBRARY_ID": LIBRARY,
    "TARGET_PATH_PREFIX": "/external_library/bob/",
}
UPLOADS = {
    "UPLOAD_SOURCE_USER_ID": ALICE,
    "TARGET_USER_ID": BOB,
    "UPLOAD_TARGET_LIBRARY_ID": LIBRARY,
    "TARGET_UPLOAD_PATH_PREFIX": "/external_library/bob-uploads",
}


def job(**changes: Any) -> dict[str, Any]:
    """A good job of config.yaml; a change to None takes a key away."""
    values = {
        "name": "holidays",
        "source_user_id": ALICE,
        "target_user_id": BOB,
        "target_library_id": LIBRARY,
        "source_path_prefix": "/external_library/alice",
        "target_path_prefix": "/external_library/bob",
    } | changes
    return {key: value for key, value in values.items() if value is not None}


def write_config(folder: Path, *jobs: Mapping[str, Any]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"sync_jobs": [dict(one) for one in jobs]}))


def problems(environ: Mapping[str, str], folder: Path) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        settings.load(environ, folder)
    for line in caught.value.problems:
        assert "\n" not in line
        assert line.endswith((".", "?")), "each problem says what to do"
    return caught.value.problems


def only_problem(environ: Mapping[str, str], folder: Path) -> str:
    found = problems(environ, folder)
    assert len(found) == 1, found
    return found[0]
