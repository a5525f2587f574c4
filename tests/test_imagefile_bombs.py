"""Goal I3: small files that would decode to something huge are refused by their headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagefile_cases import bombs, empties, gif, png, weighed, write_all, zeros
from jetlens.errors import ImageError
from jetlens.imagefile import DEFAULT_MAX_PIXELS, NETWORK_MAX_PIXELS, image_size, load_image

ALLOWED_MIB = 20


def test_bombs_are_refused_without_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = list(write_all(bombs(), tmp_path))
    rows = weighed("jetlens", tmp_path)
    refused = [row for row in rows if row["outcome"] == "too-large" and row["grown_mib"] <= ALLOWED_MIB]
    with capsys.disabled():
        print(
            f"\nbombs refused within {ALLOWED_MIB} MiB: {len(refused)}/{len(paths)}; most {max(row['grown_mib'] for row in rows):.1f} MiB"
        )
    assert len(refused) == len(paths) >= 12, rows


def test_naive_loader_grows_on_a_bomb(tmp_path: Path) -> None:
    """The negative control of the test above, on a bomb of a quarter of the size: Pillow decodes it with a warning at most."""
    (tmp_path / "bomb.png").write_bytes(png(10_000, 10_000, 1, 0, zeros(10_000 * 1251)))
    (row,) = weighed("pillow", tmp_path)
    assert row["grown_mib"] > ALLOWED_MIB


@pytest.mark.parametrize("name", list(empties()))
def test_zero_sizes_are_refused(name: str) -> None:
    content = empties()[name]
    for read in (load_image, image_size):
        with pytest.raises(ImageError) as caught:
            read(content)
        assert caught.value.code == "zero-size"


def test_only_the_first_of_many_frames_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "frames.gif").write_bytes(gif((1, 1), (1, 1), 200_000))
    (row,) = weighed("jetlens", tmp_path)
    assert row["outcome"] == "image"
    assert row["grown_mib"] <= ALLOWED_MIB


def test_limit_counts_pixels_exactly_and_can_be_lowered() -> None:
    content = png(300, 200, 1, 0, zeros(200 * 39))
    assert load_image(content, max_pixels=60_000).shape == (200, 300, 3)
    for read in (load_image, image_size):
        with pytest.raises(ImageError) as caught:
            read(content, max_pixels=59_999)
        assert caught.value.code == "too-large"
        assert "300 x 200" in caught.value.why
    assert NETWORK_MAX_PIXELS < DEFAULT_MAX_PIXELS
