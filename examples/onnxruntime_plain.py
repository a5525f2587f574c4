"""The tutorials' ONNX Runtime snippet, without jetlens: python onnxruntime_plain.py model.onnx PICTURE

model.onnx is the plain graph: jetlens export NETWORK --plain --opset 11 --input-name input --output-name logits --output model.onnx
"""

import sys

import numpy as np
import onnxruntime as ort
from PIL import Image

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def pixels(path: str) -> np.ndarray:
    """Resize the short side to 256, cut 224x224 out of the middle, RGB from 0 to 1, mean and std: all of it, as the network was trained."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    return ((np.asarray(image, np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None]


def main(model: str, picture: str) -> None:
    """Prints the class of the picture."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels(picture)})
    odds = np.exp(logits[0] - logits[0].max())
    print(f"class {logits[0].argmax()}, confidence {odds.max() / odds.sum():.4f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
