"""Videos made on the spot, whose every frame tells its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coded_video import coded_image

MakeVideo = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Writes a coded video with PyAV."""
    av = pytest.importorskip("av")

    def make(
        name: str = "video.mp4",
        frames: int = 12,
        size_hw: tuple[int, int] = (96, 160),
        *,
        muxer: str = "mp4",
        codec: str = "mpeg4",
        times: Sequence[int] | None = None,
        options: dict[str, str] | None = None,
        turn: tuple[int, bool] | None = None,
        noise: int = 0,
    ) -> Path:
        path = tmp_path / name
        rng = np.random.default_rng(0)
        with av.open(str(path), "w", format=muxer, options=options or {}) as container:
            stream: Any = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = size_hw[1], size_hw[0], "yuv420p" if codec != "rawvideo" else "rgb24"
            stream.codec_context.time_base = Fraction(1, 30)
            if turn is not None:
                if not hasattr(stream, "set_display_rotation"):
                    pytest.skip("this PyAV writes no display matrix")
                stream.set_display_rotation(turn[0], hflip=turn[1])
            for index in range(frames):
                image = coded_image(index, size_hw)
                if noise:
                    image[:noise] = rng.integers(0, 255, (noise, size_hw[1], 3))
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = (times[index] if times else index), Fraction(1, 30)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make
