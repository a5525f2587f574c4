"""What the source may not hold: nothing here runs code that comes out of a file (goal M1)."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "jetlens"
CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "marshal.loads", "os.system"}
FLAGS = {("weights_only", False), ("allow_pickle", True), ("shell", True)}


def forbidden(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in CALLS else []
            found += [
                f"{word.arg}={word.value.value}"
                for word in node.keywords
                if isinstance(word.value, ast.Constant) and (word.arg, word.value.value) in FLAGS
            ]
    return found


@pytest.mark.parametrize(
    "line", ["eval('1')", "import pickle; pickle.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)"]
)
def test_the_rule_sees_what_it_is_for(line: str) -> None:
    assert forbidden(line)
    assert not forbidden("network.eval(); torch.load(f, weights_only=True); ast.literal_eval(text)")


def test_no_file_runs_what_it_reads() -> None:
    found = {
        str(path.relative_to(SOURCE)): names for path in SOURCE.rglob("*.py") if (names := forbidden(path.read_text(encoding="utf-8")))
    }
    assert found == {}
