"""`jetlens monitor` prints readings as lines, JSON or a table, says n/a for what is not measured, and ends well."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boards import write_program
from jetlens.cli import main

COMMAND = [sys.executable, "-m", "jetlens", "monitor", "--interval", "0.1"]


def _main(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["monitor", *flags])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def _on_a_terminal(keys: bytes, after: bytes, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit code and what was shown when keys are pressed after a text was seen on the terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        COMMAND, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env={**os.environ, "TERM": "xterm", **(environment or {})}
    )
    os.close(slave)
    shown, pressed, deadline = b"", False, time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            shown += part
        if not pressed and after in shown:
            os.write(master, keys)
            pressed = True
        if process.poll() is not None:
            break
    code = process.wait(10)
    os.close(master)
    return code, shown.decode(errors="replace")


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _main(capsys, "--count", "2", "--interval", "0.1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 2
    assert all("CPU " in line and "memory " in line and "power " in line for line in lines)


def test_json_of_a_jetson(capsys: pytest.CaptureFixture[str], tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = shared_data / "logs/tegrastats_agx_orin64_4cpu_off.txt"
    program = write_program(tmp_path, "tegrastats", f"while :; do head -1 '{log}'; sleep 0.05; done")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    code, out, _ = _main(capsys, "--count", "2", "--interval", "0.1", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, len(rows)) == (0, 2)
    assert rows[0]["power_w"] == pytest.approx(6.912)
    assert rows[0]["power_rail"] == "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert rows[0]["gpu_percent"] == 39
    assert [core["online"] for core in rows[0]["cores"]].count(False) == 4
    code, out, _ = _main(capsys, "--count", "1", "--interval", "0.1")
    assert "GPU 39 %" in out
    assert "power 6.9 W VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0" in out


def test_what_is_not_measured_is_not_0(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    _, out, _ = _main(capsys, "--count", "1", "--interval", "0.1")
    assert "GPU n/a" in out
    assert "GPU 0" not in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--interval", "0"], "--interval 0"),
        (["--interval", "nan"], "--interval nan"),
        (["--count", "0"], "--count 0"),
        (["--count", "x"], "--count"),
    ],
)
def test_wrong_flags(capsys: pytest.CaptureFixture[str], flags: list[str], said: str) -> None:
    code, out, err = _main(capsys, *flags)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_a_terminal_shows_a_table_and_a_key_ends_it(key: bytes) -> None:
    """Ctrl-C arrives as a key here, since the terminal is not the process's own."""
    code, shown = _on_a_terminal(key, b"q ends") if key == b"q" else _interrupted()
    assert code == 0
    assert "Traceback" not in shown
    if key == b"q":
        for word in ("cores", "memory", "power", "temperature", "throttling"):
            assert word in shown


def _interrupted() -> tuple[int, str]:
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return process.returncode, first + out + err


def test_a_reader_that_goes_away_is_no_error() -> None:
    """Whoever reads the lines sees no complaint, and the exit code is that of a good end."""
    script = f"{' '.join(COMMAND)} 2>&1 | head -1; echo ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    first, code = answer.stdout.splitlines()
    assert "CPU" in first
    assert code == "0"
