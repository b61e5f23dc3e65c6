"""The scripts that run the operations on the server."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["READS", "Script", "script_of", "scripts"]

# Operations that store nothing.
READS = frozenset(
    {"history", "get_message", "list", "count", "export_sessions", "scan", "ids", "users_with_older"}
    | {"list_users", "list_all"}
)
# Each of them has a script of its own; the rest has one together. The server builds all functions of a script
# for each call: what only another operation needs takes a part of the time of a short one.
FREQUENT = (frozenset({"append"}), frozenset({"history", "get_message"}), frozenset({"list"}))

# A declaration at the beginning of a line, up to the "end" of a function, or to the end of the line.
DECLARATION = re.compile(
    r"^(?:local function (?P<function>\w+).*?^end|function ops\.(?P<operation>\w+).*?^end"
    r"|local (?P<values>[\w, ]+) =.*?)$",
    re.DOTALL | re.MULTILINE,
)
COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script.

    Attributes:
        text: Its source.
        digest: The name under which the server keeps it.
    """

    text: str
    digest: str


@functools.cache
def script_of(operation: str) -> Script:
    """Return the script that has an operation."""
    return next(found for operations, found in _all_scripts() if operation in operations)


@functools.cache
def scripts() -> tuple[Script, ...]:
    """Return all scripts."""
    return tuple(found for _, found in _all_scripts())


@functools.cache
def _all_scripts() -> tuple[tuple[frozenset[str], Script], ...]:
    """Return all scripts, and the operations in each."""
    folder = files("sessions.backends.redis").joinpath("scripts")
    parts = sorted(
        (part for part in folder.iterdir() if part.name.endswith(".lua")), key=lambda part: part.name
    )
    source = COMMENT.sub("", "\n".join(part.read_text("utf-8") for part in parts))
    operations = frozenset(re.findall(r"^function ops\.(\w+)", source, re.MULTILINE))
    rest = operations.difference(*FREQUENT)
    return tuple((chosen, _script(source, chosen)) for chosen in (*FREQUENT, rest))


def _script(source: str, operations: frozenset[str]) -> Script:
    """Return the part of a source that some operations need, in its order."""
    declared = list(DECLARATION.finditer(source))
    needed = set(re.findall(r"\w+", DECLARATION.sub("", source)))
    kept = []
    # What a declaration uses comes before it.
    for found in reversed(declared):
        names = found["function"] or found["values"] or ""
        if found["operation"] in operations or needed & set(re.findall(r"\w+", names)):
            kept.append(found[0])
            needed |= set(re.findall(r"\w+", found[0]))
    text = "\n".join([*reversed(kept), DECLARATION.sub("", source).strip()])
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
