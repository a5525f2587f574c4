import subprocess
import sys

import pytest

from jetlens import cli
from jetlens.errors import GateError, ImageError, UsageError


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jetlens", *words], capture_output=True, text=True, check=False)


def test_an_unknown_command_is_wrong_usage() -> None:
    reply = run("predictt")
    assert reply.returncode == 2
    assert "predictt" in reply.stderr
    assert "Traceback" not in reply.stderr


def test_version() -> None:
    assert run("--version").stdout.startswith("jetlens 0.")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ImageError("empty", "a.png", "the file is\nempty"), 1, "jetlens: a.png: the file is empty [empty]\n"),
        (UsageError("no"), 2, "jetlens: no\n"),
        (GateError("too slow"), 3, "jetlens: too slow\n"),
        (
            ZeroDivisionError("oops"),
            1,
            "jetlens: internal error, please report it: ZeroDivisionError: oops (JETLENS_DEBUG=1 shows where)\n",
        ),
        (KeyboardInterrupt(), 130, "jetlens: interrupted\n"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    def fail(given: object) -> object:
        raise error

    monkeypatch.delenv("JETLENS_DEBUG", raising=False)
    monkeypatch.setattr(cli, "_app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict"])
    assert caught.value.code == code
    assert capsys.readouterr().err == text
