"""The command line: ``sessions …``."""
