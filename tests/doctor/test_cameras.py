"""`jetlens doctor --cameras`: each camera with the address that reads it, and one line where there is none."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "media" / "live"))

from fake_v4l2 import FakeDriver, csi_sensor, webcam

from jetlens.cli import doctor as doctor_command
from jetlens.cli import main
from jetlens.doctor import cameras
from jetlens.doctor.cameras import describe, find_cameras
from jetlens.errors import InputError
from jetlens.media import open_source


def machine(folder: Path, *drivers: FakeDriver) -> Callable[[int, int, bytearray], None]:
    """A folder of devices, and who answers for the one that is open."""
    by_name = {f"video{number}": driver for number, driver in enumerate(drivers)}
    for name in by_name:
        (folder / name).touch()

    def ioctl(file: int, request: int, data: bytearray) -> None:
        by_name[Path(os.readlink(f"/proc/self/fd/{file}")).name](file, request, data)

    return ioctl


def test_every_camera_has_the_address_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "csi_missing", lambda: "")
    metadata = FakeDriver(capabilities=0x84A0_0001, own=0x04A0_0000)
    depth = FakeDriver("Depth", formats={"Z16 ": ("16-bit depth", {(640, 480): [(1, 30)]})})
    found = list(find_cameras(tmp_path, machine(tmp_path, webcam(), metadata, csi_sensor(), depth, csi_sensor())))
    assert [camera.source.replace(str(tmp_path), "/dev") for camera in found] == [
        "v4l2:///dev/video0?format=mjpg&size=1280x720&fps=60",
        "csi://0?size=1280x720&fps=60",
        "",
        "csi://1?size=1280x720&fps=60",
    ]
    assert "none of its formats is read" in found[2].problem
    text = "\n".join(describe(found[0]))
    assert "HD Camera (uvcvideo, usb-0000:00:14.0-1)" in text
    assert "YUYV (YUYV 4:2:2): 640x480 at 30, 15; 1280x720 at 10" in text
    assert "Brightness -64 to 64, now 5; White Balance, Automatic 0|1, now 1; Power Line Frequency Disabled|50 Hz|Auto, now 1" in text
    with pytest.raises(InputError):  # the address is a right one: only the camera is missing
        open_source("v4l2:///dev/video0?format=mjpg&size=1280x720&fps=60")


def test_what_keeps_a_csi_camera_from_being_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    (camera,) = find_cameras(tmp_path, machine(tmp_path, csi_sensor()))
    assert "sudo apt install python3-gi" in describe(camera)[2]


def test_a_device_that_cannot_be_asked_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    (camera,) = find_cameras(tmp_path)
    assert describe(camera) == [f"{tmp_path}/video0: it does not answer as a V4L2 device: Inappropriate ioctl for device"]


def run(*flags: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--cameras", *flags])
    assert caught.value.code == 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[Any] = list(find_cameras(tmp_path, machine(tmp_path, webcam())))
    monkeypatch.setattr(doctor_command, "find_cameras", lambda: iter(found))
    run()
    assert capsys.readouterr().out.splitlines() == describe(found[0])
    run("--json")
    (line,) = capsys.readouterr().out.splitlines()
    content = json.loads(line)
    assert content["source"] == found[0].source
    assert content["device"]["formats"][1]["sizes"][1] == {"wh": [1280, 720], "largest_wh": [1280, 720], "fps": [60.0, 30.0, 29.97]}


def test_a_machine_without_cameras(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor_command, "find_cameras", lambda: iter(()))
    run()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no camera: ")
    run("--json")
    assert capsys.readouterr().out == ""
