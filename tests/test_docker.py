"""The container files: linted, complete, and in step with the settings and with pyproject.toml."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from listener import inputs

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
# Older names work but are not advertised as settings of their own.
OLDER = {"SYNC_INTERVAL_SECONDS"}
# Read by compose itself, not by the listener.
BY_COMPOSE = {"UPLOAD_LOCATION", "EXTERNAL_LIBRARY_DIR", "PUID", "PGID"}


def service() -> dict[str, Any]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["networks"] == {"immich": {"name": "immich_default", "external": True}}
    listener: dict[str, Any] = compose["services"]["listener"]
    return listener


def check(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_is_clean() -> None:
    check(str(BIN / "hadolint"), "Dockerfile")


def test_compose_follows_its_schema() -> None:
    check(
        str(BIN / "check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        "--no-cache",
        "docker-compose.yml",
    )


def test_every_setting_is_in_the_example_and_nothing_else() -> None:
    text = (ROOT / ".env.example").read_text()
    offered = re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", text, re.MULTILINE)
    assert len(offered) == len(set(offered))
    assert set(offered) == (set(inputs.variable_names()) - OLDER) | BY_COMPOSE
    assert all(name in text for name in OLDER)


def test_the_example_shows_the_real_defaults() -> None:
    shown = dict(re.findall(r"^# ([A-Z][A-Z_]+)=(.+)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    for name, info in inputs.Variables.model_fields.items():
        if name.upper() in shown and name != "http_host":
            assert shown[name.upper()] == str(info.default), name


def test_compose_passes_every_setting_on() -> None:
    assert service()["env_file"] == ".env"
    assert "environment" not in service(), "it would win over .env"


def test_compose_mounts_immichs_paths_as_the_settings_expect_them() -> None:
    def default(name: str) -> str:
        return str(inputs.Variables.model_fields[name].default)

    media, libraries = service()["volumes"]
    assert media.startswith("${UPLOAD_LOCATION:?")
    assert media.endswith(":${UPLOAD_LOCATION_MOUNT:-" + default("upload_location_mount") + "}")
    assert libraries.startswith("${EXTERNAL_LIBRARY_DIR:?")
    assert libraries.endswith(":${EXTERNAL_LIBRARY_MOUNT:-" + default("external_library_mount") + "}")


def test_compose_grants_little() -> None:
    listener = service()
    assert listener["user"] == "${PUID:-0}:${PGID:-0}"
    assert listener["read_only"] is True
    assert listener["cap_drop"] == ["ALL"]
    assert listener["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in listener
    assert "ports" not in listener


def test_no_secret_reaches_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    needed = {name for words in copied for name in words.split()}
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == needed
    assert all((ROOT / name).exists() for name in needed - {"sql"})


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text()
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)
    }


def test_the_lock_satisfies_the_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = locked()
    for text in project["dependencies"]:
        wanted = Requirement(text)
        pinned = pins.get(canonicalize_name(wanted.name))
        assert pinned is not None, f"{wanted.name} is not in requirements.lock: lock again"
        assert wanted.specifier.contains(pinned), f"{wanted} but {pinned} is locked: lock again"
    # What the extras bring in is locked, too.
    assert {"psycopg-binary", "psycopg-pool", "pyyaml"} <= set(pins)


def test_every_locked_package_has_hashes_and_no_index_is_named() -> None:
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked())
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "--index" not in text


@pytest.mark.parametrize("name", [".pre-commit-config.yaml", "docker-compose.yml", "config.example.yaml"])
def test_yaml_files_parse(name: str) -> None:
    assert yaml.safe_load((ROOT / name).read_text())
