"""Reads the environment, ``.env`` and ``config.yaml`` into frozen Settings and Jobs.

A value comes from the environment, else from ``.env`` in the working directory, else from its default.
Jobs come from ``config.yaml`` if that file is there, else from the single-job variables. Nothing outside
these files is touched, and all problems are found at once.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, quote_plus
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr, ValidationError

from listener import configfile, dburl, envfile, inputs, misspelt
from listener.inputs import ConfigFile, JobInput, Variables

# Connecting may not hang, and a dead peer is noticed within half a minute; a DB_URL may say otherwise.
_CONNECTION: dict[str, str | int] = {
    "application_name": "immich-shared-library",
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Milliseconds. Keepalives are for a wire on which nothing is under way; this is for the others.
    "tcp_user_timeout": 30_000,
}
_SECRET_LIMIT = 64 * 1024  # bytes


class SettingsError(Exception):
    """The settings cannot be used; ``problems`` holds one line for each reason."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Job:
    """One share: which photos of whom appear where in whose library.

    Prefixes are absolute, without a slash at the end, and as Immich's server sees them. album_id: an album of the
    target user that every copy is put into. tags: copies get the source's tags. duplicates: a photo that the target
    user has as an upload of their own gets no copy. remove_copies: the job makes none, and removes those it made.
    accept_risk: go on where nothing keeps Immich (before 2.4) from deleting originals through a symlinked directory, or
    where somebody else's library takes the copies in.
    """

    name: str
    kind: Literal["external", "uploads"]
    source_user_id: UUID
    target_user_id: UUID
    target_library_id: UUID
    source_path_prefix: str  # for uploads it is the media root
    target_path_prefix: str
    album_id: UUID | None = None
    tags: bool = True
    duplicates: bool = True
    remove_copies: bool = False
    accept_risk: bool = False

    @property
    def identity(self) -> str:
        """What makes two configurations of a job the same one: its name may differ."""
        return f"{self.kind}/{self.source_user_id}/{self.target_user_id}/{self.target_path_prefix}"


@dataclass(frozen=True, slots=True)
class RemovalLimit:
    """How many of a job's copies may go at once for no deed of their source's user: the larger of two numbers."""

    least: int
    percent: float

    def of(self, copies: int) -> float:
        """Return the limit where there are so many copies."""
        return max(self.least, copies * self.percent / 100)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the listener is told from outside. Times are seconds. Its repr holds no secret."""

    conninfo: str = field(repr=False)  # for libpq; holds the password: never log it
    media_root: Path  # as Immich's server sees it, and as we do
    external_root: Path
    jobs: tuple[Job, ...]
    api_url: str
    api_key: str | None = field(repr=False)
    reconcile_interval: float
    link_mode: Literal["auto", "hardlink", "copy"]
    workers: int
    ml_wait: float
    removal_limit: RemovalLimit | None  # None: any number may go
    http_host: str
    http_port: int  # 0: any free port
    log_level: str
    log_format: Literal["text", "json"]
    notes: tuple[str, ...] = ()  # lines for the log: what was set but has no effect, and why
    password_file: Path | None = None  # where the password in conninfo comes from, if from a file
    more_roots: tuple[Path, ...] = ()  # of external libraries, beside the first
    follows_immich: bool = False  # the media root is what Immich says (listener.roots), and what is here stands in


def load(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Return the settings from ``environ`` (default: the process's) and from the files in ``cwd``.

    Raises SettingsError with all problems. Reads files only; opens no connection.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    problems: list[str] = []
    notes: list[str] = []
    variables = inputs.read_variables(environ, cwd, problems, notes)
    settings = Settings(
        conninfo=_conninfo(variables, cwd, problems, notes),
        media_root=Path(variables.upload_location_mount),
        follows_immich="upload_location_mount" not in variables.model_fields_set,
        external_root=inputs.external_roots(variables)[0],
        more_roots=inputs.external_roots(variables)[1:],
        jobs=_jobs(variables, cwd, problems, notes),
        api_url=variables.immich_api_url,
        api_key=_secret(variables, "IMMICH_API_KEY", cwd, problems),
        reconcile_interval=variables.reconcile_interval_seconds,
        link_mode=variables.link_mode,
        workers=variables.workers,
        ml_wait=variables.ml_wait_seconds,
        removal_limit=None if variables.removal_limit is None else RemovalLimit(*variables.removal_limit),
        http_host=variables.http_host,
        http_port=variables.http_port,
        log_level=variables.log_level,
        log_format=variables.log_format,
        notes=(),
        password_file=cwd / variables.db_password_file if variables.db_password_file and not variables.db_url else None,
    )
    given = {*environ, *envfile.read(cwd / ".env", environ, []).values}
    (problems or notes).extend(misspelt.told(given, inputs.variable_names()))
    if problems:
        # A quoted value may hold anything; each problem stays one line.
        lines = (line if line.isprintable() else repr(line)[1:-1] for line in problems)
        raise SettingsError(tuple(dict.fromkeys(lines)))
    return replace(settings, notes=tuple(notes))


def with_password(settings: Settings) -> Settings:
    """Return the settings with the password that its file holds now. Raises SettingsError if there is none.

    Those whose password is not from a file stay as they are: the environment of a process cannot change.
    """
    if settings.password_file is None:
        return settings
    try:
        password = configfile.read_text(settings.password_file, _SECRET_LIMIT).rstrip("\r\n")
    except configfile.UnusableFileError as failure:
        raise SettingsError((f"DB_PASSWORD_FILE: {settings.password_file} {failure}",)) from failure
    if not password:
        raise SettingsError((f"DB_PASSWORD_FILE: {settings.password_file} is empty",))
    if password == conninfo_to_dict(settings.conninfo).get("password"):
        return settings
    return replace(settings, conninfo=make_conninfo(settings.conninfo, password=password))


def secrets(settings: Settings) -> tuple[str, ...]:
    """Return every text that may never be printed, longest first, in each form an error may quote."""
    password = str(conninfo_to_dict(settings.conninfo).get("password") or "")
    found = {settings.conninfo}
    for secret in (password, settings.api_key or ""):
        if secret and secret != inputs.DEFAULT_PASSWORD:
            in_conninfo = secret.replace("\\", r"\\").replace("'", r"\'")
            plain = (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), in_conninfo)
            found.update(plain)
            # As a traceback or a payload has them.
            found.update(quoted(text)[1:-1] for text in plain for quoted in (repr, ascii, json.dumps))
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def describe(settings: Settings) -> dict[str, object]:
    """Return the settings as plain values to show to people, secrets masked."""
    shown = asdict(settings)
    database = conninfo_to_dict(settings.conninfo)
    masked = {key: "***" for key in ("password", "sslpassword") if database.get(key)}
    shown["conninfo"] = {key: str(value) for key, value in database.items()} | masked
    shown["api_key"] = "***" if settings.api_key else None
    shown["password_file"] = None if settings.password_file is None else str(settings.password_file)
    shown["media_root"], shown["external_root"] = str(settings.media_root), str(settings.external_root)
    shown["more_roots"] = [str(root) for root in settings.more_roots]
    shown["jobs"] = [
        {key: str(value) if isinstance(value, UUID) else value for key, value in asdict(job).items()}
        for job in settings.jobs
    ]
    return shown


def schema() -> dict[str, Any]:
    """Return the JSON schema of ``config.yaml``."""
    return ConfigFile.model_json_schema()


# --- database and secrets ----------------------------------------------------------------------------------


def _secret(variables: Variables, name: str, cwd: Path, problems: list[str]) -> str | None:
    """Return a secret from its variable or from the file that its ``…_FILE`` variable names."""
    value: SecretStr | None = getattr(variables, name.lower())
    file_name: str | None = getattr(variables, f"{name.lower()}_file")
    where, text = name, value.get_secret_value() if value is not None else None
    if file_name is not None:
        where = f"{name}_FILE"
        if name.lower() in variables.model_fields_set:
            problems.append(f"{where}: {name} is set too. Keep one of the two.")
        try:
            text = configfile.read_text(cwd / file_name, _SECRET_LIMIT).rstrip("\r\n")
        except configfile.UnusableFileError as failure:
            problems.append(f"{where}: {file_name} {failure}. Set it to a file that holds the secret.")
            return None
        if not text:
            problems.append(f"{where}: {file_name} is empty. Write the secret into it.")
    if text is not None and not text.isprintable():
        problems.append(f"{where}: the secret holds characters that are not text. Write it on one line.")
        return None
    return text


def _conninfo(variables: Variables, cwd: Path, problems: list[str], notes: list[str]) -> str:
    if variables.db_url is None:
        ssl = dburl.with_ssl_mode({}, variables.db_ssl_mode) if variables.db_ssl_mode else {}
        return make_conninfo(
            "",
            host=variables.db_hostname,
            port=variables.db_port,
            user=variables.db_username,
            password=_secret(variables, "DB_PASSWORD", cwd, problems),
            dbname=variables.db_database_name,
            **{**_CONNECTION, **ssl},
        )
    others = {name.upper() for name in variables.model_fields_set if name.startswith("db_")} - {"DB_URL"}
    if others:
        notes.append(f"DB_URL is set: no effect has {', '.join(sorted(others))}")
    try:
        return make_conninfo("", **{**_CONNECTION, **dburl.parse(variables.db_url.get_secret_value().strip())})
    except dburl.DatabaseUrlError as failure:
        problems.append(f"DB_URL: {failure}. {dburl.TO_DO}.")
    except psycopg.Error:
        # libpq's own words may quote the password.
        problems.append(f"DB_URL: is not the address of a database. {dburl.TO_DO}.")
    return ""


# --- jobs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Draft:
    """The usable values of one job, and the words that name each of its keys to its author."""

    values: Mapping[str, Any]
    labels: Mapping[str, str]

    def label(self, key: str) -> str:
        return self.labels.get(key, key)

    def path(self, key: str) -> str | None:
        value = self.values.get(key)
        return value if isinstance(value, str) else None


def _jobs(variables: Variables, cwd: Path, problems: list[str], notes: list[str]) -> tuple[Job, ...]:
    before = len(problems)
    config = cwd / variables.config_file
    drafts: list[_Draft] = []
    if config.exists() or "config_file" in variables.model_fields_set:
        ignored = inputs.single_job_names() & {name.upper() for name in variables.model_fields_set}
        if ignored:
            notes.append(f"{config.name} is there: no effect has {', '.join(sorted(ignored))}")
        for where, given in configfile.read_config(config, problems):
            labels = {key: f"{key} ({where})" for key in (*JobInput.model_fields, *given)}
            drafts.append(_draft(given, labels, variables, problems))
    else:
        for names, given in inputs.single_jobs(variables, problems):
            drafts.append(_draft(given, names, variables, problems))
    places_given = not any(line.startswith(("UPLOAD_LOCATION_M", "EXTERNAL_LIBRARY_M")) for line in problems)
    if places_given:
        for draft in drafts:
            problems.extend(_check_places(draft, variables))
    for one, two in combinations(drafts, 2):
        problems.extend(_check_pair(one, two))
    return tuple(Job(**draft.values) for draft in drafts) if len(problems) == before else ()


def _draft(given: Mapping[str, Any], labels: Mapping[str, str], variables: Variables, problems: list[str]) -> _Draft:
    """Check each key by itself, so that one wrong value hides no other."""
    job = JobInput.model_construct()
    usable = {key for key, info in JobInput.model_fields.items() if not info.is_required()} - given.keys()

    def wrong(key: str, words: str) -> None:
        problems.append(f"{labels.get(key, key)}: {words}")

    for key, value in given.items():
        if key not in JobInput.model_fields:
            wrong(key, f"is not a known key. {inputs.near(key, list(JobInput.model_fields))}")
        else:
            try:
                setattr(job, key, value)
                usable.add(key)
            except ValidationError as failure:
                wrong(key, inputs.in_words(failure.errors()[0], JobInput.model_fields[key]))
    for key, info in JobInput.model_fields.items():
        external_prefix = key == "source_path_prefix" and job.kind == "external"
        if key not in given and (info.is_required() or external_prefix):
            wrong(key, f"is missing. Set it to {info.description}.")
    values = {key: getattr(job, key) for key in usable}
    if "kind" in usable and job.kind == "uploads":
        media_root = variables.upload_location_mount
        if values.get("source_path_prefix") not in (None, media_root):
            wrong("source_path_prefix", f"is always {media_root} for uploads. Leave it out.")
        values["source_path_prefix"] = media_root
    return _Draft(values, labels)


def _check_places(draft: _Draft, variables: Variables) -> Iterator[str]:
    roots, media_root = [str(root) for root in inputs.external_roots(variables)], variables.upload_location_mount
    users = draft.values.get("source_user_id"), draft.values.get("target_user_id")
    if users[0] is not None and users[0] == users[1]:
        yield f"{draft.label('target_user_id')}: is the source user too. Set it to another user's id."
    source, target = draft.path("source_path_prefix"), draft.path("target_path_prefix")
    if target is None:
        return
    words = f"{draft.label('target_path_prefix')}: {inputs.shown(target)}"
    if not any(target.startswith(root + "/") for root in roots):
        name = "EXTERNAL_LIBRARY_MOUNT" if len(roots) == 1 else "EXTERNAL_LIBRARY_MOUNTS"
        yield f"{words} is not below {name}. Set it to a folder below {' or '.join(f'{root}/' for root in roots)}."
    elif _inside(target, media_root):
        # Immich's integrity check follows symlinks below its media root.
        yield f"{words} is below UPLOAD_LOCATION_MOUNT. Set it to a folder outside {media_root}."
    elif _inside(media_root, target):
        yield f"{words} holds UPLOAD_LOCATION_MOUNT. Set it to a folder beside {media_root}."
    elif source is not None and _inside(target, source):
        yield f"{words} is inside the source's {source}. Set it to a folder outside it."
    elif source is not None and _inside(source, target):
        yield f"{words} holds the source's {source}. Set it to a folder beside it."


def _check_pair(one: _Draft, two: _Draft) -> Iterator[str]:
    name = inputs.shown(one.values.get("name"))
    if "name" in one.values and one.values["name"] == two.values.get("name"):
        yield f"{two.label('name')}: two jobs are named {name}. Give each its own name."
    who = ("kind", "source_user_id", "target_user_id")
    same = all(key in one.values and one.values[key] == two.values.get(key) for key in who)
    for key, matters, todo in (
        ("source_path_prefix", same, "between the same users. Share each photo by one job only."),
        ("target_path_prefix", True, "too. Give each job a target folder of its own."),
    ):
        a, b = one.path(key), two.path(key)
        if matters and a is not None and b is not None and (_inside(a, b) or _inside(b, a)):
            yield f"{two.label(key)}: {inputs.shown(b)} overlaps with {inputs.shown(a)} of job {name} {todo}"


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
