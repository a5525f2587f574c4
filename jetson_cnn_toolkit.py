"""The script of the Jetson CNN Toolkit's tutorial: python jetson_cnn_toolkit.py --mode train --model BasicCNN --dataset cifar10 --epochs 20."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # In a checkout it also runs before anything is installed but the dependencies.
    sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))
    from jetlens.cli.toolkit import main

    main()
