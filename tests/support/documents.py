"""README and the manual, as the tests read them: their Python programs, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["DOCS", "EXAMPLES", "MANUAL", "README", "ROOT", "Page", "Program", "example_programs", "pages"]

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
MANUAL = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "examples"} & set(path.parts))

# `marker` is the HTML comment right above a program, `output` the text block right below it.
_PROGRAM = re.compile(
    r"(?:<!-- (?P<marker>[^\n]*) -->\n)?```python\n(?P<code>.*?)```\n"
    r"(?:\n```text\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
_INCLUDED = re.compile(r"^```\{literalinclude\} (?P<path>\S+)$", re.MULTILINE)
_FENCED = re.compile(r"^(?P<fence>```+)[^\n]*\n.*?^(?P=fence)$", re.MULTILINE | re.DOTALL)
_MARKER_COMMENT = re.compile(r"\A# (?P<marker>needs: \w+)\n")


@dataclass(frozen=True)
class Program:
    """A Python program that a page shows.

    Attributes:
        page: The page, or the file it includes, as a path from the root of the repository.
        heading: The heading it stands under; of a file, its stem.
        marker: What it needs, such as ``needs: MONGODB_URL``; mostly nothing.
        code: The program.
        output: What the page says it prints.
    """

    page: str
    heading: str
    marker: str
    code: str
    output: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.page, self.heading, self.marker) if part)


@dataclass(frozen=True)
class Page:
    """A Markdown file.

    Attributes:
        path: Where it is.
        text: What it says.
    """

    path: Path
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        """Return its path from the root of the repository."""
        return str(self.path.relative_to(ROOT))

    def programs(self) -> Iterator[Program]:
        """Yield the programs that stand in it."""
        for found in _PROGRAM.finditer(self.text):
            heading = re.findall(r"^#+ (.*)$", self.text[: found.start()], re.MULTILINE)[-1]
            yield Program(self.name, heading, found["marker"] or "", found["code"], found["output"] or "")

    def included(self) -> list[Path]:
        """Return the files of which it shows the text."""
        return [(self.path.parent / found["path"]).resolve() for found in _INCLUDED.finditer(self.text)]

    def prose(self) -> str:
        """Return its text without the fenced blocks, in which no heading, link or table is one."""
        return _FENCED.sub("", self.text)

    def anchors(self) -> set[str]:
        """Return what a link may name behind the ``#``, by the rule that forges and MyST share."""
        headings = re.findall(r"^#+ (.*)$", self.prose(), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def links(self) -> list[tuple[str, str]]:
        """Return the files, empty for this one, and the anchors that it links to; no web addresses."""
        targets = re.findall(r"\]\(([^)\s]+)\)", self.prose())
        local = [target for target in targets if not re.match(r"[a-z]+:", target)]
        return [(target.partition("#")[0], target.partition("#")[2]) for target in local]

    def section(self, heading: str) -> str:
        """Return the text under a heading, up to the next one of its level or above."""
        found = re.search(rf"^(#+) {re.escape(heading)}$", self.text, re.MULTILINE)
        assert found, f"{self.name} has no section {heading!r}"
        rest = self.text[found.end() :]
        end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
        return rest[: end.start()] if end else rest

    def rows(self, heading: str) -> list[list[str]]:
        """Return the cells of a section's table rows, without the backticks around a whole cell."""
        return [
            [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in line.strip("|").split(" |")]
            for line in self.section(heading).splitlines()
            if line.startswith("| `")
        ]


def page(path: Path) -> Page:
    """Return a page."""
    return Page(path, path.read_text("utf-8"))


def pages() -> list[Page]:
    """Return README and the pages of the manual."""
    return [page(path) for path in (README, *MANUAL)]


def example_programs() -> Iterator[Program]:
    """Yield the programs of ``docs/examples``; their output is the text file beside each."""
    for path in sorted(set(EXAMPLES.glob("*.py")) - set(EXAMPLES.glob("test_*.py"))):
        code, output = path.read_text("utf-8"), path.with_suffix(".txt").read_text("utf-8")
        found = _MARKER_COMMENT.match(code)
        name = str(path.relative_to(ROOT))
        yield Program(name, path.stem, found["marker"] if found else "", code, output)
