"""The streams of HTTP taken apart: the same parts whatever the pieces, damage told, and limits kept."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from jetlens.errors import NetworkError
from jetlens.imagefile import load_image
from jetlens.media.live.jpeg import jpeg_flaw
from jetlens.media.live.multipart import MAX_PART_BYTES, ChunkDecoder, PartReader, boundary_of, read_fields

BODIES = st.lists(
    st.binary(max_size=300).filter(lambda body: b"--edge" not in body and not body.endswith((b"-", b"\n", b"\r"))), max_size=8
)
CUTS = st.lists(st.integers(1, 40), max_size=60)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    out = []
    for cut in cuts:
        out.append(data[:cut])
        data = data[cut:]
    return [*out, data]


def stream(bodies: list[bytes], *, lengths: bool, dashes: bytes = b"--") -> bytes:
    out = b""
    for body in bodies:
        length = b"Content-Length: %d\r\n" % len(body) if lengths else b""
        out += dashes + b"edge\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n" + body + b"\r\n"
    return out + dashes + b"edge\r\n"


@given(BODIES, CUTS, st.booleans(), st.sampled_from([b"--", b"----"]))
def test_parts_are_the_same_whatever_the_pieces(bodies: list[bytes], cuts: list[int], lengths: bool, dashes: bytes) -> None:
    reader = PartReader(b"edge")
    found = [part for piece in pieces(stream(bodies, lengths=lengths, dashes=dashes), cuts) for part in reader.feed(piece)]
    assert found == bodies


@given(st.binary(max_size=2000), CUTS)
def test_anything_may_come(data: bytes, cuts: list[int]) -> None:
    reader = PartReader(b"edge")
    for piece in pieces(data, cuts):
        reader.feed(piece)
    found = reader.feed(b"\r\n--edge\r\n\r\nbody\r\n--edge\r\n")
    assert found


@given(BODIES, CUTS)
def test_chunks_are_undone_whatever_the_pieces(bodies: list[bytes], cuts: list[int]) -> None:
    chunked = b"".join(b"%x;note=1\r\n%s\r\n" % (len(body), body) for body in bodies if body)
    decoder = ChunkDecoder()
    assert b"".join(decoder.feed(piece) for piece in pieces(chunked, cuts)) == b"".join(bodies)
    with pytest.raises(EOFError):
        decoder.feed(b"0\r\n\r\n")


@pytest.mark.parametrize("data", [b"zz\r\n", b"\r\n", b"-5\r\n", b"3\r\nabcXX1\r\n", b"1" * 2000])
def test_broken_chunks(data: bytes) -> None:
    with pytest.raises(NetworkError):
        ChunkDecoder().feed(data)


def test_a_part_that_is_cut_costs_one_part() -> None:
    reader = PartReader(b"edge")
    cut = b"--edge\r\nContent-Length: 100\r\n\r\nonly a bit\r\n"
    found = reader.feed(cut + stream([b"whole"], lengths=True))
    assert [isinstance(part, str) for part in found] == [True, False]
    assert found[1] == b"whole"


def test_bytes_between_parts_are_told() -> None:
    reader = PartReader(b"edge")
    found = reader.feed(stream([b"one"], lengths=True) + b"\r\njunk junk\r\n" + stream([b"two"], lengths=True))
    assert [part for part in found if isinstance(part, bytes) and part not in (b"", b"junk junk")] == [b"one", b"two"]


def test_a_part_that_is_too_large_is_refused_from_its_head() -> None:
    with pytest.raises(NetworkError, match="announced"):
        PartReader(b"edge").feed(b"--edge\r\nContent-Length: %d\r\n\r\n" % (MAX_PART_BYTES + 1))


def test_a_part_without_end_is_refused() -> None:
    reader = PartReader(b"edge")
    reader.feed(b"--edge\r\n\r\n")
    for _ in range(MAX_PART_BYTES // 2**20):
        reader.feed(bytes(2**20))
    with pytest.raises(NetworkError, match="beyond"):
        reader.feed(b"more")


def test_a_head_without_end_is_damage() -> None:
    found = PartReader(b"edge").feed(b"--edge\r\n" + b"x" * 2**17)
    assert found
    assert isinstance(found[0], str)


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/x-mixed-replace; boundary=shot", b"shot"),
        ("multipart/x-mixed-replace;boundary=--shot", b"shot"),
        ('multipart/x-mixed-replace; Boundary="a b"', b"a b"),
        ("multipart/x-mixed-replace; boundary=---", b"---"),
        ("multipart/x-mixed-replace", b""),
    ],
)
def test_boundaries(kind: str, boundary: bytes) -> None:
    assert boundary_of(kind) == boundary


def test_fields() -> None:
    assert read_fields(b"Content-Length: 5\r\nno field\r\nX: a:b\n") == {"content-length": "5", "x": "a:b"}


def pictures() -> list[bytes]:
    """Sound JPEGs of every layout, many of which end in one colour."""
    rng = np.random.default_rng(0)
    out = []
    for index in range(120):
        height, width = [(48, 64), (96, 321), (100, 640), (121, 97)][index % 4]
        image = np.full((height, width, 3), rng.integers(256, size=3), np.uint8)
        kind = index // 4 % 3
        if kind == 1:
            image[height // 8 : -height // 3] = rng.integers(0, 255, (len(image[height // 8 : -height // 3]), width, 3))
        elif kind == 2:
            image[:] = np.linspace(0, 255, width)[None, :, None]
        buffer = io.BytesIO()
        options = {"quality": (40, 75, 95)[index % 3], "subsampling": index % 3, "progressive": index % 11 == 0}
        if index % 5 == 0:
            options["restart_marker_blocks"] = (1, 7, 40)[index % 3]
        PillowImage.fromarray(image).convert("L" if index % 7 == 0 else "RGB").save(buffer, "JPEG", **options)
        out.append(buffer.getvalue())
    return out


def test_sound_jpegs_are_never_called_damaged() -> None:
    for data in pictures():
        assert jpeg_flaw(data) == ""
        assert jpeg_flaw(data, load_image(data)) == ""


def test_what_is_missing_in_a_jpeg_is_found() -> None:
    """Cut and closed with an end marker: libjpeg makes the rest up without a word (the control), the markers alone do not tell."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (96, 320, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "JPEG", quality=80)
    data, missed = buffer.getvalue(), 0
    for share in (0.2, 0.4, 0.6, 0.8):
        cut = data[: int(len(data) * share)].rstrip(b"\xff")
        assert jpeg_flaw(cut) != ""
        closed = cut + b"\xff\xd9"
        filled = load_image(closed)  # no error
        missed += jpeg_flaw(closed) == ""
        assert jpeg_flaw(closed, filled) != ""
    assert missed == 4


@given(st.binary(max_size=400))
def test_no_bytes_break_the_walk(data: bytes) -> None:
    assert jpeg_flaw(data)
    assert jpeg_flaw(b"\xff\xd8\xff" + data) or b"\xff\xd9" in data
