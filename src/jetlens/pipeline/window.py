"""Window: the newest frame of each stream on the screen, with keys to quit, pause and save."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jetlens.errors import BackendError
from jetlens.frame import Frame
from jetlens.media.images import write_image
from jetlens.registry import require
from jetlens.results import Prediction

__all__ = ["KEYS", "Window"]

KEYS: Final = {ord("q"): "quit", 27: "quit", ord("p"): "pause", ord("s"): "save"}
"""What the keys q, Esc, p and s do."""
_WAIT_MS: Final = 15


class Window:
    """OpenCV's windows, one a stream; made and updated in the main thread, by ``poll``.

    Args:
        toggle_pause: called for the key p.
        folder: where the key s saves.
        say: takes a line for people.

    Raises:
        BackendError: this OpenCV cannot show windows, or there is no display.
    """

    def __init__(self, toggle_pause: Callable[[], None], folder: Path, say: Callable[[str], None]) -> None:
        self._cv2: Any = require("cv2", extra="cpu", why="--window")
        self._toggle_pause, self._folder, self._say = toggle_pause, folder, say
        self._lock = threading.Lock()
        self._newest: dict[str, Frame] = {}
        self._shown: dict[str, Frame] = {}
        try:
            self._cv2.namedWindow("jetlens", self._cv2.WINDOW_NORMAL)
            self._cv2.destroyWindow("jetlens")
        except self._cv2.error:
            raise BackendError(
                "--window: this OpenCV has no windows (opencv-python-headless) or there is no display; "
                "install opencv-python in its place and set DISPLAY, or look at a page: --view 8080"
            ) from None

    def wanted(self, stream: str) -> bool:
        """Always: the window is open."""
        return True

    def show(self, frame: Frame, prediction: Prediction) -> None:
        """Keeps the newest frame of its stream."""
        with self._lock:
            self._newest[frame.stream] = frame

    def poll(self) -> bool:
        """Shows what is new and obeys a key; False when the user quits."""
        with self._lock:
            new, self._newest = self._newest, {}
        for name, frame in new.items():
            self._cv2.imshow(name, frame.image_rgb[:, :, ::-1])
        self._shown.update(new)
        action = KEYS.get(self._cv2.waitKey(_WAIT_MS) & 0xFF, "")
        if action == "pause":
            self._toggle_pause()
        if action == "save":
            self._save()
        return action != "quit" and not self._closed_by_user()

    def close(self) -> None:
        """Closes the windows."""
        self._cv2.destroyAllWindows()

    def _closed_by_user(self) -> bool:
        visible = self._cv2.WND_PROP_VISIBLE
        return bool(self._shown) and all(self._cv2.getWindowProperty(name, visible) < 1 for name in self._shown)

    def _save(self) -> None:
        for number, frame in enumerate(self._shown.values(), 1):
            path = self._folder / f"snapshot-{time.strftime('%Y%m%d-%H%M%S')}-{number}.png"
            write_image(path, frame.image_rgb)
            self._say(f"-> {path}")
