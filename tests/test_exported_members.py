import subprocess
import sys

import jetlens


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert jetlens.__all__ == sorted(jetlens.__all__)
    for name in jetlens.__all__:
        assert getattr(jetlens, name) is not None


def test_importing_jetlens_imports_no_runtime() -> None:
    heavy = ("torch", "cv2", "onnxruntime", "openvino", "av", "numpy")
    code = f"import sys, jetlens; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
