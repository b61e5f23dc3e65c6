"""Values in messages that JSON has no type for, such as the bytes of an image or the artifact of a tool."""

from __future__ import annotations

import base64
import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any

from langchain_core.documents import Document

from sessions.errors import InvalidInputError

__all__ = ["decode", "encode"]

# Key of a value that JSON has no type for; it has the type's name.
_TYPE = "$type"
_SCALARS = (str, int, float)


def encode(value: Any) -> Any:
    """Return a value that JSON can express: the same object if it can already.

    Raises:
        InvalidInputError: It holds a value of another type.
    """
    if value is None or isinstance(value, _SCALARS):
        return value
    if isinstance(value, list):
        items = [encode(each) for each in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict) and _TYPE not in value and all(isinstance(key, str) for key in value):
        fields = {key: encode(each) for key, each in value.items()}
        return fields if any(fields[key] is not value[key] for key in fields) else value
    if (codec := _CODECS.get(type(value))) is not None:
        return {_TYPE: type(value).__name__, "value": codec[0](value)}
    if callable(dump := getattr(value, "model_dump", None)):  # As LangChain has any other model.
        return encode(dump())
    raise InvalidInputError("messages", f"has a value of the type {type(value).__name__}")


def decode(value: Any) -> Any:
    """Return the value that `encode` was given."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    if (name := value.get(_TYPE)) is not None:
        return _DECODERS[name](value["value"])
    return {key: decode(each) for key, each in value.items()}


def _encode_all(values: Any) -> list[Any]:
    return [encode(each) for each in values]


# By type: what makes a value of JSON, and what makes the value again.
_CODECS: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    bytes: (lambda value: base64.b64encode(value).decode("ascii"), base64.b64decode),
    tuple: (_encode_all, lambda value: tuple(decode(value))),
    set: (_encode_all, lambda value: set(decode(value))),
    frozenset: (_encode_all, lambda value: frozenset(decode(value))),
    datetime.datetime: (datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: (datetime.date.isoformat, datetime.date.fromisoformat),
    uuid.UUID: (str, uuid.UUID),
    decimal.Decimal: (str, decimal.Decimal),
    dict: (
        lambda value: [[encode(key), encode(each)] for key, each in value.items()],
        lambda value: {decode(key): decode(each) for key, each in value},
    ),
    Document: (lambda value: encode(value.model_dump()), lambda value: Document(**decode(value))),
}
_DECODERS = {cls.__name__: decoder for cls, (_, decoder) in _CODECS.items()}
