"""A V4L2 driver as far as it is asked for facts: fills the kernel's structures (linux/videodev2.h) for a camera that the test describes."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, field


@dataclass
class FakeDriver:
    """Answers ioctl requests.

    Attributes:
        formats: four letters to name and sizes; a size is (width, height) to rates as fractions, or the six numbers of a range.
        controls: (number, kind, name, low, high, step, usual, flags, value, choices by value).
    """

    name: str = "HD Camera"
    driver: str = "uvcvideo"
    capabilities: int = 0x8420_0001
    own: int = 0x0420_0001
    kind: int = 1
    formats: dict[str, tuple[str, dict[tuple[int, ...], list[tuple[int, int]]]]] = field(default_factory=dict)
    controls: list[tuple[int, int, str, int, int, int, int, int, int | None, dict[int, str]]] = field(default_factory=list)

    def __call__(self, file: int, request: int, data: bytearray) -> None:
        size = request >> 16 & 0x3FFF
        assert len(data) == size, "the request carries the size of its structure"
        answer = getattr(self, f"_{chr(request >> 8 & 0xFF)}{request & 0xFF}", None)
        if answer is None:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        answer(data)

    def _V0(self, data: bytearray) -> None:  # noqa: N802 - querycap
        struct.pack_into(
            "=16s32s32sIII", data, 0, self.driver.encode(), self.name.encode(), b"usb-0000:00:14.0-1", 6, self.capabilities, self.own
        )

    def _V2(self, data: bytearray) -> None:  # noqa: N802 - enum_fmt
        number, kind = struct.unpack_from("=II", data)
        if kind != self.kind:
            raise OSError(errno.EINVAL, "Invalid argument")
        code = self._at(list(self.formats), number)
        struct.pack_into("=I32s4s", data, 8, 0, self.formats[code][0].encode(), code.encode())

    def _V74(self, data: bytearray) -> None:  # noqa: N802 - enum_framesizes
        number, code = struct.unpack_from("=I4s", data)
        size = self._at(list(self.formats[code.decode()][1]), number)
        if len(size) == 2:
            struct.pack_into("=III", data, 8, 1, *size)
        else:
            struct.pack_into("=IIIIIII", data, 8, 3, *size)

    def _V75(self, data: bytearray) -> None:  # noqa: N802 - enum_frameintervals
        number, code, width, height = struct.unpack_from("=I4sII", data)
        sizes = self.formats[code.decode()][1]
        rates = sizes.get((width, height)) or next(rates for size, rates in sizes.items() if len(size) == 6)
        struct.pack_into("=III", data, 16, 1, *self._at(rates, number))

    def _V36(self, data: bytearray) -> None:  # noqa: N802 - queryctrl
        (asked,) = struct.unpack_from("=I", data)
        after = sorted(row for row in self.controls if row[0] > asked & 0x7FFF_FFFF)
        number, kind, name, *numbers = self._at(after, 0)[:8]
        struct.pack_into("=II32siiiiI", data, 0, number, kind, str(name).encode(), *numbers)

    def _V37(self, data: bytearray) -> None:  # noqa: N802 - querymenu
        control, number = struct.unpack_from("=II", data)
        choices = next(row[9] for row in self.controls if row[0] == control)
        if number not in choices:
            raise OSError(errno.EINVAL, "Invalid argument")
        struct.pack_into("=32s", data, 8, choices[number].encode())

    def _V27(self, data: bytearray) -> None:  # noqa: N802 - g_ctrl
        (control,) = struct.unpack_from("=I", data)
        value = next(row[8] for row in self.controls if row[0] == control)
        if value is None:
            raise OSError(errno.EACCES, "Permission denied")
        struct.pack_into("=i", data, 4, value)

    @staticmethod
    def _at(rows: list, number: int):  # type: ignore[no-untyped-def, type-arg]
        if number >= len(rows):
            raise OSError(errno.EINVAL, "Invalid argument")
        return rows[number]


def webcam() -> FakeDriver:
    """A USB camera with two formats, whose menu has a gap and whose last control is switched off."""
    return FakeDriver(
        formats={
            "YUYV": ("YUYV 4:2:2", {(640, 480): [(1, 30), (1, 15)], (1280, 720): [(1, 10)]}),
            "MJPG": ("Motion-JPEG", {(1920, 1080): [(1, 30)], (1280, 720): [(1, 60), (1, 30), (1001, 30000)], (320, 240): [(1, 30)]}),
        },
        controls=[
            (0x980900, 1, "Brightness", -64, 64, 1, 0, 0, 5, {}),
            (0x98090C, 2, "White Balance, Automatic", 0, 1, 1, 1, 0, 1, {}),
            (0x980918, 3, "Power Line Frequency", 0, 3, 1, 1, 0, 1, {0: "Disabled", 1: "50 Hz", 3: "Auto"}),
            (0x98091A, 1, "White Balance Temperature", 2800, 6500, 1, 4600, 0, None, {}),
            (0x9A0001, 6, "Camera Controls", 0, 0, 0, 0, 4, None, {}),
            (0x9A0902, 1, "Not There", 0, 1, 1, 0, 1, 0, {}),
        ],
    )


def csi_sensor() -> FakeDriver:
    """A Jetson's CSI sensor as its driver shows it."""
    return FakeDriver(
        "vi-output, imx219 9-0010",
        "tegra-video",
        formats={"RG10": ("10-bit Bayer RGRG/GBGB", {(3280, 2464): [(1, 21)], (1280, 720): [(1, 60)]})},
    )
