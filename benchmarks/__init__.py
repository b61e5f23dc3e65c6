"""Measures the package beside the raw drivers and other packages; see ``python -m benchmarks --help``."""
