"""Fault 2, another resizing on each side: the outputs change although the network did not. python resizing.py PICTURE [MODEL]"""

import sys
from dataclasses import replace

import numpy as np

import jetlens
from jetlens.tasks import TASKS

WAYS = {"as it was trained": {}, "the same again": {}, "stretched to the square": {"resize": "stretch", "short_side": None}}


def main(picture: str, model: str = "mobilenet_v2") -> None:
    """One classifier on one runtime, the same picture resized in the right way twice, and stretched."""
    image = jetlens.load_image(picture)
    with jetlens.load(model, backend="onnxruntime") as predictor:
        right = None
        for name, changes in WAYS.items():
            spec = replace(predictor.spec, preprocess=replace(predictor.spec.preprocess, **changes))
            task = TASKS.load("classification")(spec)
            batch = task.preprocess([image])
            outputs = predictor.infer(batch)
            (logits,) = outputs.values()
            right = logits.copy() if right is None else right
            best = task.postprocess(outputs, batch)[0].to_dict()["top"][0]
            off = np.abs(logits - right).max()
            print(f"{name}: {best['label']} {best['confidence']:.4f}; outputs off by {off:.2g} at most")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except jetlens.JetlensError as error:
        sys.exit(f"resizing: {error}")
