"""Files to read and to write, compressed by the suffix of their names."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import typer

from sessions.errors import MissingDependencyError, SessionsError

__all__ = ["STANDARD_STREAM", "Source", "appended", "open_source"]

STANDARD_STREAM = Path("-")
BUFFER_BYTES = 64 * 1024


class Source:
    """A file of conversations.

    Attributes:
        lines: What it holds, decompressed.
        size: Its length in bytes, compressed; None if that is not known, as of a pipe.
    """

    def __init__(self, raw: BinaryIO, lines: BinaryIO, size: int | None) -> None:
        self._raw = raw
        self.lines = lines
        self.size = size

    @property
    def position(self) -> int:
        """How many bytes of the compressed file are read; 0 if it cannot be told."""
        try:
            return self._raw.tell()
        except (OSError, ValueError):  # No file, or one that is closed.
            return self.size or 0


@contextlib.contextmanager
def open_source(file: Path) -> Iterator[Source]:
    """Open a file to read, or standard input for ``-``; ``.gz`` and ``.zst`` are decompressed.

    Raises:
        SessionsError: The file is truncated, or not in the format of its suffix.
    """
    if file == STANDARD_STREAM:
        stream = typer.get_binary_stream("stdin")
        yield Source(stream, stream, None)
        return
    with file.open("rb", BUFFER_BYTES) as raw:
        size = file.stat().st_size or None
        with contextlib.ExitStack() as opened:
            lines = opened.enter_context(_decompressed(raw, file.suffix))
            try:
                yield Source(raw, lines, size)
            except _broken(file.suffix):
                failure = SessionsError(f"{file}: is damaged, or truncated, or not {file.suffix[1:]}")
            else:
                return
    raise failure


@contextlib.contextmanager
def appended(raw: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    """Compress what is written, by the suffix, as a part of its own: parts may follow one another."""
    if suffix == ".gz":
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6) as opened:
            yield cast(BinaryIO, opened)
    elif suffix == ".zst":
        with _zstandard().ZstdCompressor().stream_writer(raw, closefd=False) as writer:
            yield cast(BinaryIO, writer)
    else:
        yield raw


@contextlib.contextmanager
def _decompressed(raw: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    if suffix == ".gz":
        with gzip.GzipFile(fileobj=raw, mode="rb") as opened:
            yield cast(BinaryIO, opened)
    elif suffix == ".zst":
        with io.BufferedReader(_ZstdReader(raw), BUFFER_BYTES) as buffered:
            yield buffered
    else:
        yield raw


class _ZstdReader(io.RawIOBase):
    """Reads frames that follow one another; the library's own reader takes a truncated one for a whole."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decompressor = _zstandard().ZstdDecompressor()
        self._frame: Any = None
        self._data = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._data and (compressed := self._raw.read(BUFFER_BYTES)):
            decompressed = []
            while compressed:
                self._frame = self._frame or self._decompressor.decompressobj()
                decompressed.append(self._frame.decompress(compressed))
                compressed = b""
                if self._frame.eof:
                    compressed, self._frame = self._frame.unused_data, None
            self._data = b"".join(decompressed)
        if not self._data and self._frame is not None:
            raise EOFError
        count = min(len(buffer), len(self._data))
        buffer[:count], self._data = self._data[:count], self._data[count:]
        return count


def _broken(suffix: str) -> tuple[type[Exception], ...]:
    if suffix == ".gz":
        return EOFError, zlib.error, gzip.BadGzipFile
    return (EOFError, _zstandard().ZstdError) if suffix == ".zst" else ()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingDependencyError(
            "files with the suffix .zst need zstandard; run: pip install 'agenthub-sessions[cli]'"
        ) from error
    return zstandard
