"""JSON lines: one object a line, to the screen or to a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from jetlens.errors import OutputError

__all__ = ["JsonLines"]


class JsonLines:
    """Writes one JSON object a line and flushes, so that a reader sees each as soon as it is known.

    Numbers that JSON lacks (NaN, infinities) are an error, and names that are no valid Unicode are escaped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes one object.

        Raises:
            OutputError: it cannot be written; a closed pipe stays a BrokenPipeError.
        """
        try:
            self._stream.write(json.dumps(record, allow_nan=False) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"JSON lines cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Flushes; the stream stays open, it is the caller's."""
        self._stream.flush()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
