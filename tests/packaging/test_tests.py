"""The tests themselves: what they are called, and what they leave behind."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_no_test_module_is_a_top_level_one_that_could_shadow_an_installed_package() -> None:
    # pytest puts the first folder above a test that is no package in front of sys.path.
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert settings["pythonpath"] == ["."]
