"""Payloads: any JSON value, stored as text that gives back an equal one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sessions.errors import InvalidInputError, SessionsError

__all__ = ["decode_payload", "decode_payloads", "encode_payload"]

T = TypeVar("T")
R = TypeVar("R")

# Half of Python's recursion limit: what was encoded can be decoded.
MAX_PAYLOAD_DEPTH = 500
# A small graph that shares its parts can unfold without end.
MAX_PAYLOAD_VALUES = 10_000_000
# Texts that are copied to decode them together.
_DECODED_AT_ONCE = 100
# What `int` reads whatever `sys.set_int_max_str_digits` says.
_DIGITS_AT_ONCE = 640

_SCALARS = (str, int, float, type(None))  # bool is an int.
# JSON text has one notation for these two and for the one character that UTF-16 writes in this way.
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def encode_payload(value: object, argument: str = "payload") -> str | None:
    """Return the JSON text of a payload, in ASCII; None for None, which is no payload.

    Key order, big integers, NaN, infinities, NUL and lone surrogates are kept. A tuple is stored as a list.

    Args:
        value: Of ``str``, ``int``, ``float``, ``bool``, None, ``dict`` with string keys, ``list`` and
            ``tuple``; at most 500 levels and ten million values.
        argument: What an error names.

    Raises:
        InvalidInputError: JSON cannot express the value, or returns another one. The text holds nothing of
            it.
    """
    if value is None:
        return None
    _check_values(argument, value)
    try:
        return _with_free_stack(_encode, value)
    except ValueError:
        # Of what is checked above only integers are left.
        reason = "has an integer with more digits than sys.get_int_max_str_digits()"
    raise InvalidInputError(argument, reason)


def _check_values(argument: str, payload: object) -> None:
    level: list[object] = [payload]
    depth = count = 0
    while level:
        count += len(level)
        if count > MAX_PAYLOAD_VALUES:
            raise InvalidInputError(argument, f"must not hold more than {MAX_PAYLOAD_VALUES} values")
        if depth > MAX_PAYLOAD_DEPTH:
            raise InvalidInputError(argument, f"must not be nested deeper than {MAX_PAYLOAD_DEPTH} levels")
        depth += 1
        below: list[object] = []
        for value in level:
            if isinstance(value, str):
                if not str.isascii(value):
                    _check_surrogates(argument, value)
            elif isinstance(value, dict):
                _check_keys(argument, value)
                below.extend(value.values())
            elif isinstance(value, (list, tuple)):
                below.extend(value)
            elif not isinstance(value, _SCALARS):
                raise InvalidInputError(argument, f"must be JSON, not {type(value).__name__}")
            if len(below) > MAX_PAYLOAD_VALUES:
                break
        level = below


def _check_keys(argument: str, value: dict[Any, Any]) -> None:
    plain = True
    for key in value:
        if not isinstance(key, str):
            raise InvalidInputError(
                argument, f"keys must be str, not {type(key).__name__}: JSON returns them as str"
            )
        plain = plain and type(key) is str
        if not str.isascii(key):
            _check_surrogates(argument, key)
    if not plain and len({str.__str__(key) for key in value}) < len(value):
        raise InvalidInputError(argument, "two keys hold the same text")


def _check_surrogates(argument: str, text: str) -> None:
    try:
        str.encode(text)
    except UnicodeEncodeError:
        if _SURROGATE_PAIR.search(text) is None:
            return
    else:
        return
    raise InvalidInputError(argument, "must not have a surrogate pair in place of one character")


def decode_payload(text: str | None) -> Any:
    """Return the payload of a stored JSON text; None for None.

    It does not depend on ``sys.set_int_max_str_digits``, nor on how deep the caller's stack is.

    Raises:
        SessionsError: The text, which another program stored, is not JSON.
    """
    if text is None:
        return None
    try:
        # As it is stored, without white space: `decode` looks for it, which takes longer than the rest.
        value, end = _decoder.raw_decode(text)
    except (ValueError, RecursionError):
        pass
    else:
        if end == len(text):
            return value
    return _with_free_stack(_decode, text)


def decode_payloads(texts: Sequence[str]) -> list[Any]:
    """Return what `decode_payload` returns for each text; one call of the decoder takes less than many."""
    found: list[Any] = []
    for start in range(0, len(texts), _DECODED_AT_ONCE):
        found += _decode_together(texts[start : start + _DECODED_AT_ONCE])
    return found


def _decode_together(texts: Sequence[str]) -> list[Any]:
    try:
        values: list[Any] = _decoder.decode(f"[{','.join(texts)}]")
    except (ValueError, RecursionError):
        pass
    else:
        if len(values) == len(texts):
            return values
    # One of them needs what `decode_payload` does for it, or is not JSON.
    return [decode_payload(text) for text in texts]


def _with_free_stack(function: Callable[[T], R], argument: T) -> R:
    try:
        return function(argument)
    except RecursionError:
        # The caller's stack is deep. A new thread has its own.
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(function, argument).result()


def _encode(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _decode(text: str) -> Any:
    for decoder in (_decoder, _decoder_of_big_integers):
        try:
            return decoder.decode(text)
        except json.JSONDecodeError:
            break
        except ValueError:
            # More digits than the interpreter's limit.
            continue
    # Outside of `except`: the error of `json` holds the whole text.
    raise SessionsError("the payload of a stored message is not JSON")


def _parse_integer(digits: str) -> int:
    if digits.startswith("-"):
        return -_parse_integer(digits[1:])
    if len(digits) <= _DIGITS_AT_ONCE:
        return int(digits)
    tail = len(digits) // 2
    power: int = 10**tail
    return _parse_integer(digits[:-tail]) * power + _parse_integer(digits[-tail:])


_decoder = json.JSONDecoder()
_decoder_of_big_integers = json.JSONDecoder(parse_int=_parse_integer)
