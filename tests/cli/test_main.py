import subprocess
import sys

import pytest

from jetlens import cli
from jetlens.errors import GateError, ImageError, UsageError, one_line


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
        (OSError(36, "File name too long", "aaa"), 1, "jetlens: aaa: File name too long\n"),
        (ImageError("missing", "\x1b[31m.jpg", "no such file"), 1, "jetlens: \\x1b[31m.jpg: no such file [missing]\n"),
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


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["predictt"], "No such command 'predictt'"),
        (["predict"], "INPUT"),
        (["predict", "a.jpg", "--confidence", "2"], "--confidence"),
        (["predict", "-dash.jpg"], "jetlens predict --help"),
        (["data", "orange-line"], "jetlens data orange-line --help"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_help(capsys: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    line = capsys.readouterr().err
    assert caught.value.code == 2
    assert line.startswith("jetlens: ")
    assert line.count("\n") == 1
    assert text in line


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    shown = capsys.readouterr()
    assert caught.value.code == 2
    assert "predict" in shown.out + shown.err


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    line = one_line("first " + "x" * 5000 + "\nlast")
    assert line.startswith("first xxx")
    assert line.endswith("xxx last")
    assert len("jetlens-cnn: " + line) <= 300
