"""Fault 3, two changes at once: another machine and another runtime. python two_changes.py PICTURE [MODEL]"""

import os
import sys
from contextlib import ExitStack
from statistics import median

import jetlens
from jetlens.device import find_gpus

TURNS = 10


def main(picture: str, model: str = "mobilenet_v2") -> None:
    """Small machine to large machine to other runtime: CPU, GPU, TensorRT where there is a GPU, else one thread, all threads, ONNX Runtime."""
    image, cores = jetlens.load_image(picture), os.cpu_count() or 1
    steps = [("pytorch", "cpu", 1), ("pytorch", "cpu", cores), ("onnxruntime", "cpu", cores)]
    if find_gpus():
        steps = [("pytorch", "cpu", None), ("pytorch", "cuda", None), ("tensorrt", "cuda", None)]
    with ExitStack() as stack:
        loaded = [stack.enter_context(jetlens.load(model, backend, device, threads=threads)) for backend, device, threads in steps]
        for predictor in loaded:
            [predictor.timed(image) for _ in range(5)]  # warm-up
        turns = [[predictor.timed(image)[1].infer_ms for predictor in loaded] for _ in range(TURNS)]  # by turns: drift hits all alike
    first, second, third = (median(times) for times in zip(*turns, strict=True))
    for (backend, device, threads), value_ms in zip(steps, (first, second, third), strict=True):
        print(f"{backend} on {device}{f', {threads} threads' if threads else ''}: {value_ms:.1f} ms")
    print(f"claimed by comparing the ends: {first / third:.2f} times; the machine {first / second:.2f}, the runtime {second / third:.2f}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except jetlens.JetlensError as error:
        sys.exit(f"two_changes: {error}")
