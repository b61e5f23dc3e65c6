"""A password from a callable, such as an IAM token."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import GetCoreSchemaHandler, SecretStr, ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sessions.errors import ConfigurationError

__all__ = ["PasswordCallable", "check_password", "password_for_driver"]

_HIDDEN = "**********"


class PasswordCallable:
    """A caller's callable that returns the password of each new connection; with MongoDB, of each new client.

    Two are equal if their callables are, so that the same function, or the same method of the same object,
    shares a pool. Each new lambda is a different callable.

    Args:
        ask: Takes nothing; returns the password, or an awaitable of it.
    """

    __slots__ = ("_ask", "_key")

    def __init__(self, ask: Callable[[], str | Awaitable[str]]) -> None:
        self._ask = ask
        try:
            hash(ask)
            self._key: object = ask
        except TypeError:  # Such as an instance of a dataclass with __call__.
            self._key = id(ask)

    async def __call__(self) -> str:
        """Return the password for a new connection.

        Raises:
            ConfigurationError: The callable did not return text.
        """
        password = self._ask()
        if inspect.isawaitable(password):
            password = await password
        if not isinstance(password, str):
            raise ConfigurationError(f"password: the callable returned {type(password).__name__}, not str")
        return password

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PasswordCallable) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        # Not the callable's own: that of a partial shows its arguments.
        return f"{type(self).__name__}({_HIDDEN!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(lambda _: _HIDDEN)
        )

    @classmethod
    def _validate(cls, value: object) -> PasswordCallable:
        if isinstance(value, PasswordCallable):
            return value
        if not callable(value):
            raise PydanticCustomError("password", "Input should be a callable")
        ask: Any = value
        return cls(ask)


def check_password(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Validate a password, with one error text; pydantic would report each member of the union."""
    try:
        return handler(value)
    except ValidationError:
        raise PydanticCustomError(
            "password", "Input should be a string, or a callable that returns one"
        ) from None


def password_for_driver(password: SecretStr | PasswordCallable | None) -> str | PasswordCallable | None:
    """Return a password as text, or its callable."""
    return password.get_secret_value() if isinstance(password, SecretStr) else password
