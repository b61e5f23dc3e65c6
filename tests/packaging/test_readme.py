"""A package index can render README, and its commands are those of CI.

Its programs run in ``tests/docs``, with those of the manual.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from readme_renderer import markdown

from tests.support.postgres import NEWEST

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()

RUN = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[cli]' && .venv/bin/sessions demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest"
TEST += " -n 8 --dist worksteal"
PYTEST_STEP = TEST.split(" && ")[-1].removeprefix(".venv/bin/")
FEW = PYTEST_STEP.replace("-n 8", "-n 3")  # Beside other tests.

# A step of CI if pgbouncer is installed.
HAS_PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None
THROUGH_PGBOUNCER = ["python -m pytest -m pgbouncer"] if HAS_PGBOUNCER else []
# Likewise.
IN_BROWSER = ["python -m pytest -m browser"] if shutil.which("chromium") is not None else []
WITH_REDIS_SERVER = ["python -m pytest -m redis_server"] if shutil.which("redis-server") is not None else []
ON_POSTGRES = "SESSIONS_TEST_POSTGRES_VERSION"
OLDEST_POSTGRES = 15 if Path("/usr/lib/postgresql/15/bin/postgres").exists() else 16


def layer(below: str, name: str, extras: str, *, lowest: str | None = None) -> str:
    """Return the step that makes an environment on top of another one."""
    parts = [f"python3 -m venv {name} --without-pip", f"{name}/bin/python .ci/layer.py {below}"]
    install = f"{name}/bin/python -m pip install -q -e '.[{extras}]'"
    if lowest is not None:
        parts.append(f"{name}/bin/python .ci/lowest.py{lowest} > {name}/lowest.txt")
        install += f" -c {name}/lowest.txt"
    return " && ".join([*parts, install])


FRAMEWORKS = layer(".venv", ".venv-frameworks", "dev,frameworks")
LOWEST_FRAMEWORKS = layer(
    ".venv-frameworks", ".venv-lowest-frameworks", "dev,frameworks", lowest=" --frameworks"
)
STORES = "sessions/integrations/*.py sessions/integrations/*/*.py tests/integrations"


def test_it_renders_as_on_a_package_index() -> None:
    html = markdown.render(README)
    assert html is not None
    assert html.count("<table>") == len(re.findall(r"^\|[-|]+\|$", README, re.MULTILINE)) > 1
    assert html.count("<pre") == README.count("```") / 2 > 5
    assert "```" not in html


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200


# -- Commands ------------------------------------------------------------------------------------------


def ci_steps(*options: str) -> list[str]:
    command = ["bash", ".ci/run", *options, "--dry-run"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout.splitlines()


def test_ci_runs_the_two_commands_as_they_stand_in_readme() -> None:
    assert README.splitlines().count(RUN) == README.splitlines().count(TEST) == 1
    assert ci_steps() == [
        *RUN.split(" && "),
        *TEST.split(" && ")[:-1],
        f"{FRAMEWORKS} && {LOWEST_FRAMEWORKS} &",
        f"{layer('.venv', '.venv-motor', 'dev,motor')} &",
        f"{layer('.venv', '.venv-lowest', 'dev', lowest='')} &",
        ".venv/bin/ruff check . &",
        ".venv/bin/ruff format --check . &",
        ".venv/bin/mypy &",
        ".venv/bin/pyright --pythonpath .venv/bin/python &",
        ".venv/bin/lint-imports &",
        ".venv/bin/sphinx-build -W --keep-going -q -b html docs .venv/docs &",
        ".venv/bin/hatchling build -d .venv/dist",
        ".venv/bin/twine check --strict .venv/dist/*",
        ".venv/bin/pip install -q --dry-run --ignore-installed --only-binary :all: .venv/dist/*.whl",
        "wait",
        f".venv/bin/mypy --python-executable .venv-frameworks/bin/python {STORES} &",
        f".venv/bin/pyright --pythonpath .venv-frameworks/bin/python {STORES} &",
        "wait",
        TEST.split(" && ")[-1],
        *(f".venv/bin/{step} &" for step in (*THROUGH_PGBOUNCER, *IN_BROWSER, *WITH_REDIS_SERVER)),
        f"{ON_POSTGRES}={OLDEST_POSTGRES} .venv/bin/{FEW} tests/contract -k postgres &",
        "wait",
        f"SESSIONS_TEST_MANUAL=.venv/docs .venv/bin/{PYTEST_STEP} -m full_size",
        f".venv-motor/bin/{FEW} tests/contract tests/mongodb tests/unit tests/loops/test_services.py"
        " tests/docs/test_programs.py -k 'mongo or client' &",
        f".venv-lowest/bin/{FEW} tests/unit &",
        f".venv-frameworks/bin/{FEW} tests/integrations -m 'frameworks and not full_size' &",
        f".venv-lowest-frameworks/bin/{FEW} tests/integrations -m 'frameworks and not full_size'"
        " -k 'not postgres and not mongodb and not redis' &",
        "wait",
    ]


def test_ci_runs_every_test_with_each_python_and_the_lowest_versions_when_asked() -> None:
    added = ci_steps("--all-pythons")[len(ci_steps()) :]
    minors = [minor for minor in (11, 12, 13) if works(f"python3.{minor}")]
    for minor in minors:
        assert f".venv-3.{minor}/bin/{PYTEST_STEP}" in added
    assert f".venv-lowest-3.11/bin/{PYTEST_STEP} tests" in added
    assert f".venv-lowest-beanie-2/bin/{PYTEST_STEP} -k 'mongo or client'" in added
    # All other steps run on the newest version.
    older = range(OLDEST_POSTGRES, NEWEST)
    for major in older:
        assert sum(step.startswith(f"{ON_POSTGRES}={major} ") for step in added) == 1
    assert len(added) == 3 * len(minors) + len(older) + 4


def works(python: str) -> bool:
    if shutil.which(python) is None:
        return False
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    printed = subprocess.run(
        [sys.executable, ".ci/lowest.py", "beanie==2.0.0"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout.split()
    assert {"sqlalchemy==2.0.41", "beanie==2.0.0", "typer==0.26", "motor==3.7"} <= set(printed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[>]", requirement)[0] for requirement in project["dependencies"]}
    assert names < {line.partition("==")[0] for line in printed}


def test_the_lowest_versions_of_the_agent_frameworks_are_those_of_pyproject() -> None:
    printed = subprocess.run(
        [sys.executable, ".ci/lowest.py", "--frameworks"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout.split()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = re.findall(r"[\[,]([\w-]+)", extras["frameworks"][0])
    assert len(names) == 6
    assert printed == [extras[name][0].replace(">=", "==") for name in names]


def test_ci_says_so_when_a_command_is_missing(tmp_path: Path) -> None:
    Path(tmp_path, ".ci").mkdir()
    Path(tmp_path, ".ci", "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    Path(tmp_path, "README.md").write_text(README.replace(TEST, "make test"))
    result = subprocess.run(
        ["bash", ".ci/run", "--dry-run"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "python -m pytest" in result.stderr


@pytest.mark.parametrize("failing", ["", "mypy", "sessions"])
def test_ci_runs_its_steps_in_a_venv_of_its_own_until_one_fails(failing: str, tmp_path: Path) -> None:
    # In place of Python, a script whose "virtual environment" has programs that only print their arguments.
    python, temporary = tmp_path / "python", tmp_path / "with a space"
    temporary.mkdir()
    python.write_text(
        """#!/bin/sh
        mkdir -p "$3/bin"
        for name in pip sessions ruff mypy pyright lint-imports sphinx-build hatchling twine python; do
          printf '#!/bin/sh\\necho "ran: %s $*"\\n[ %s != "$FAILING" ]\\n' $name $name > "$3/bin/$name"
          chmod +x "$3/bin/$name"
        done
        """
    )
    python.chmod(0o755)
    result = subprocess.run(
        ["bash", ".ci/run"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": str(python), "TMPDIR": str(temporary), "FAILING": failing},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    ran = [line.split()[1:3] for line in result.stdout.splitlines() if line.startswith("ran: ")]
    steps = [step for step in ci_steps() if step != "wait"]
    programs = [
        re.sub(r"^.*?/bin/| &$", "", part)
        for step in steps
        for part in step.split(" && ")
        if " -m venv " not in part and ">" not in part
    ]
    every = sorted(shlex.split(program)[:2] for program in programs)
    assert len(every) >= 15
    assert (result.returncode == 0) == (failing == ""), result.stderr
    if failing == "":
        assert sorted(ran) == every
        assert "all passed" in result.stdout
    else:
        # The failure of a concurrent step is reported once the others are done, and nothing runs after it.
        assert f"/bin/{failing}" in result.stderr.partition("FAILED: ")[2]
        assert "ran: python -m pytest" not in result.stdout
    # Neither a file nor a process remains.
    assert list(temporary.iterdir()) == []
