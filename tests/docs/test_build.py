"""The manual builds without a warning and without the network, and shows every public name.

In CI it is the one that a step before has built, in the same way.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sessions import AsyncChats, AsyncSessionRepository, Chats
from tests.support.documents import DOCS, MANUAL, ROOT, page, pages

PUBLIC_MODULES = (
    "sessions",
    "sessions.config",
    "sessions.errors",
    "sessions.migrations",
    "sessions.models",
    "sessions.models.records",
    "sessions.observability",
    "sessions.queries",
    "sessions.services",
    "sessions.testing",
    "sessions.validation",
)
# The folder with the manual, if it is built.
VARIABLE = "SESSIONS_TEST_MANUAL"
DOCUMENTS = ("ChatMessageDocument", "ChatSessionDocument")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manual as HTML, built as CI builds it."""
    if folder := os.environ.get(VARIABLE):
        return Path(folder)
    out = tmp_path_factory.mktemp("manual")
    # Without a working proxy the build has no network.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, out],
        env={"PATH": "/usr/bin:/bin", **nowhere},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return out


@pytest.mark.full_size
def test_it_builds_without_a_warning_and_every_page_is_there(built: Path) -> None:
    for path in MANUAL:
        assert (built / path.relative_to(DOCS).with_suffix(".html")).exists()


def _public_names() -> Iterator[str]:
    yield from DOCUMENTS
    for module in PUBLIC_MODULES:
        yield from importlib.import_module(module).__all__


@pytest.mark.full_size
def test_the_reference_shows_every_public_name(built: Path) -> None:
    # Four lines of text, and then one line for each object: its name, its kind, …
    compressed = (built / "objects.inv").read_bytes().split(b"\n", 4)[4]
    objects = [line.split(" ") for line in zlib.decompress(compressed).decode().splitlines()]
    shown = {name for name, kind, *_ in objects if kind.startswith("py:")}
    # Under one of the modules that have it.
    assert set(_public_names()) <= {name.rpartition(".")[2] for name in shown}


@pytest.mark.parametrize("kind", [AsyncSessionRepository, AsyncChats, Chats])
def test_every_operation_has_a_docstring_of_its_own(kind: type) -> None:
    operations = [
        member for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")
    ]
    described = {(inspect.getdoc(operation) or "").partition("\n")[0] for operation in operations}
    assert "" not in described
    assert len(described) == len(operations)


def test_every_page_is_reached_from_the_index() -> None:
    entries = [
        line
        for block in page(DOCS / "index.md").text.split("```{toctree}")[1:]
        for line in block.partition("```")[0].splitlines()
        if line and not line.startswith(":")
    ]
    listed = [DOCS / f"{entry}.md" for entry in entries]
    assert len(listed) == len(set(listed))
    assert {*listed, DOCS / "index.md"} == set(MANUAL)


def test_every_file_and_section_that_is_linked_is_there() -> None:
    known = {found.path: found for found in pages()}
    others = [page(ROOT / name) for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
    for source in [*known.values(), *others]:
        for file, anchor in source.links():
            target = (source.path.parent / file).resolve() if file else source.path
            assert target.exists(), f"{source.name}: {file}"
            if anchor:
                assert anchor in page(target).anchors(), f"{source.name}: {file}#{anchor}"


def test_readme_links_into_the_manual_only_by_files_that_a_forge_shows() -> None:
    for source in pages():
        for file, _ in source.links():
            assert not file.endswith(".html"), f"{source.name}: {file}"


def test_the_yaml_that_is_shown_is_yaml() -> None:
    for source in pages():
        for block in source.text.split("```yaml\n")[1:]:
            assert yaml.safe_load(block.partition("```")[0]), source.name


def test_architecture_names_only_files_and_functions_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    files = set(re.findall(r"sessions/[\w/]*\w(?:\.py)?", text))
    assert len(files) > 10
    for file in files:
        assert (ROOT / file).exists(), file
    lines = [line for line in text.splitlines() if "(…)" in line and "sessions/" in line]
    assert len(lines) > 5
    for line in lines:
        name = line.partition("(…)")[0].split()[-1]
        [file] = re.findall(r"sessions/\S+", line)
        assert f"def {name}(" in (ROOT / file).read_text("utf-8"), line
