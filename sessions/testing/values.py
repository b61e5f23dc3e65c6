"""Values that the contract stores."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ASTRAL",
    "METADATA",
    "OTHER",
    "TEXTS",
    "USER",
    "all_characters",
    "nested",
    "same_json",
]

USER, OTHER = "user-1", "user-2"

# One character outside of the Basic Multilingual Plane: two UTF-16 units, four bytes of UTF-8.
ASTRAL = "\N{GRINNING FACE}"

TEXTS = [
    "plain",
    " leading and trailing \t\n",
    "\r\n\v\f\x01\x1b\x7f\x85\u2028\ufeff",
    "\xe9 and e\u0301, \u212b and \xc5",  # Unicode forms that must not be unified
    "\ufdd0\ufffe\uffff\U0001ffff\U0010ffff",  # noncharacters
    f"{ASTRAL}\u200d\u202e\u0301",
    "'; DROP TABLE chat_sessions; -- \\ \" ` %s :name $1 {0} \\u0000 \\x00",
    '{"$ne": ""}',
]


def all_characters() -> str:
    """Return a text with every character but NUL and the surrogates."""
    return "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)]))


def nested(levels: int) -> dict[str, Any]:
    """Return an object with the given number of levels, alternating objects and lists."""
    value: Any = 1
    for level in range(levels - 1):
        value = [value] if level % 2 else {"in": value}
    return {"in": value}


METADATA: dict[str, dict[str, Any]] = {
    "empty": {},
    "usual": {"source": "web", "category": "billing", "priority": "high", "tags": ["urgent", "payment"]},
    "simple": {"null": None, "true": True, "false": False, "zero": 0, "one": 1, "text": ""},
    "operators": {"$set": {"$ne": ""}, "$": 1, "$where": "1", "_id": 1, "$$ROOT": [{"$gt": 0}]},
    "dots": {"a.b": {"c.d": 1}, ".": 2, "a.": 3, ".a": 4, "..": 5, "a": {"b": 6}, "0": 7},
    "empty key": {"": {"": [{"": 1}]}},
    "reference": {"$ref": "x", "$id": "y"},
    "reference and more": {"in": [{"$ref": "x", "$id": "y", "$db": "z", "more": {"$ref": "a", "$id": 1}}]},
    "extended JSON": {"a": {"$oid": "0" * 24}, "b": {"$numberLong": "1"}, "c": {"$date": "2024-01-01"}},
    "integers": {"least": -(2**63), "greatest": 2**63 - 1, "beyond double": 2**53 + 1, "32 bits": 2**31},
    "floats": {
        "great": 1e300,
        "greatest": 1.7976931348623157e308,
        "tiny": 5e-324,
        "half": 1.5,
        "tenth": 0.1,
        "minus zero": -0.0,
        "whole": 1e16,
        "whole and rounded when written": 1.2345678901234568e18,
        "beyond 64 bits": 2.0**63,
        "list": [-1e22, 123456789012345.6, 3.0],
    },
    "empty parts": {"object": {}, "list": [], "both": [[], {}, [[{}]]]},
    "texts": dict(zip(TEXTS, TEXTS, strict=True)),
    "written numbers": {"texts": ["1e+16", "1.2345678901234568e+18", '"1e+20', "NaN", "null"]},
    "long": {"k" * 3000: "v" * 100_000, "list": list(range(3000))},
    "deep": nested(100),
}

_PLAIN = (dict, list, str, int, float, bool, type(None))


def same_json(stored: Any, returned: Any) -> bool:
    """Return whether a value came back equal and of plain types; a whole float may come back as an int."""
    if type(returned) not in _PLAIN:
        return False
    if isinstance(stored, dict):
        return (
            type(returned) is dict
            and stored.keys() == returned.keys()
            and all(type(key) is str for key in returned)
            and all(same_json(item, returned[key]) for key, item in stored.items())
        )
    if isinstance(stored, list):
        return (
            type(returned) is list and len(stored) == len(returned) and all(map(same_json, stored, returned))
        )
    if isinstance(stored, float):
        return type(returned) in (int, float) and bool(stored == returned)
    return type(stored) is type(returned) and bool(stored == returned)
