"""Finds and parses the settings file."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from sessions.config.environment import Variables
from sessions.config.interpolation import variables
from sessions.errors import ConfigurationError

__all__ = ["SHIPPED", "Document", "config_file", "current_document"]

_VARIABLE = "SESSIONS_CONFIG"
_LOCAL = os.path.join("resources", "application-db.yaml")
SHIPPED = Path(__file__).with_name("application-db.yaml").absolute()
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_named = Variables([_VARIABLE])


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A parsed settings file; the same object for as long as the file stays as it is.

    Attributes:
        path: Absolute path of the file.
        tree: Content of the file, every scalar as text or None, not interpolated. Shared: do not change it.
        variables: The environment variables of its placeholders.
    """

    path: str
    tree: dict[Any, Any]
    variables: Variables


class _TextLoader(SafeConstructor, yaml.BaseLoader):
    """Loads scalars as text, so that the password 007 is not the number 7."""


_TextLoader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
# Without it a file with `<<: *defaults` would not load.
_TextLoader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])


def config_file() -> Path:
    """Return the absolute path of the one settings file in use.

    The file that the environment variable ``SESSIONS_CONFIG`` names, else ``resources/application-db.yaml``
    in the working directory, else the shipped default. Files are not merged.

    Raises:
        ConfigurationError: ``SESSIONS_CONFIG`` names a file that does not exist, or a directory in its path
            cannot be searched.
    """
    named = os.environ.get(_VARIABLE)
    try:
        path = Path(named or _LOCAL).absolute()
        found = path.exists()
    except OSError as error:
        raise ConfigurationError(f"{named or _LOCAL}: cannot be read: {error.strerror}") from error
    if named and not found:
        raise ConfigurationError(f"{_VARIABLE}: there is no file {path}")
    return path if found else SHIPPED


def current_document() -> Document:
    """Return the settings file in use; parse it again if the file, its size or its modification time changes.

    Cheap enough for each request: it checks the same places as `config_file`, but avoids creating a path.

    Raises:
        ConfigurationError: As `config_file`; or the file cannot be read, is not UTF-8 or YAML, or holds no
            mapping.
    """
    [raw] = _named.raw()
    named = raw and os.fsdecode(raw)
    try:
        return _read(named or _LOCAL)
    except FileNotFoundError:
        if not named:
            # Part of the package, which does not change while the process runs.
            return _parse(str(SHIPPED))
        place = str(config_file())
    except (OSError, ValueError):
        # `config_file` raises the error.
        place = str(config_file())
    try:
        return _read(place)
    except OSError as error:
        raise ConfigurationError(f"{place}: cannot be read: {error.strerror}") from error


def _read(place: str) -> Document:
    status = os.stat(place)
    # With the inode, because a relative path names another file after a change of directory.
    return _parse(place, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _parse(place: str, *_status: int) -> Document:
    path = Path(place).absolute()
    tree: Any = None
    problem = ""
    try:
        tree = yaml.load(path.read_bytes().decode("utf-8-sig"), _TextLoader)
    except UnicodeDecodeError:
        problem = f"{path}: is not UTF-8 text"
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = f"{path}{line}: is not valid YAML: {_QUOTED.sub('…', error.problem or 'unknown problem')}"
    except (yaml.YAMLError, ValueError, RecursionError):
        problem = f"{path}: is not valid YAML"
    if problem:
        # Raised outside of `except`, without cause: these errors quote the file, passwords included.
        raise ConfigurationError(problem)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{path}: must hold a mapping with the keys db and sessions")
    return Document(str(path), tree, Variables(variables(tree)))
