"""Reads ``config.yaml`` and other small text files that people write, and trusts none of them."""

import stat
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from listener.inputs import ConfigFile, near, shown

_LIMIT = 256 * 1024  # bytes: about a thousand jobs


class UnusableFileError(Exception):
    """Why a file cannot be used; the text follows the file's name."""


def read_text(path: Path, limit: int) -> str:
    """Return a UTF-8 file of at most ``limit`` bytes. Raises UnusableFileError."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            # Docker makes an empty folder where the file to mount is missing.
            raise UnusableFileError("is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise UnusableFileError("is not an ordinary file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise UnusableFileError(f"is larger than {limit // 1024} KiB")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise UnusableFileError("is not there") from None
    except UnicodeDecodeError:
        raise UnusableFileError("is not UTF-8 text") from None
    except (OSError, ValueError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "its name is not usable"
        raise UnusableFileError(f"cannot be read: {reason}") from None


class _PlainLoader(yaml.BaseLoader):
    """YAML as plain texts, lists and mappings.

    A text stays as written (a job may be named ``no``), no alias can blow up, and a key that stands twice
    is an error.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not supported", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    what = f"{key.value!r} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_config(path: Path, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each job of the file with the words that say where it stands."""
    file = path.name
    try:
        loader = _PlainLoader(read_text(path, _LIMIT))
        try:
            document = loader.get_single_data()
        finally:
            loader.dispose()
    except UnusableFileError as failure:
        problems.append(f"CONFIG_FILE: {file} {failure}. Correct the file, or remove it.")
        return
    except RecursionError:
        problems.append(f"CONFIG_FILE: {file} is nested too deeply. Write a plain list of sync_jobs.")
        return
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        what = getattr(failure, "problem", None) or "it holds characters that YAML does not allow"
        problems.append(f"CONFIG_FILE: {file} is not usable YAML{where}: {what}. Correct that line.")
        return
    keys = list(ConfigFile.model_fields)
    if document is not None and not isinstance(document, dict):
        problems.append(f"CONFIG_FILE: {file} is not a mapping. Begin it with sync_jobs: and a list of jobs.")
        return
    problems.extend(
        f"{key} ({file}): is not a known key. {near(str(key), keys)}" for key in document or {} if key not in keys
    )
    jobs = (document or {}).get("sync_jobs")
    if not isinstance(jobs, list) or not jobs:
        problems.append(f"sync_jobs ({file}): is missing or not a list. List at least one job under it.")
        return
    for number, job in enumerate(jobs, start=1):
        if not isinstance(job, dict):
            problems.append(f"sync_jobs ({file}): job {number} is not a mapping. Write key: value lines.")
            continue
        given = {str(key): value for key, value in job.items() if value not in ("", "~", "null")}
        name = shown(given["name"]) if "name" in given else ""
        yield f"{file}, job {number} {name}".rstrip(), given
