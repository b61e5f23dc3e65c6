"""Compares the package with the raw drivers and other packages; see ``python -m benchmarks --help``."""
