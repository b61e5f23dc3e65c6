"""Alembic's own command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.migrations.migration_helpers import ROOT, AlembicCommand
from tests.support.programs import Programs


@pytest.fixture
def alembic_command(programs: Programs) -> AlembicCommand:
    """Runs Alembic's own command in a process of its own, and returns what it printed."""

    def run(*arguments: str, cwd: Path = ROOT, ini: str = "alembic.ini", **environment: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        done = programs.run("-m", "alembic", "-c", ini, *arguments, cwd=cwd, env=environment)
        if done.returncode:
            raise AssertionError(f"alembic {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    return run
