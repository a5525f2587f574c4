"""Every module and every command's help with only the core dependencies installed: numpy, pillow, typer, rich."""

import json
import subprocess
from pathlib import Path

import pytest

from jetlens.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / ".venv-core" / "bin" / "python"
# The only modules that may stand on torch: what they define are torch modules.
TORCH_ONLY = ("jetlens.models.", "jetlens.train.", "jetlens.backends.pytorch", "jetlens.export.")

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import jetlens
from jetlens.errors import MissingDependencyError
found = {}
for info in pkgutil.walk_packages(jetlens.__path__, "jetlens.", onerror=lambda name: None):
    if info.name == "jetlens.__main__":
        continue
    try:
        importlib.import_module(info.name)
        found[info.name] = ""
    except Exception as error:
        found[info.name] = f"{type(error).__name__}: {error}"
print(json.dumps({"modules": found, "optional": [n for n in ("torch", "cv2", "onnxruntime", "av", "onnx") if n in sys.modules]}))
"""


@pytest.fixture(scope="module")
def core_python() -> str:
    if not CORE.exists():
        pytest.skip(f"{CORE.parent.parent.name} is not made; `make test` makes it")
    return str(CORE)


def test_every_module_imports(core_python: str) -> None:
    reply = subprocess.run([core_python, "-c", IMPORT_ALL], capture_output=True, text=True, check=True, cwd="/")
    answer = json.loads(reply.stdout)
    assert len(answer["modules"]) > 40
    assert answer["optional"] == []
    failed = {name: why for name, why in answer["modules"].items() if why and not (name.startswith(TORCH_ONLY) and "torch" in why)}
    assert failed == {}


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_every_command_shows_its_help(core_python: str, name: str) -> None:
    words = [name, "--help"] if name else ["--help"]
    reply = subprocess.run([core_python, "-m", "jetlens", *words], capture_output=True, text=True, check=False, cwd="/")
    assert reply.returncode == 0, reply.stderr
    assert "Usage" in reply.stdout
    assert reply.stderr == ""
