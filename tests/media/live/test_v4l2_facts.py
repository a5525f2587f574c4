"""What a V4L2 driver tells is read from the kernel's structures as they are, and a driver that tells nonsense is borne."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
from fake_v4l2 import FakeDriver, csi_sensor, webcam

from jetlens.errors import InputError
from jetlens.media.live import v4l2_facts
from jetlens.media.live.v4l2_facts import read_device

HERE = Path("/dev/null")


def test_a_camera_s_formats_sizes_rates_and_controls() -> None:
    device = read_device(HERE, webcam())
    assert device is not None
    assert (device.path, device.name, device.driver, device.bus) == ("/dev/null", "HD Camera", "uvcvideo", "usb-0000:00:14.0-1")
    assert [kind.code for kind in device.formats] == ["YUYV", "MJPG"]
    assert [(size.wh, size.fps) for size in device.formats[0].sizes] == [((640, 480), (30.0, 15.0)), ((1280, 720), (10.0,))]
    assert device.formats[1].sizes[1].fps == (60.0, 30.0, 29.97)
    brightness, balance, frequency, temperature = device.controls
    assert (brightness.kind, brightness.low, brightness.high, brightness.usual, brightness.value) == ("number", -64, 64, 0, 5)
    assert (balance.kind, balance.value) == ("switch", 1)
    assert frequency.choices == ("Disabled", "50 Hz", "Auto")
    assert temperature.value is None


def test_a_range_of_sizes_and_buffers_of_several_planes() -> None:
    sizes = {(32, 4096, 2, 16, 2160, 2): [(1, 60)]}
    driver = FakeDriver(capabilities=0x8000_1000, own=0x1000, kind=9, formats={"NV12": ("Y/UV 4:2:0", sizes)})
    device = read_device(HERE, driver)
    assert device is not None
    (size,) = device.formats[0].sizes
    assert (size.wh, size.largest_wh, size.fps) == ((32, 16), (4096, 2160), (60.0,))


@pytest.mark.parametrize(("everything", "own"), [(0x84A0_0001, 0x04A0_0000), (0x0000_0002, 0)])
def test_a_node_without_pictures_is_no_camera(everything: int, own: int) -> None:
    assert read_device(HERE, FakeDriver(capabilities=everything, own=own)) is None


def test_lists_without_an_end_are_left() -> None:
    def endless(file: int, request: int, data: bytearray) -> None:
        if request != 0x80685600:
            data[4:] = bytes([65] * (len(data) - 4))
            data[-1] = 0
        else:
            webcam()(file, request, data)

    device = read_device(HERE, endless)
    assert device is not None
    assert len(device.formats) <= 256


def test_names_are_told_without_what_a_terminal_obeys() -> None:
    device = read_device(HERE, FakeDriver(name="\x1b[31mred\n"))
    assert device is not None
    assert device.name == "?[31mred?"


def test_what_is_no_video_device_is_said() -> None:
    with pytest.raises(InputError, match="does not answer as a V4L2 device"):
        read_device(HERE)
    with pytest.raises(InputError, match="No such file"):
        read_device(Path("/dev/video987"))


def test_the_requests_are_the_kernel_s() -> None:
    """Each number carries the size of its structure, which ctypes lays out from the declarations in videodev2.h."""
    if sys.platform != "linux":
        pytest.skip("V4L2 is Linux's")
    u32, s32, char = ctypes.c_uint32, ctypes.c_int32, ctypes.c_char
    structures = {
        "_QUERYCAP": (2, 0, [char * 16, char * 32, char * 32, u32, u32, u32, u32 * 3]),
        "_ENUM_FMT": (3, 2, [u32, u32, u32, char * 32, u32, u32, u32 * 3]),
        "_ENUM_FRAMESIZES": (3, 74, [u32, u32, u32, u32 * 6, u32 * 2]),
        "_ENUM_FRAMEINTERVALS": (3, 75, [u32, u32, u32, u32, u32, u32 * 6, u32 * 2]),
        "_QUERYCTRL": (3, 36, [u32, u32, char * 32, s32, s32, s32, s32, u32, u32 * 2]),
        "_QUERYMENU": (3, 37, [u32, u32, char * 32, u32]),
        "_G_CTRL": (3, 27, [u32, s32]),
    }
    for name, (direction, number, parts) in structures.items():
        layout = type(name, (ctypes.Structure,), {"_fields_": [(f"f{i}", kind) for i, kind in enumerate(parts)]})
        assert getattr(v4l2_facts, name) == direction << 30 | ctypes.sizeof(layout) << 16 | ord("V") << 8 | number, name


def test_a_csi_sensor_is_a_device_too() -> None:
    device = read_device(HERE, csi_sensor())
    assert device is not None
    assert device.driver == "tegra-video"
    assert device.formats[0].code == "RG10"
