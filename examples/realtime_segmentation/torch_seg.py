"""Segmentation on PyTorch in real time: python torch_seg.py SOURCE [OUTPUT.mp4] [MODEL.onnx]

SOURCE is a camera (0, csi://0, rtsp://...) or a file. Without OUTPUT a window shows it; q closes it. build_onnx.py makes the model.
"""

import sys
from contextlib import closing
from pathlib import Path

import jetlens
from jetlens.media import open_source
from jetlens.media.segments import RecordingSink
from jetlens.pipeline import Renderer, predict_stream
from jetlens.pipeline.capture import is_live
from jetlens.pipeline.window import Window


def run(backend: str, source: str = "0", output: str = "", model: str = "segmentation.onnx") -> None:
    """Colours over every frame, with average FPS, latency and classes; of a camera one frame at a time, so that none grows old."""
    with jetlens.load(model, backend=backend) as predictor, open_source(source) as frames:
        sink = RecordingSink(Path(output), frames.info) if output else Window(lambda: None, Path(), print)

        def deliver(result, frame):
            sink.write(frame) if output else sink.show(frame, result.prediction)
            if not output and not sink.poll():
                raise KeyboardInterrupt

        with closing(sink):
            stats = predict_stream(frames, predictor, Renderer(predictor.facts), deliver, threaded=not is_live(frames))
        print(f"{stats.frames} frames, {stats.fps:.1f} FPS on average, on {predictor.chosen}, {predictor.facts.device}")
        if stats.ended_by:
            raise stats.ended_by


if __name__ == "__main__":
    try:
        run("pytorch", *sys.argv[1:])
    except (jetlens.JetlensError, KeyboardInterrupt) as error:
        sys.exit(f"torch_seg: {error or 'stopped'}")
