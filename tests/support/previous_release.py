"""The release before this one, as a service of it that has not been deployed anew has it installed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

__all__ = ["COMMIT", "environment", "install", "installed"]

ROOT = Path(__file__).resolve().parents[2]
# The last commit before revision 0003. To be moved with each revision.
COMMIT = "e6e50bb36cf4b771bf455b821148ea01abd9d07c"


def installed(folder: Path) -> Path:
    """Return the folder in which `install` has installed the release."""
    return folder / "target"


def install(folder: Path) -> None:
    """Build the wheel of the release before this one, and install it in a folder.

    Nothing is downloaded: its dependencies are those of this release.

    Raises:
        RuntimeError: The checkout does not have the commit, or the build failed.
    """
    source, wheels = folder / "source", folder / "wheels"
    with tarfile.open(fileobj=io.BytesIO(_archive())) as archive:
        archive.extractall(source, filter="data")
    _run("-c", "import hatchling.build as backend; backend.build_wheel('../wheels')", cwd=source)
    [wheel] = wheels.glob("*.whl")
    pip = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(installed(folder)))
    _run(*pip, str(wheel), cwd=folder)


def environment(target: Path) -> dict[str, str]:
    """Return the environment in which Python imports the release that is installed in a folder."""
    return {**os.environ, "PYTHONPATH": str(target)}


def _archive() -> bytes:
    # The checkout may belong to another user than the tests run as.
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "archive", COMMIT]
    try:
        done = subprocess.run(git, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeError("git is needed to build the previous release's wheel") from error
    if done.returncode:
        raise RuntimeError(
            f"the commit {COMMIT}, of which the previous release's wheel is built, is not in this checkout; "
            f"in a shallow clone run: git fetch --unshallow ({done.stderr.decode().strip()})"
        )
    return done.stdout


def _run(*arguments: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments} failed:\n{done.stdout}{done.stderr}")
