"""``python -m benchmarks``: starts the servers, measures, prints Markdown."""

from __future__ import annotations

import argparse
import asyncio
import sys

from benchmarks import ratios, servers
from benchmarks.timing import Effort

SERVERS = {"postgres": servers.postgres, "mongodb": servers.mongodb}
TITLES = {"postgres": "PostgreSQL", "mongodb": "MongoDB"}
PARTS = ("raw", "sync")


def main() -> None:
    """Parse the options and run the chosen parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few calls: to see that it runs")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; all unless given")
    parser.add_argument("--backend", action="append", choices=list(SERVERS), help="may be repeated")
    options = parser.parse_args()
    effort = Effort(rounds=3, calls=5) if options.quick else Effort()
    for backend in options.backend or list(SERVERS):
        with SERVERS[backend]() as url:
            asyncio.run(_run(backend, url, options.part or list(PARTS), effort))


async def _run(backend: str, url: str, parts: list[str], effort: Effort) -> None:
    if "raw" in parts:
        _print(f"{TITLES[backend]}: beside the raw driver", await ratios.against_raw(backend, url, effort))
    if "sync" in parts:
        _print(f"{TITLES[backend]}: blocking calls", await ratios.sync_twins(backend, url, effort))


def _print(title: str, text: str) -> None:
    print(f"### {title}\n\n{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
