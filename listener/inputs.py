"""What may be given from outside: the variables, the layout of ``config.yaml``, and what to say when it is wrong.

Every problem is a line that names the setting, says what is wrong with it and what to do. A field's
description ends the sentence "Set it to …" of that line.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from listener import envfile

DEFAULT_PASSWORD = "postgres"  # noqa: S105 - Immich's well-known default

# --- what a value may be -----------------------------------------------------------------------------------


def _plain_path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("is not an absolute path")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("holds a control character")
    parts = value.strip("/").split("/")
    if parts == [""]:
        raise ValueError("is the root of the file system")
    if ".." in parts:
        raise ValueError("holds '..'")
    if "" in parts or "." in parts:
        raise ValueError(f"is not in plain form ('/{'/'.join(p for p in parts if p not in ('', '.'))}')")
    return "/" + "/".join(parts)


def _api_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("is not a web address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("holds more than scheme, server and port")
    return value.rstrip("/").removesuffix("/api")


def _host_name(value: str) -> str:
    if "://" in value:
        raise ValueError("is a whole address; DB_URL is the place for it")
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _removal_limit(value: object) -> object:
    """Return ``(20, 10.0)`` for ``20,10%`` in any order, either of them alone, None for ``off``."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.lower().split(",")]
    if parts == ["off"]:
        return None
    counts = [part for part in parts if part.isdecimal()]
    shares = [part.removesuffix("%").strip() for part in parts if part.endswith("%")]
    if len(counts) > 1 or len(shares) > 1 or len(counts) + len(shares) != len(parts):
        raise ValueError("is not a number of copies and a percentage")
    try:
        percent = float(shares[0]) if shares else 0.0
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise ValueError("holds a percentage that is not between 0 and 100")
    return (int(counts[0]) if counts else 0), percent


def _plain_paths(value: str) -> str:
    # As lists of paths are written: with commas, or with colons as in PATH.
    parts = [part.strip() for part in re.split(r",|:(?=\s*/)", value)]
    return ",".join(dict.fromkeys(_plain_path(part) for part in parts if part))


_PlainPath = Annotated[str, AfterValidator(_plain_path)]


class Variables(BaseSettings):
    """The environment."""

    model_config = SettingsConfigDict(
        alias_generator=str.upper,
        extra="ignore",  # Immich's own .env may be shared with us
        env_ignore_empty=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    upload_location_mount: _PlainPath = Field(
        default="/data", description="the absolute path of Immich's media root as Immich's server sees it"
    )
    external_library_mount: _PlainPath = Field(
        default="/external_library",
        description="the absolute path of the external libraries as Immich's server sees it",
    )
    external_library_mounts: Annotated[str, AfterValidator(_plain_paths)] | None = Field(
        default=None,
        description="the absolute paths of all mounts of external libraries as Immich's server sees them, "
        "with commas between them",
    )
    db_hostname: Annotated[str, AfterValidator(_host_name)] = Field(
        default="immich_postgres", description="the host name of Immich's database"
    )
    db_port: int = Field(default=5432, ge=1, le=65535, description="the port of Immich's database")
    db_username: str = Field(default="postgres", description="the database user")
    db_password: SecretStr = Field(default=SecretStr(DEFAULT_PASSWORD), description="the database password")
    db_password_file: str | None = Field(default=None, description="a file that holds the database password")
    db_database_name: str = Field(default="immich", description="the name of Immich's database")
    db_url: SecretStr | None = Field(
        default=None, description="postgresql://user:password@host:port/database, or leave it out"
    )
    db_ssl_mode: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-full"] | None, BeforeValidator(_lower)
    ] = Field(default=None, description="disable, allow, prefer, require or verify-full, or leave it out")
    immich_api_url: Annotated[str, AfterValidator(_api_url)] = Field(
        default="http://immich_server:2283", description="an address like http://immich_server:2283"
    )
    immich_api_key: SecretStr | None = Field(default=None, description="an API key of Immich, or leave it out")
    immich_api_key_file: str | None = Field(default=None, description="a file that holds the API key")
    target_user_id: str | None = Field(default=None, description="the id of the user who gets the copies")
    source_user_id: str | None = Field(default=None, description="the id of the user whose photos are shared")
    target_library_id: str | None = Field(default=None, description="the id of the target user's external library")
    shared_path_prefix: str | None = Field(default=None, description="the folder to share, as Immich's server sees it")
    target_path_prefix: str | None = Field(default=None, description="the folder of the copies' links")
    upload_source_user_id: str | None = Field(default=None, description="the id of the user whose uploads are shared")
    upload_target_user_id: str | None = Field(
        default=None, description="the id of the user who gets the copies of uploads"
    )
    upload_target_library_id: str | None = Field(
        default=None, description="the id of the target user's external library for uploads"
    )
    target_upload_path_prefix: str | None = Field(default=None, description="the folder of the links of shared uploads")
    target_album_id: str | None = Field(
        default=None, description="the id of an album of the target user, for the copies of both single jobs"
    )
    config_file: str = Field(default="config.yaml", description="the file that describes the jobs")
    reconcile_interval_seconds: float = Field(
        default=900,
        ge=1,
        le=604_800,
        validation_alias=AliasChoices("RECONCILE_INTERVAL_SECONDS", "SYNC_INTERVAL_SECONDS"),
        description="the seconds between two slow sweeps, 1 to 604800",
    )
    link_mode: Annotated[Literal["auto", "hardlink", "copy"], BeforeValidator(_lower)] = Field(
        default="auto", description="auto, hardlink or copy"
    )
    workers: int = Field(default=2, ge=1, le=16, description="a number of reconciling connections, 1 to 16")
    ml_wait_seconds: float = Field(
        default=86_400,
        ge=0,
        le=31_536_000,
        description="the seconds that a photo may wait for machine learning, 0 to 31536000",
    )
    removal_limit: Annotated[tuple[int, float] | None, NoDecode, BeforeValidator(_removal_limit)] = Field(
        default="20,10%",
        validate_default=True,
        description="how many copies of a job may go at once where no user removed their photos: a number and a "
        "percentage of which the larger counts, like 20,10%, or off",
    )
    http_host: str = Field(default="127.0.0.1", description="the address to serve health and metrics on")
    http_port: int = Field(
        default=8080, ge=0, le=65535, description="the port of health and metrics, 1 to 65535 (0: any free)"
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR"
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = Field(
        default="text", description="text or json"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The environment is handed in, so that a caller can give another one than the process's; and the values of
        # .env, which is read by docker compose's rules.
        return (init_settings,)


class JobInput(BaseModel):
    """One job of ``sync_jobs``."""

    model_config = ConfigDict(
        extra="forbid",
        str_strip_whitespace=True,
        hide_input_in_errors=True,
        validate_assignment=True,
        title="job",
    )

    name: str = Field(min_length=1, max_length=100, description="a name of your choice, each job its own")
    kind: Literal["external", "uploads"] = Field(
        default="external", description="external (a folder of an external library) or uploads"
    )
    source_user_id: UUID = Field(description="the id of the user whose photos are shared")
    target_user_id: UUID = Field(description="the id of the user who gets the copies")
    target_library_id: UUID = Field(description="the id of an external library of the target user")
    source_path_prefix: _PlainPath | None = Field(
        default=None, description="the folder to share, as Immich's server sees it"
    )
    target_path_prefix: _PlainPath = Field(
        description="the folder of the copies' links, below a mount of external libraries"
    )
    album_id: UUID | None = Field(default=None, description="the id of an album of the target user")
    tags: bool = Field(default=True, description="true or false: copies get the source's tags")
    duplicates: bool = Field(
        default=True, description="true or false: photos the target user has as uploads get no copy"
    )
    remove_copies: bool = Field(
        default=False, description="true or false: this job makes no copies any more and removes those it has made"
    )
    accept_risk: bool = Field(
        default=False,
        description="true or false: also where Immich (before 2.4) cannot be kept from deleting originals, or where "
        "somebody else's library takes the copies in",
    )


class ConfigFile(BaseModel):
    """The layout of ``config.yaml``."""

    model_config = ConfigDict(extra="forbid", title="config.yaml of immich-shared-library")

    sync_jobs: list[JobInput] = Field(min_length=1, description="the list of jobs")


# The single-job variables, as the job keys they stand for.
_EXTERNAL = {
    "source_user_id": "SOURCE_USER_ID",
    "target_user_id": "TARGET_USER_ID",
    "target_library_id": "TARGET_LIBRARY_ID",
    "source_path_prefix": "SHARED_PATH_PREFIX",
    "target_path_prefix": "TARGET_PATH_PREFIX",
    "album_id": "TARGET_ALBUM_ID",
}
_UPLOADS = {
    "source_user_id": "UPLOAD_SOURCE_USER_ID",
    "target_user_id": "UPLOAD_TARGET_USER_ID",
    "target_library_id": "UPLOAD_TARGET_LIBRARY_ID",
    "target_path_prefix": "TARGET_UPLOAD_PATH_PREFIX",
    "album_id": "TARGET_ALBUM_ID",
}


def variable_names() -> tuple[str, ...]:
    """Return every variable that is read, older names included."""
    return tuple(name for info in Variables.model_fields.values() for name in _aliases(info))


def _aliases(info: FieldInfo) -> tuple[str, ...]:
    alias = info.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (str(alias),)


# --- problems in words -------------------------------------------------------------------------------------

_WORDS = {
    "int_parsing": "is not a whole number",
    "float_parsing": "is not a number",
    "finite_number": "is not a number with an end",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too big",
    "literal_error": "is not a known value",
    "uuid_parsing": "is not an id (a UUID)",
    "bool_parsing": "is neither true nor false",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "string_type": "is not a text",
    "uuid_type": "is not an id (a UUID)",
    "bool_type": "is neither true nor false",
}


def in_words(error: ErrorDetails, info: FieldInfo) -> str:
    """Return what is wrong and what to do, without the setting's name; never a secret."""
    todo = f"Set it to {info.description}."
    kind = error["type"]
    if kind == "missing":
        return f"is missing. {todo}"
    what = str(error["ctx"]["error"]) if kind == "value_error" else _WORDS.get(kind, error["msg"])
    may_hold_secret = SecretStr in (info.annotation, *get_args(info.annotation)) or "@" in str(error["input"])
    if may_hold_secret:
        return f"{what}. {todo}"
    return f"{shown(error['input'])} {what}. {todo}"


def shown(value: object) -> str:
    """Return a value as it may stand in a message: quoted, control characters escaped, not too long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def near(word: str, known: list[str]) -> str:
    """Return a hint at the known name that was probably meant, else all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known are: {', '.join(known)}."


# --- the environment ---------------------------------------------------------------------------------------


def read_variables(environ: Mapping[str, str], cwd: Path, problems: list[str], notes: list[str]) -> Variables:
    """Return the variables; where one cannot be used, its problem is noted and its default stands in."""
    given: dict[str, Any] = {}
    of_file = envfile.read(cwd / ".env", environ, problems)
    for name in variable_names():
        value = environ.get(name, "")
        if not value.strip():
            value = of_file.values.get(name, "")
            if name in of_file.unset:
                notes.append(
                    f"{name}: its value in .env names a variable that is not set and so is empty there, as in docker "
                    "compose. Write $$ for a dollar sign"
                )
        if any(unicodedata.category(char) in {"Cc", "Cs"} for char in value):
            problems.append(f"{name}: holds characters that are not text. Write it on one line.")
        elif value.strip():
            given[name] = value
    fields = {alias: info for info in Variables.model_fields.values() for alias in _aliases(info)}
    while True:
        try:
            return Variables(**given)
        except ValidationError as failure:
            for error in failure.errors():
                name = str(error["loc"][0])
                problems.append(f"{name}: {in_words(error, fields[name])}")
                for alias in _aliases(fields[name]):
                    given[alias] = fields[name].default


def external_roots(variables: Variables) -> tuple[Path, ...]:
    """Return all mounts of external libraries, the single one first if it is given."""
    several = (variables.external_library_mounts or "").split(",") if variables.external_library_mounts else []
    one = [variables.external_library_mount] if "external_library_mount" in variables.model_fields_set else []
    return tuple(Path(path) for path in dict.fromkeys([*one, *several] or [variables.external_library_mount]))


def single_job_names() -> frozenset[str]:
    """Return the names of the single-job variables."""
    return frozenset({*_EXTERNAL.values(), *_UPLOADS.values()})


def single_jobs(variables: Variables, problems: list[str]) -> Iterator[tuple[Mapping[str, str], dict[str, Any]]]:
    """Yield the jobs of the single-job variables: the variable of each key, and what was given for it."""

    def given(names: Mapping[str, str]) -> dict[str, Any]:
        values = {key: getattr(variables, name.lower()) for key, name in names.items()}
        return {key: value for key, value in values.items() if value is not None}

    if variables.shared_path_prefix is not None:
        yield _EXTERNAL, {"name": "external", "kind": "external", **given(_EXTERNAL)}
    if variables.upload_source_user_id is not None:
        names = dict(_UPLOADS)
        if variables.upload_target_user_id is None:
            names["target_user_id"] = "TARGET_USER_ID"
        yield names, {"name": "uploads", "kind": "uploads", **given(names)}
    if variables.shared_path_prefix is None and variables.upload_source_user_id is None:
        problems.append(
            "SHARED_PATH_PREFIX: no job is set. Set it to share a folder of an external library, "
            "or UPLOAD_SOURCE_USER_ID to share uploads, or write a config.yaml."
        )
