"""The settings of the package, read from the one YAML file in use."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self, overload

from pydantic import PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sessions.config.environment import Raw
from sessions.config.files import SHIPPED, Document, current_document
from sessions.config.interpolation import Unset, interpolate
from sessions.config.models import (
    BackendSettings,
    DatabaseSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
    SessionsSettings,
    SqliteSettings,
)
from sessions.config.reasons import Origin, configuration_error, find_origin, secrets_of
from sessions.errors import ConfigurationError

__all__ = ["Settings", "load_settings", "variables_of"]

_BACKENDS: dict[str, type[BackendSettings]] = {
    name: type(field.get_default(call_default_factory=True))
    for name, field in DatabaseSettings.model_fields.items()
}


class _YamlSource(PydanticBaseSettingsSource):
    """Hands pydantic-settings the file in use, interpolated."""

    def __init__(self, settings_cls: type[BaseSettings], tree: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._tree = tree

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        # Abstract in the base class, for sources that read single fields.
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        entries = [entry for name, entry in _entries(self._tree) if name != "sqlite"]
        for entry in [*entries, _cache_entry(self._tree)]:
            for key in ("password", "url"):
                if isinstance(entry.get(key), str):
                    # Before validation: PYDANTIC_SETTINGS_DEBUG logs what sources return, and
                    # ValidationError.errors() carries it.
                    entry[key] = SecretStr(entry[key])
        return self._tree


def _entries(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the mapping of each backend in the tree."""
    databases = tree.get("db")
    if isinstance(databases, dict):
        for name in _BACKENDS:
            if isinstance(entry := databases.get(name), dict):
                yield name, entry


def _cache_entry(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the mapping of the cache in the tree; an empty one if there is none."""
    found = tree.get("sessions")
    entry = found.get("cache") if isinstance(found, dict) else None
    return entry if isinstance(entry, dict) else {}


class Settings(BaseSettings):
    """All settings, as `load_settings` returns them; created directly, the defaults of the models.

    Attributes:
        db: Connection settings of each built-in backend; read them with `backend`.
        sessions: Settings that are independent of the backend.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    db: DatabaseSettings = DatabaseSettings()
    sessions: SessionsSettings = SessionsSettings()

    _unset: dict[str, dict[str, Unset]] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read only the YAML file, so that all settings are in one place."""
        return (_YamlSource(settings_cls, init_settings().get("tree", {})),)

    @model_validator(mode="wrap")
    @classmethod
    def _set_unset_aside(cls, values: dict[str, Any], handler: ModelWrapValidatorHandler[Self]) -> Self:
        unset: dict[str, dict[str, Unset]] = {}
        for name, entry in _entries(values):
            for key, value in list(entry.items()):
                if isinstance(value, Unset) and key in _BACKENDS[name].file_keys():
                    unset.setdefault(name, {})[key] = entry.pop(key)
                elif isinstance(value, Unset):
                    # Left for the model to reject: an unknown key is the more useful error.
                    entry[key] = ""
        _raise_first_unset(values)
        settings = handler(values)
        settings._unset = unset
        return settings

    @overload
    def backend(self, name: Literal["postgres"], **overrides: object) -> PostgresSettings: ...
    @overload
    def backend(self, name: Literal["mongodb"], **overrides: object) -> MongoSettings: ...
    @overload
    def backend(self, name: Literal["sqlite"], **overrides: object) -> SqliteSettings: ...
    @overload
    def backend(self, name: Literal["redis"], **overrides: object) -> RedisSettings: ...
    def backend(self, name: str, **overrides: object) -> BackendSettings:
        """Return the settings of a backend.

        Args:
            name: ``"postgres"``, ``"mongodb"``, ``"sqlite"`` or ``"redis"``.
            **overrides: Values that replace those of the file; see `BackendSettings.with_overrides`.

        Raises:
            ConfigurationError: A required variable of the file is not set and has no default; it is not
                required if its key is overridden, or if ``url`` wins over it. Also if an override has an
                unknown key or a wrong type.
        """
        if name not in _BACKENDS:
            raise ConfigurationError(f"db.{name}: unknown backend (known: {', '.join(_BACKENDS)})")
        configured: BackendSettings = getattr(self.db, name)
        settings = configured.with_overrides(**overrides)
        unneeded = {key for key, value in overrides.items() if value is not None}
        if getattr(settings, "url", None) is not None:
            unneeded |= {"url", *settings.PARTS}
        for key, unset in self._unset.get(name, {}).items():
            if key not in unneeded:
                raise unset.error()
        return settings


def _raise_first_unset(value: Any) -> None:
    if isinstance(value, Unset):
        raise value.error()
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _raise_first_unset(item)


def load_settings() -> Settings:
    """Return the current settings.

    They come from one file: the one that ``SESSIONS_CONFIG`` names, else ``resources/application-db.yaml`` in
    the working directory, else the shipped ``sessions/config/application-db.yaml``. Files are not merged, and
    an environment variable has an effect only if that file has a placeholder for it: a file without
    ``url: ${POSTGRES_URL:}`` does not read ``POSTGRES_URL``. Absent or empty keys take the defaults
    of the models.

    Cheap enough for each request: the settings are cached until the file, or a variable in it, changes.

    Raises:
        ConfigurationError: The file is missing or unreadable, a key is unknown, a value has the wrong type,
            or a variable without a default is unset outside the backends. The text names the dotted key, and
            the variable that the value comes from, with the value unless it may be a secret; otherwise the
            file. `Settings.backend` reports an unset variable of a backend.
    """
    document = current_document()
    return _settings(document, document.variables.raw())


def variables_of(key: str) -> tuple[str, ...]:
    """Return the environment variables that the value of a key comes from, if any.

    Args:
        key: Dotted key (``"sessions.default_repository"``).

    Raises:
        ConfigurationError: As `load_settings`.
    """
    document = current_document()
    environment = document.variables.decoded(document.variables.raw())
    origin = find_origin(key.split("."), document.tree, environment)
    return origin.variables if origin else ()


@functools.lru_cache(maxsize=8)
def _settings(document: Document, raw: Raw) -> Settings:
    environment = document.variables.decoded(raw)
    tree = interpolate(document.tree, source=document.path, environment=environment)
    secrets = secrets_of(tree)

    def origin_of(location: Sequence[Any]) -> Origin | None:
        return find_origin(location, document.tree, environment, secrets)

    keywords: dict[str, Any] = {"tree": tree}
    try:
        return Settings(**keywords)
    except ValidationError as error:
        # Only the values of variables can be wrong in the shipped file.
        source = "" if document.path == str(SHIPPED) else document.path
        raise configuration_error(error, source=source, origin_of=origin_of) from error
