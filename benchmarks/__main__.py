"""``python -m benchmarks``: starts the servers, measures, prints Markdown."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks import cache, crowd, growth, others, ratios, search, servers, turns, writes
from benchmarks.timing import Effort

SERVERS = {
    "postgres": servers.postgres,
    "mongodb": servers.mongodb,
    "sqlite": servers.sqlite,
    "redis": servers.redis,
}
TITLES = {"postgres": "PostgreSQL", "mongodb": "MongoDB", "sqlite": "SQLite", "redis": "Redis"}
PARTS = ("crowd", "raw", "sync", "peers", "turns", "writes", "growth", "search", "cache")


def main() -> None:
    """Parse the options and run the chosen parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few calls: to see that it runs")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; all unless given")
    parser.add_argument("--backend", action="append", choices=list(SERVERS), help="may be repeated")
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path(".benchmarks"),
        help="folder for the peers' virtual environments, kept for the next run (default: %(default)s)",
    )
    options = parser.parse_args()
    parts, everywhere = options.part or list(PARTS), options.backend or list(SERVERS)
    backends = [backend for backend in everywhere if backend in ("postgres", "mongodb")]
    effort = Effort(rounds=3, calls=5) if options.quick else Effort()
    interpreters = others.prepare(everywhere, options.environments) if "peers" in parts else {}
    for backend in everywhere if {"raw", "sync", "peers", "turns"} & set(parts) else []:
        with SERVERS[backend]() as url:
            asyncio.run(_run(backend, url, parts, effort, interpreters))
    if "crowd" in parts:
        for backend in everywhere:
            if backend not in ratios.BACKENDS:
                continue
            with SERVERS[backend]() as url:
                measured = crowd.measure(backend, url, rounds=effort.rounds // 8 + 1, seconds=2.0)
            _print(f"{TITLES[backend]}: many callers", measured)
    if "writes" in parts and "postgres" in backends:
        with servers.postgres() as url:  # An empty one, so that only the appends determine the sizes.
            appends = 10_000 if options.quick else 1_000_000
            _print("PostgreSQL: write amplification", asyncio.run(writes.write_amplification(url, appends)))
    if "cache" in parts and "postgres" in backends:
        _print("PostgreSQL: with a cache", cache.measure(effort))
    if "growth" in parts:
        grown = [backend for backend in everywhere if backend != "sqlite"]
        print(growth.measure(options.quick, tuple(grown)))
    if "search" in parts:
        print(search.measure(options.quick, tuple(backends)))


async def _run(
    backend: str, url: str, parts: list[str], effort: Effort, interpreters: dict[str, Path]
) -> None:
    is_compared = backend in ratios.BACKENDS  # With its driver.
    if "raw" in parts and is_compared:
        _print(
            f"{TITLES[backend]}: compared with the raw driver", await ratios.against_raw(backend, url, effort)
        )
    if "sync" in parts and is_compared and backend != "sqlite":
        _print(f"{TITLES[backend]}: blocking calls", await ratios.sync_twins(backend, url, effort))
    if "turns" in parts and is_compared:
        _print(f"{TITLES[backend]}: a turn of ChatService", await turns.overhead(backend, url, effort))
    if "peers" in parts:
        text = await others.against_peers(backend, url, interpreters, effort.divided(2))
        _print(f"{TITLES[backend]}: compared with other packages", text)


def _print(title: str, text: str) -> None:
    print(f"### {title}\n\n{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
