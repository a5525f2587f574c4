"""What the image loader is tried on: the corpus and its mutants in a child process, odd but legal pictures, and bombs.

Run as a program it is that child: it tries one loader on numbered items and prints one JSON line for each, so that a crash or a
hang of the loader ends the child and is counted by its parent.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps

HANG_S = 5
CHILD_BYTES = 6 * 2**30
"""Address space of a child: a naive loader may ask for all memory of the machine."""
OUR_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""As Pillow names them; its JPEG brings MPO along."""
OUR_MAGICS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
MAX_PARENT_BYTES = 100_000
Tags = dict[int, tuple[str, Any]]


def unpack_corpus(shared_data: Path, folder: Path) -> Path:
    """Extracts Pillow's test images below the folder."""
    with tarfile.open(shared_data / "image-corpus" / "pillow-test-images.tar.xz") as archive:
        for member in archive:
            if member.isfile() and ".." not in member.name:
                content = archive.extractfile(member)
                assert content is not None
                target = folder / member.name.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    return folder


def corpus_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def mutant(parents: list[bytes], number: int, seed: int) -> bytes:
    """The mutant of this number: bits, bytes, lengths, cuts, zeroed, doubled and foreign blocks."""
    chance = random.Random(f"{seed}/{number}")
    data = bytearray(chance.choice(parents))
    for _ in range(chance.randrange(1, 5)):
        # Headers decide most, so half of the damage falls on the first 200 bytes.
        at = chance.randrange(min(len(data), 200) if chance.random() < 0.5 else len(data))
        span = chance.randrange(1, 64)
        kind = chance.randrange(8)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + span] = chance.randbytes(span)
        elif kind == 2:
            data[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 65_535)))
        elif kind == 3:
            del data[max(1, at) :]
        elif kind == 4:
            data[at : at + span] = bytes(span)
        elif kind == 5:
            data[at:at] = data[at : at + span]
        elif kind == 6:
            del data[at : at + span]
        else:
            other = chance.choice(parents)
            data[at : at + span] = other[at : at + span]
        if len(data) < 2:
            break
    return with_right_sums(bytes(data)) if chance.random() < 0.7 else bytes(data)


def with_right_sums(data: bytes) -> bytes:
    """A PNG with its checksums made right again, so that the damage gets past them; anything else as it is."""
    if not data.startswith(b"\x89PNG"):
        return data
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


# The child


def jetlens_loader(source: Any) -> Any:
    from jetlens.imagefile import load_image

    return load_image(source)


def naive_loader(source: Any) -> Any:
    """The negative control: what most scripts do."""
    import cv2

    if isinstance(source, bytes):
        return cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imread(str(source))


LOADERS: dict[str, Callable[[Any], Any]] = {"jetlens": jetlens_loader, "naive": naive_loader}


def outcome(loader: Callable[[Any], Any], source: Any) -> tuple[str, Any]:
    """One word for what a loader made of a source: image, none, wrong, the code of an ImageError or the name of another exception."""
    from jetlens.errors import ImageError

    try:
        made = loader(source)
    except ImageError as error:
        proper = error.code and error.why and len(f"{error.why}") <= 250 and "\n" not in str(error)
        return (error.code if proper else "wrong"), None
    except Exception as error:
        return f"exception {type(error).__name__}", None
    if made is None:
        return "none", None
    proper = isinstance(made, np.ndarray) and made.dtype == np.uint8 and made.ndim == 3 and made.shape[2] == 3 and made.flags.c_contiguous
    return ("image" if proper and made.size else "wrong"), made


def against_pillow(path: Path, made: Any) -> str:
    """How an image compares with Pillow's own: unclean (Pillow fails or it is no format of ours), missed, wide, equal, close, differs."""
    try:
        with PillowImage.open(path, formats=OUR_FORMATS) as opened:
            kind = opened.format
            opened.load()
            mode = opened.mode
            upright = opened if kind == "TIFF" else ImageOps.exif_transpose(opened)  # TIFFs are turned while they are loaded
            reference = np.asarray(upright.convert("RGB"))
    except Exception:
        return "unclean"
    if made is None:
        return "missed"
    if made.shape != reference.shape:
        return "differs"
    if mode.startswith(("I", "F")):
        return "wide"  # Pillow clips these to 8 bits, which is what the loader must not do
    difference = int(np.abs(made.astype(int) - reference).max())
    return "equal" if difference == 0 else "close" if difference <= 2 and kind in ("JPEG", "MPO") else "differs"


def child(loader_name: str, folder: str, seed: str, start: str, count: str) -> None:
    """Prints a line for each item from start to count: mutants if there is a seed, else the corpus files themselves."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    loader = LOADERS[loader_name]
    files = corpus_files(Path(folder))
    parents = [
        content for path in files if path.stat().st_size <= MAX_PARENT_BYTES and (content := path.read_bytes()).startswith(OUR_MAGICS)
    ]
    loader_warm = io.BytesIO()
    PillowImage.new("RGB", (8, 8)).save(loader_warm, "PNG")
    outcome(loader, loader_warm.getvalue())
    for number in range(int(start), int(count)):
        source: Any = mutant(parents, number, int(seed)) if seed else files[number]
        signal.alarm(HANG_S)  # its default action ends this process, whatever C code is in
        began_s = time.perf_counter()
        word, made = outcome(loader, source)
        took_s = time.perf_counter() - began_s
        signal.alarm(0)
        line = {"number": number, "outcome": word, "took_s": took_s}
        if not seed and loader_name == "jetlens":
            line["pillow"] = against_pillow(source, made)
        print(json.dumps(line), flush=True)


@dataclass
class Trial:
    """The counts of one loader over one set of items."""

    count: int
    outcomes: dict[str, int] = field(default_factory=dict)
    pillow: dict[str, int] = field(default_factory=dict)
    crashes: list[int] = field(default_factory=list)
    hangs: list[int] = field(default_factory=list)
    slowest_s: float = 0.0

    def of(self, *words: str) -> int:
        return sum(self.outcomes.get(word, 0) for word in words)

    @property
    def errors(self) -> int:
        """How many ended in an ImageError with a code."""
        return sum(n for word, n in self.outcomes.items() if word not in ("image", "none", "wrong") and not word.startswith("exception"))


def try_all(loader: str, folder: Path, count: int, seed: int | None = None) -> Trial:
    """Runs the child over all items, and again behind every item that ended it."""
    trial = Trial(count)
    start = 0
    while start < count:
        arguments = [loader, str(folder), "" if seed is None else str(seed), str(start), str(count)]
        with subprocess.Popen(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            for text in process.stdout:
                line = json.loads(text)
                start = line["number"] + 1
                trial.outcomes[line["outcome"]] = trial.outcomes.get(line["outcome"], 0) + 1
                trial.slowest_s = max(trial.slowest_s, line["took_s"])
                if "pillow" in line:
                    trial.pillow[line["pillow"]] = trial.pillow.get(line["pillow"], 0) + 1
            code = process.wait()
        if start < count:
            (trial.hangs if code == -signal.SIGALRM else trial.crashes).append(start)
            assert code < 0, f"the child failed by itself at item {start}, exit code {code}"
            start += 1
    return trial


# Bombs: small files that decode, or claim to decode, to something huge.


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes, late: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", rows), late, png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def zeros(count: int) -> bytes:
    """zlib stream of so many zero bytes, made a piece at a time."""
    press = zlib.compressobj(9)
    piece = bytes(2**20)
    return b"".join([press.compress(piece[: min(2**20, count - at)]) for at in range(0, count, 2**20)]) + press.flush()


def tiff(tags: Tags, data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of one directory with the data at offset 8; tag values are (H or I, number or list)."""
    offset = 8 + len(data)
    entries, spill = b"", b""
    spill_at = offset + 2 + 12 * len(tags) + 4
    for tag, (kind, value) in sorted(tags.items()):
        values = value if isinstance(value, list) else [value]
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(packed) > 4:
            packed, spill = struct.pack(f"{order}I", spill_at + len(spill)), spill + packed
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", offset) + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + spill


def grey_tiff(width: int, height: int, bits: int, data: bytes, order: str = "<", more: Tags | None = None) -> bytes:
    tags: Tags = {256: ("I", width), 257: ("I", height), 258: ("H", bits), 259: ("H", 1), 262: ("H", 1)}
    tags |= {273: ("I", 8), 277: ("H", 1), 278: ("I", height), 279: ("I", len(data))}
    return tiff(tags | (more or {}), data, order)


def bmp(width: int, height: int, bits: int, data: bytes, compression: int = 0) -> bytes:
    palette = bytes(4 * 2**bits) if bits <= 8 else b""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def gif(screen: tuple[int, int], frame: tuple[int, int], frames: int = 1) -> bytes:
    one = b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(3) + b"\xff" * 3 + one * frames + b";"


def jpeg_of(size: tuple[int, int], **options: Any) -> bytes:
    with io.BytesIO() as file:
        PillowImage.new("RGB", size, (200, 90, 40)).save(file, "JPEG", **options)
        return file.getvalue()


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(jpeg_of((16, 16)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_many_scans() -> bytes:
    """A progressive JPEG whose last scan comes 5,000 times."""
    data = jpeg_of((512, 512), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 5000 + b"\xff\xd9"


def bombs() -> dict[str, bytes]:
    """Twelve files that must be refused by their headers."""
    vp8x = struct.pack("<I", 0x02) + (16_383).to_bytes(3, "little") * 2
    vp8l = b"\x2f" + (16_383 | 16_383 << 14).to_bytes(4, "little") + bytes(8)
    tiled = {256: ("I", 1), 257: ("I", 1), 258: ("H", 8), 259: ("H", 8), 262: ("H", 1), 277: ("H", 1)}
    tiled |= {322: ("I", 60_000), 323: ("I", 60_000), 324: ("I", 8), 325: ("I", 4096)}
    return {
        "png 1-bit 400 MP, all of it there": png(20_000, 20_000, 1, 0, zeros(20_000 * 2501)),
        "png rgb 30000 x 30000": png(30_000, 30_000, 8, 2, zlib.compress(bytes(1000))),
        "png 2^31-1 x 2^31-1": png(2**31 - 1, 2**31 - 1, 16, 6, b""),
        "gif screen 65535 x 65535": gif((65_535, 65_535), (1, 1)),
        "gif frame larger than its screen": gif((1, 1), (65_535, 65_535)),
        "bmp 1-bit 65000 x 65000": bmp(65_000, 65_000, 1, bytes(100)),
        "bmp rle8 60000 x 60000": bmp(60_000, 60_000, 8, b"\xff\0" * 100, 1),
        "tiff 1-bit 100000 x 100000": grey_tiff(100_000, 100_000, 1, bytes(100)),
        "tiff 1 x 1 in a tile of 60000 x 60000": tiff(tiled, zeros(2**21)),
        "webp animation 16384 x 16384": riff((b"VP8X", vp8x), (b"ANIM", bytes(6)), (b"ANMF", bytes(32))),
        "webp lossless 16384 x 16384": riff((b"VP8L", vp8l)),
        "jpeg 65500 x 65500": jpeg_claiming(65_500, 65_500),
        "jpeg of 5000 progressive scans": jpeg_of_many_scans(),
    }


def empties() -> dict[str, bytes]:
    """Pictures with a width or height of zero."""
    return {
        "png width": png(0, 4, 8, 2, zlib.compress(b"")),
        "png height": png(4, 0, 8, 2, zlib.compress(b"")),
        "gif": gif((0, 0), (0, 0)),
        "bmp width": bmp(0, 4, 24, bytes(48)),
        "bmp height": bmp(4, 0, 24, bytes(48)),
        "tiff width": grey_tiff(0, 4, 8, bytes(4)),
        "tiff height": grey_tiff(4, 0, 8, bytes(4)),
        "jpeg height": jpeg_claiming(16, 0),
        "jpeg width": jpeg_claiming(0, 16),
    }


def peak_kib() -> int:
    """Peak resident memory of this process alone; ru_maxrss would start at that of the process that spawned it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def weigh(loader_name: str, folder: str) -> None:
    """In a child: tries the loader on every file of the folder and prints what came, how long it took and how the peak grew."""
    warnings.simplefilter("ignore")
    loader: Callable[[Any], Any] = (lambda path: PillowImage.open(path).load() or True) if loader_name == "pillow" else LOADERS[loader_name]
    with io.BytesIO() as file:
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
            file.seek(0)
            file.truncate()
            PillowImage.new("RGB", (64, 64), "red").save(file, kind)
            outcome(LOADERS["jetlens"], file.getvalue())
    for path in sorted(Path(folder).iterdir()):
        before = peak_kib()
        began_s = time.perf_counter()
        word, _ = outcome(loader, path)
        took_s = time.perf_counter() - began_s
        print(json.dumps({"file": path.name, "outcome": word, "took_s": took_s, "grown_mib": (peak_kib() - before) / 1024}), flush=True)


def weighed(loader: str, folder: Path) -> list[dict[str, Any]]:
    """What weigh prints, from a child of its own."""
    done = subprocess.run([sys.executable, __file__, "weigh", loader, str(folder)], capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


def write_all(files: dict[str, bytes], folder: Path) -> Iterator[Path]:
    for name, content in files.items():
        path = folder / name.replace(" ", "_")
        path.write_bytes(content)
        yield path


if __name__ == "__main__":
    if sys.argv[1] == "weigh":
        weigh(*sys.argv[2:])
    else:
        child(*sys.argv[1:])
