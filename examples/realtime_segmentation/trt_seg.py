"""The same on TensorRT: python trt_seg.py SOURCE [OUTPUT.mp4] [MODEL.onnx]

The engine is built on first use, kept, and taken from the cache afterwards; without TensorRT this says so and ends.
"""

import sys

from torch_seg import run

import jetlens

if __name__ == "__main__":
    try:
        run("tensorrt", *sys.argv[1:])
    except jetlens.JetlensError as error:
        sys.exit(f"trt_seg: {error}")
