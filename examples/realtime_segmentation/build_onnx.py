"""DeepLabV3 as ONNX, 512x512, ImageNet's mean and std inside: python build_onnx.py [WEIGHTS.pth] [NETWORK] [OUTPUT.onnx]

Without WEIGHTS (or with "pretrained") torchvision's own are fetched once; "random" takes none, to try the programs without a network.
"""

import sys
from pathlib import Path

import jetlens
from jetlens.export.onnx import export_model
from jetlens.export.trained import network_to_export

SIZE_HW = (512, 512)


def build(weights: str = "pretrained", name: str = "deeplabv3_resnet50", output: str = "segmentation.onnx") -> None:
    """Exports a network of torchvision; the file is written only if it answers as PyTorch does."""
    file = None if weights in ("pretrained", "random") else Path(weights)
    network, spec = network_to_export(name, file, untrained=weights == "random", size_hw=SIZE_HW)
    export_model(network, spec, Path(output), batch=1, allow_random=weights == "random", report=print)
    print(f"{output}: {Path(output).stat().st_size / 2**20:.1f} MiB, {len(spec.labels)} classes, {SIZE_HW[0]}x{SIZE_HW[1]}")


if __name__ == "__main__":
    try:
        build(*sys.argv[1:])
    except jetlens.JetlensError as error:
        sys.exit(f"build_onnx: {error}")
