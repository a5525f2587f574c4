"""`jetlens doctor` prints the diagnosis and what each command can do, and exits with 0 whatever it finds."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from jetlens.cli import doctor as doctor_command
from jetlens.cli import main
from jetlens.doctor import Check

CHECKS = [
    Check("GPU", False, "no NVIDIA GPU", "models run on the processor", "install its driver", applies=False),
    Check("backend onnxruntime", True, "1.20, CPU ran a node", "runs on the CPU"),
    Check("backend pytorch", False, "torch not installed", "--backend pytorch is refused", "pip install 'jetlens[train]'"),
]


@pytest.fixture(autouse=True)
def _diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    def diagnose() -> Iterator[Check]:
        yield from CHECKS

    monkeypatch.setattr(doctor_command, "diagnose", diagnose)


def _run(*flags: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *flags])
    assert caught.value.code == 0


def test_json_has_a_line_a_check_and_a_line_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    _run("--json")
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = [json.loads(line) for line in captured.out.splitlines()]
    checks, commands = rows[: len(CHECKS)], rows[len(CHECKS) :]
    assert all(row.keys() == {"name", "ok", "found", "means", "remedy", "applies"} for row in checks)
    assert all(row.keys() == {"command", "status", "why", "remedy"} for row in commands)
    by_command = {row["command"]: row for row in commands}
    assert by_command["predict"]["status"] == "ready"
    assert by_command["train"] == {
        "command": "train",
        "status": "not",
        "why": "backend pytorch: torch not installed",
        "remedy": "pip install 'jetlens[train]'",
    }


def test_the_table_marks_what_is_there_missing_and_of_no_use(capsys: pytest.CaptureFixture[str]) -> None:
    _run()
    lines = capsys.readouterr().out.splitlines()
    starts = {line.split()[1]: line.split()[0] for line in lines if len(line.split()) > 2}
    assert starts["GPU"] == "-"
    assert any(line.startswith("yes  backend onnxruntime") for line in lines)
    assert any(line.startswith("no   backend pytorch") for line in lines)
    assert any(line.startswith("not") and "jetlens train" in line for line in lines)
