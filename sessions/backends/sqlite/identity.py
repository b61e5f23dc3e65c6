"""What tells a SQLite file from every other one, by whichever path it is opened."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

from sessions.backends.sqlite.files import FileId

__all__ = ["identity_of"]


@functools.cache
def _kernel() -> str:
    """Return what the processes that can share a file have in common, in whichever container they are."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return platform.node()


def identity_of(found: FileId) -> str:
    """Return the identity of a file, as long as it exists; another file may get it after that.

    Args:
        found: Its device and inode.
    """
    device, inode = found
    return f"sqlite/{_kernel()}/{device}/{inode}"
