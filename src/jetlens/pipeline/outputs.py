"""Outputs: where the results of live streams go: videos, folders of pictures and JSON lines."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from jetlens.backends.base import RunFacts
from jetlens.errors import OutputError, UsageError
from jetlens.frame import Frame
from jetlens.media.base import Sink, StreamInfo
from jetlens.media.images import ImageFolderSink
from jetlens.media.jsonlines import JsonLines
from jetlens.media.live.address import shown
from jetlens.media.rtsp_sink import RTSP_PORTS, RtspSink
from jetlens.media.segments import RecordingSink
from jetlens.pipeline.live import LiveResult

__all__ = ["Outputs", "record"]

_VIDEOS: Final = (".mp4", ".m4v", ".mov", ".mkv")
_PATIENCE_S: Final = 0.7
_LINES: Final = (".jsonl", ".ndjson")


def record(result: LiveResult, facts: RunFacts, task: str) -> dict[str, Any]:
    """One result's JSON object."""
    frame = result.frame
    return {
        "stream": frame.stream,
        "index": frame.index,
        "pts_s": round(frame.pts_s, 6),
        "age_ms": round(result.age_ms, 2),
        "latency_ms": round(result.latency_ms, 2),
        "inferred": result.inferred,
        "size_hw": list(result.prediction.size_hw),
        "task": task,
        "backend": facts.backend,
        "precision": facts.precision,
        **result.prediction.to_dict(),
    }


class Outputs:
    """Every sink of a run; ``write`` is what a pipeline delivers to.

    A name is told by its end: ``.mp4``, ``.m4v``, ``.mov`` and ``.mkv`` are videos (one a stream, numbered where there are several),
    ``.jsonl`` and ``.ndjson`` JSON lines of all streams, and a name without a suffix is a folder with a video of each stream. ``rtsp://`` and
    ``rtsps://`` are streams that a server such as MediaMTX takes (one a stream, numbered).

    Args:
        names: as the user gave them.
        infos: one a stream.
        segment_s: seconds of stream in one video; None for one file each.
        images: write each frame into the folder as a numbered PNG file in place of videos.
        screen: where JSON lines are printed besides; None for nowhere.

    Raises:
        UsageError: a name of another kind.
        OutputError: nothing can be written there.
    """

    def __init__(
        self,
        names: Sequence[str],
        infos: Sequence[StreamInfo],
        facts: RunFacts,
        task: str,
        *,
        segment_s: float | None = None,
        images: bool = False,
        screen: TextIO | None = None,
    ) -> None:
        self._facts, self._task = facts, task
        self._segment_s, self._images = segment_s, images
        self._sinks: list[list[Sink]] = [[] for _ in infos]
        self._files: list[TextIO] = []
        self._lines = [JsonLines(screen)] if screen is not None else []
        self._lock = threading.Lock()
        self._closed = False
        for name in names:
            self._add(name, infos)

    @property
    def draws(self) -> bool:
        """Whether results are to be drawn into the frames."""
        return any(self._sinks)

    @property
    def paths(self) -> list[Path]:
        """Video files that were begun."""
        return [path for sinks in self._sinks for sink in sinks if isinstance(sink, RecordingSink) for path in sink.paths]

    @property
    def notes(self) -> list[str]:
        """What the sinks had to do to frames."""
        return sorted({sink.note for sinks in self._sinks for sink in sinks if sink.note})

    def write(self, result: LiveResult, drawn: Frame) -> None:
        """Writes one result to every sink of its stream; nothing once they are closed.

        Raises:
            OutputError: it cannot be written.
        """
        with self._lock:
            if self._closed:
                return
            for sink in self._sinks[result.stream]:
                sink.write(drawn)
            if self._lines:
                content = record(result, self._facts, self._task)
                for lines in self._lines:
                    lines.write(content)

    def close(self) -> None:
        """Completes every file, whatever happens to one of them; closing twice is allowed.

        Raises:
            OutputError: the first that cannot be completed, or a write that does not end.
        """
        if not self._lock.acquire(timeout=_PATIENCE_S):
            raise OutputError(
                f"a frame could not be written within {_PATIENCE_S:g} s; is the disk or its network gone? The last file is not whole"
            )
        try:
            self._complete()
        finally:
            self._lock.release()

    def _complete(self) -> None:
        failure: OutputError | None = None
        if not self._closed:
            self._closed = True
            for sink in [sink for sinks in self._sinks for sink in sinks]:
                try:
                    sink.close()
                except OutputError as error:
                    failure = failure or error
            for file in self._files:
                with suppress(OSError):
                    file.close()
        if failure is not None:
            raise failure

    def _add(self, name: str, infos: Sequence[StreamInfo]) -> None:
        if name.partition("://")[0].lower() in RTSP_PORTS and "://" in name:
            place, mark, query = name.partition("?")
            for number, info in enumerate(infos, 1):
                address = name if len(infos) == 1 else f"{place}-{number}{mark}{query}"
                self._sinks[number - 1].append(RtspSink(address, info))
            return
        if "://" in name:
            raise UsageError(f"--output {shown(name)}: results go to files, folders and rtsp://; --view shows them on a page")
        path = Path(name)
        suffix = "" if path.is_dir() else path.suffix.lower()
        if suffix in _LINES:
            self._lines.append(JsonLines(self._opened(path)))
        elif suffix in _VIDEOS:
            for number, info in enumerate(infos, 1):
                numbered = path if len(infos) == 1 else path.with_stem(f"{path.stem}-{number}")
                self._sinks[number - 1].append(RecordingSink(numbered, info, segment_s=self._segment_s))
        elif suffix:
            raise UsageError(f"--output {name}: give a video ({', '.join(_VIDEOS)}), JSON lines ({_LINES[0]}) or a folder")
        else:
            self._fill(path, infos)

    def _fill(self, folder: Path, infos: Sequence[StreamInfo]) -> None:
        """A folder with something of each stream."""
        for number, info in enumerate(infos):
            stem = f"{number + 1:02d}-{_plain(info.name)}"
            if self._images:
                self._sinks[number].append(ImageFolderSink(folder / stem, info))
            else:
                self._sinks[number].append(RecordingSink(folder / f"{stem}.mp4", info, segment_s=self._segment_s))

    def _opened(self, path: Path) -> TextIO:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from None
        self._files.append(file)
        return file


def _plain(name: str) -> str:
    """A stream's name as part of a file's: the end of its path without what a file name may not hold."""
    last = name.partition("://")[2].partition("?")[0] or Path(name).stem
    kept = "".join(char if char.isalnum() or char in "-_" else "-" for char in last)
    return kept.strip("-")[-60:] or "stream"
