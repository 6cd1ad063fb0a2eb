"""The configuration: one TOML file, overridden by environment variables `CDC_PUSHER_SECTION__KEY`.

Contract: `load` returns settings that are complete and valid, or raises `ConfigurationError` with one line that names the file, the key and
what is wrong. Keys of an EMP are read from a file, a systemd credential or the environment, never from a command line, and are held as
`SecretStr`, so that no repr, log line or error shows them. This module never connects to anything.
"""

import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError, TomlConfigSettingsSource

from cdc_pusher.errors import ConfigurationError
from cdc_pusher.keyfile import key_in, require_private
from cdc_pusher.logs import Level
from cdc_pusher.model import CONNECTOR_COLUMNS, STATION_COLUMNS

_SUB_SELECT = re.compile(r"[(\s]*(?:select|with|values)\b", re.IGNORECASE)
_NAME = r'(?:"((?:[^"]|"")+)"|([^\W\d][\w$]*))'
_COLUMN = re.compile(rf"(?:{_NAME}\s*\.\s*)?{_NAME}")

DEFAULT_PATHS = (Path("/etc/cdc-pusher/config.toml"), Path("cdc-pusher.toml"))

REFERENCE_STATIONS = "SELECT {} FROM public.station".format(", ".join(("id AS station_id", *STATION_COLUMNS[1:])))
REFERENCE_CONNECTORS = "SELECT {} FROM public.connector".format(", ".join(CONNECTOR_COLUMNS))


def _role_name(name: str) -> str:
    """Postgres cuts longer names off, and would then not find them again."""
    if not name or not name.isprintable() or len(name.encode()) > 63:
        raise PydanticCustomError("role", "a role's name has 1 to 63 bytes, all printable")
    return name


def _address(address: str) -> str:
    """HOST:PORT, with an IPv6 host in brackets; or nothing."""
    if address and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\[\]\s]+):\d{1,5}", address):
        raise PydanticCustomError("address", "an address is HOST:PORT, with an IPv6 host in brackets")
    return address


EmpName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
Sql = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
ConnectorsChanged = Literal["hold", "replace", "send"]
RoleName = Annotated[str, AfterValidator(_role_name)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def folded(name: str) -> str:
    """A name that is not quoted, as Postgres reads it: only the letters of ASCII become small."""
    return "".join(c.lower() if c.isascii() else c for c in name)


class DatabaseSettings(_Section):
    """`[database]`: how to reach the CPO's database; an empty `dsn` leaves everything to the libpq environment (PGHOST, PGSERVICE …).

    `owner_role` and `runtime_role` belong together: with them `cdc-pusher migrate` gives our schema to the one, and the other, which the
    daemon connects as, no more rights than it needs. `listen_dsn`: past a transaction pooler, for LISTEN alone.
    """

    dsn: str = ""
    listen_dsn: str = ""
    owner_role: RoleName | None = None
    runtime_role: RoleName | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.owner_role is None) != (self.runtime_role is None) or (self.owner_role and self.owner_role == self.runtime_role):
            raise PydanticCustomError("roles", "owner_role and runtime_role go together, and are two")
        return self


class Watch(_Section):
    """`[[source.watch]]`: a table whose changes concern stations; `station` says which, as SQL over one row of it.

    A plain expression is evaluated in the trigger; a sub-select, or an expression with a function, by capture after the commit.
    """

    table: Sql
    columns: tuple[str, ...] | None = None
    station: Sql

    @property
    def name(self) -> str:
        """What its triggers and their function are called."""
        return "cdc_pusher_" + hashlib.sha256(f"{self.table}\n{self.station}\n{self.columns}".encode()).hexdigest()[:8]

    @property
    def alias(self) -> str:
        """The name, not quoted, that a row of the table has in `station`.

        >>> [Watch(table=table, station="id").alias for table in ('public.Station', '"My.Data"."Stät""ion"', "station")]
        ['station', 'Stät"ion', 'station']
        """
        quoted, plain = re.findall(r'(?:"((?:[^"]|"")+)"|([^".]*))$', self.table)[0]
        return folded(plain) if plain else quoted.replace('""', '"')

    @property
    def is_deferred(self) -> bool:
        """Whether `station` is not for the trigger, which runs with its owner's rights: whatever is not a column may call a function.

        >>> [Watch(table="t", station=s).is_deferred for s in ("id", 't."Id"', "a || '-' || b", "id::text", "(SELECT 1)")]
        [False, False, True, True, True]
        """
        return self.station_column is None

    @property
    def station_column(self) -> str | None:
        """The column, if `station` is nothing but the name of one.

        >>> [Watch(table="public.Place", station=s).station_column for s in ("Id", '"Id"', "place . id", "id || ''", "a.b.c", "other.id")]
        ['id', 'Id', 'id', None, None, None]
        """
        if (found := _COLUMN.fullmatch(self.station)) is None:
            return None
        table, column = (
            (quoted or "").replace('""', '"') or folded(plain or "") for quoted, plain in (found.groups()[:2], found.groups()[2:])
        )
        return column if table in ("", self.alias) else None

    @property
    def query(self) -> str:
        """`station` as a SELECT over one row of the table."""
        return self.station if _SUB_SELECT.match(self.station) else f"SELECT ({self.station})"


class SourceSettings(_Section):
    """`[source]`: how to read the CPO's stations; unset, the tables of `examples/reference_schema.sql`."""

    stations: Sql = REFERENCE_STATIONS
    connectors: Sql = REFERENCE_CONNECTORS
    watch: tuple[Watch, ...] = (
        Watch(table="public.station", columns=("id", *STATION_COLUMNS[1:]), station="id"),
        Watch(table="public.connector", columns=CONNECTOR_COLUMNS, station="station_id"),
    )
    statuses: dict[str, str] = {}
    connector_types: dict[str, str] = {}


class EmpSettings(_Section):
    """`[emp.NAME]`: one receiver. Times in seconds."""

    protocol: Literal["oioi-v4"] = "oioi-v4"
    url: AnyHttpUrl
    partner_identifier: Annotated[str, StringConstraints(min_length=16)]
    api_key_file: Path | None = None
    api_key: SecretStr | None = None
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    max_requests_per_second: Annotated[float, Field(ge=0.001, le=100_000)] | None = None
    burst: Annotated[int, Field(ge=1, le=10_000)] = 1
    connectors_changed: ConnectorsChanged = "hold"
    only: Sql | None = None
    confirm_cpos: Literal["manual", "automatic"] = "manual"
    cpos: dict[str, str] = {}
    request_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    read_timeout_s: Annotated[float, Field(gt=0, le=300)] | None = None
    retry_base_s: Annotated[float, Field(gt=0, le=60)] = 0.5
    retry_cap_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    max_attempts: Annotated[int, Field(ge=1, le=100_000)] = 20
    give_up_after_s: Annotated[float, Field(gt=0, le=31_536_000)] = 86_400.0
    quiet_time_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    late_after_s: Annotated[float, Field(gt=0, le=31_536_000)] = 300.0
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    proxy: AnyHttpUrl | None = None


class DaemonSettings(_Section):
    """`[daemon]`: how the daemon works. Times in seconds."""

    poll_interval_s: Annotated[float, Field(gt=0, le=1)] = 1.0
    capture_batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    page_stations: Annotated[int, Field(ge=1, le=10_000)] = 200
    sweep_interval_s: Annotated[float, Field(gt=0, le=31_536_000)] = 900.0
    sweep_max_stations_per_s: Annotated[float, Field(ge=0.01, le=1_000_000)] = 1000.0
    attempt_retention_days: Annotated[int, Field(ge=1)] = 30
    log_level: Level = "info"


class MonitoringSettings(_Section):
    """`[monitoring]`: where the daemon tells how it does; an empty `listen` turns that off. Times in seconds."""

    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:9465"
    capture_late_after_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0


class Settings(BaseSettings):
    """The whole configuration, valid."""

    model_config = SettingsConfigDict(env_prefix="CDC_PUSHER_", env_nested_delimiter="__", extra="forbid", frozen=True)

    database: DatabaseSettings = DatabaseSettings()
    source: SourceSettings = SourceSettings()
    emp: dict[EmpName, EmpSettings] = {}
    daemon: DaemonSettings = DaemonSettings()
    monitoring: MonitoringSettings = MonitoringSettings()

    @property
    def only(self) -> dict[str, str]:
        """By EMP, the condition that stations have to meet, of those that have one."""
        return {name: emp.only for name, emp in sorted(self.emp.items()) if emp.only is not None}


def load(path: Path | None = None) -> Settings:
    """Read the configuration from `path`, else from the first of `DEFAULT_PATHS` that exists, else from the environment alone.

    Raises `ConfigurationError`: file not there or not TOML, variable not JSON, unknown key, wrong type, no API key for an EMP.
    """
    settings = read(path)
    return settings.model_copy(update={"emp": {name: with_api_key(name, emp, path) for name, emp in settings.emp.items()}})


def read(path: Path | None = None) -> Settings:
    """The same as `load`, but no API key is looked for in a file: an EMP has one only where the configuration or a variable says it."""
    path = _find(path)
    try:
        return _settings_of(path)()
    except ValidationError as error:
        raise ConfigurationError(f"{path or 'environment'}: {_sentence(error)}") from None
    except SettingsError as error:  # its cause holds the variable, and that may be a key
        raise ConfigurationError(f"environment: {error}: not valid JSON") from None
    except RecursionError:
        raise ConfigurationError(f"{path or 'environment'}: nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, a number of thousands of digits; it may hold the whole file
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error


def _find(path: Path | None) -> Path | None:
    if path is not None:
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such file; name the configuration with --config FILE")
        return path
    return next((candidate for candidate in DEFAULT_PATHS if candidate.is_file()), None)


def _settings_of(path: Path | None) -> type[Settings]:
    """`Settings` bound to one file: pydantic-settings takes its sources from the class."""

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (env_settings, *((TomlConfigSettingsSource(settings_cls, toml_file=path),) if path else ()))

    return FileSettings


def _sentence(error: ValidationError) -> str:
    """All that is wrong in one line; values are left out, since one of them may be a key.

    >>> try: EmpSettings(url="x", partner_identifier="p" * 16, bursts=3)
    ... except ValidationError as e: print(_sentence(e))
    url: Input should be a valid URL, relative URL without a base; bursts: unknown key
    """

    def one(problem: Any) -> str:
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        match problem["type"]:
            case "extra_forbidden":
                return f"{where}: unknown key"
            case "missing":
                return f"{where}: missing"
        return f"{where}: {problem['msg']}"

    return "; ".join(one(problem) for problem in error.errors(include_input=False, include_url=False))


def with_api_key(name: str, emp: EmpSettings, path: Path | None = None) -> EmpSettings:
    """The EMP, as `read` returns it from `path`, with its key: from the environment, else the configuration, else `api_key_file`, else the
    systemd credential `NAME.api-key`.

    Raises `ConfigurationError`, also for a file that everybody may read or write.
    """
    file = key_origin(name, emp, path)
    if emp.api_key is not None:
        if file is not None:
            require_private(file, f"emp.{name}: the file with its API key")
        key, origin = emp.api_key.get_secret_value(), "api_key"
    elif file is None:
        variable = f"CDC_PUSHER_EMP__{name.upper()}__API_KEY"
        raise ConfigurationError(f"emp.{name}: no API key; set api_key_file, the systemd credential {name}.api-key or {variable}")
    else:
        key, origin = key_in(file, f"emp.{name}: the API key file"), str(file)
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigurationError(f"emp.{name}: the API key in {origin} is empty or has characters that an HTTP header cannot carry")
    return emp.model_copy(update={"api_key": SecretStr(key)})


def key_origin(name: str, emp: EmpSettings, path: Path | None) -> Path | None:
    """The file that holds the key of an EMP as `read` returns it from `path`: the configuration itself, too; None: the environment."""
    if emp.api_key is None:
        return _key_file(name, emp)
    path = _find(path)
    held: Any = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    for key in ("emp", name, "api_key"):  # the environment may have overridden whatever stands there
        held = held.get(key) if isinstance(held, dict) else None
    return path if held is not None else None


def _key_file(name: str, emp: EmpSettings) -> Path | None:
    return emp.api_key_file or _credential(f"{name}.api-key")


def _credential(name: str) -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    file = Path(directory, name) if directory else None
    return file if file is not None and file.is_file() else None
