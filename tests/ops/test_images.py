"""Pictures onto a network's canvas: geometry, filters, padding, and the host's normalisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from jetlens.errors import InputError, ModelError
from jetlens.ops.images import normalize, place, prepare, resize_into
from jetlens.spec import PreprocessSpec

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
RESNET = PreprocessSpec((224, 224), "crop", "antialias", short_side=256, baked=False, **IMAGENET)
SIZES = [(720, 1280), (1280, 720), (480, 640), (256, 256), (256, 400), (300, 256), (224, 224), (100, 2000), (301, 513), (50, 40), (1, 1)]


def noise(hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """White noise: the picture that shows every shift and every missing tap."""
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def sides(low: int = 1, high: int = 400) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


specs = st.builds(
    PreprocessSpec,
    sides(1, 300),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.just("antialias"),
    short_side=st.none() | st.integers(1, 320),
    anchor=st.sampled_from(["center", "top-left"]),
)


@pytest.mark.parametrize("hw", SIZES)
def test_crop_equals_torchvision(hw: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = noise(hw)
    reference = transforms.Compose(
        [
            transforms.Resize(256, antialias=True),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(PillowImage.fromarray(image)).numpy()
    array, _ = prepare([image], RESNET)
    assert array.shape == (1, 3, 224, 224)
    assert array.dtype == np.float32
    assert np.abs(array[0] - reference).max() <= 1e-6
    # Negative control: cutting before resizing, or a plain stretch, is far off.
    stretched, _ = prepare([image], PreprocessSpec((224, 224), "stretch", baked=False, **IMAGENET))
    assert hw == (1, 1) or np.abs(stretched[0] - reference).max() > 0.01


@pytest.mark.parametrize("rule", ["stretch", "letterbox", "crop"])
def test_picture_of_the_networks_size_is_copied(rule: str) -> None:
    image = noise((224, 320))
    canvas = np.full((224, 320, 3), 7, np.uint8)
    placement = resize_into(image, PreprocessSpec((224, 320), rule), canvas)  # type: ignore[arg-type]
    assert np.array_equal(canvas, image)
    assert placement.scale_xy == (1.0, 1.0)
    assert placement.offset_xy == (0.0, 0.0)


@pytest.mark.parametrize("hw", SIZES[:-1])
def test_linear_equals_cv2(hw: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image, canvas = noise(hw), np.empty((224, 224, 3), np.uint8)
    resize_into(image, PreprocessSpec((224, 224), "stretch", "linear"), canvas)
    assert np.array_equal(canvas, cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR))


def test_the_filters_are_not_interchangeable() -> None:
    pytest.importorskip("cv2")
    image = noise((720, 1280))
    canvases = np.empty((2, 224, 224, 3), np.uint8)
    resize_into(image, PreprocessSpec((224, 224), "stretch", "linear"), canvases[0])
    resize_into(image, PreprocessSpec((224, 224), "stretch", "antialias"), canvases[1])
    assert np.abs(canvases[0].astype(int) - canvases[1]).max() > 50


@settings(deadline=None, max_examples=60)
@given(sides(), specs)
def test_canvas_is_written_whole_and_as_placed(hw: tuple[int, int], spec: PreprocessSpec) -> None:
    image = np.full((*hw, 3), 200, np.uint8)
    canvases = [np.full((*spec.size_hw, 3), old, np.uint8) for old in (0, 255)]
    placement, _ = (resize_into(image, spec, canvas) for canvas in canvases)
    assert np.array_equal(*canvases), "what was on the canvas before shows"
    left, top, right, bottom = placement.content_xyxy()
    assert 0 <= left < right <= spec.size_hw[1]
    assert 0 <= top < bottom <= spec.size_hw[0]
    expected = np.full((*spec.size_hw, 3), spec.pad_value, np.uint8)
    expected[top:bottom, left:right] = 200
    assert np.array_equal(canvases[0], expected)


@settings(deadline=None, max_examples=60)
@given(sides(), specs, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=8))
def test_boxes_go_to_the_canvas_and_back(hw: tuple[int, int], spec: PreprocessSpec, fractions: list[tuple[float, ...]]) -> None:
    placement = place(hw, spec)
    corners = np.array(fractions, np.float32).reshape(-1, 4) * np.array([hw[1], hw[0]] * 2, np.float32)
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], axis=1)
    back = placement.boxes_to_source(placement.boxes_to_canvas(boxes))
    assert np.abs(back - boxes).max(initial=0) < 0.01


@settings(deadline=None, max_examples=60)
@given(sides(), specs)
def test_letterbox_keeps_the_ratio(hw: tuple[int, int], spec: PreprocessSpec) -> None:
    placement = place(hw, spec)
    if spec.resize == "letterbox":
        horizontal, vertical = placement.scale_xy
        # Rounding to whole pixels moves each side by half a pixel at most, and no side is below one pixel.
        assert abs(horizontal - vertical) <= 1.01 * max(1 / hw[0], 1 / hw[1])
    elif spec.resize == "crop" and spec.short_side is None:
        left, top, right, bottom = placement.content_xyxy()
        assert (left, top, right, bottom) == (0, 0, spec.size_hw[1], spec.size_hw[0])


def test_extreme_shapes_take_little_memory() -> None:
    import tracemalloc

    spec = PreprocessSpec((224, 224), "crop", "antialias", short_side=256)
    canvas = np.empty((224, 224, 3), np.uint8)
    for hw in ((1, 60_000), (60_000, 1), (2, 30_011)):
        for kind in ("antialias", "linear"):
            image = np.full((*hw, 3), 90, np.uint8)
            tracemalloc.start()
            resize_into(image, PreprocessSpec((224, 224), "crop", kind, short_side=256), canvas)  # type: ignore[arg-type]
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert (canvas == 90).all()
            assert peak < 64 << 20, f"{hw}: the whole resized picture would be {256 * 256 * max(hw) * 3 >> 20} MiB"
    assert place((1, 60_000), spec).canvas_hw == (224, 224)


def test_wrong_pictures_and_canvases_are_refused() -> None:
    spec = PreprocessSpec((8, 8))
    canvas = np.empty((8, 8, 3), np.uint8)
    for wrong in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(InputError):
            resize_into(wrong, spec, canvas)
    with pytest.raises(InputError, match="canvas"):
        resize_into(noise((4, 4)), spec, np.empty((9, 8, 3), np.uint8))
    with pytest.raises(InputError, match="at least one"):
        prepare([], spec)
    with pytest.raises(InputError, match="holds 1"):
        prepare([noise((4, 4))] * 2, spec, np.empty((1, 8, 8, 3), np.uint8))


def naive(canvas: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """The formula of the sidecar, in float64."""
    if spec.channel_order == "gray":
        x = np.stack([np.asarray(PillowImage.fromarray(one).convert("L"))[..., None] for one in canvas]).astype(np.float64)
    else:
        x = canvas[..., :: 1 if spec.channel_order == "rgb" else -1].astype(np.float64)
    x = (x - np.array(spec.mean)) / np.array(spec.std)
    return x.transpose(0, 3, 1, 2) if spec.layout == "nchw" else x


@pytest.mark.parametrize("order", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_normalize(order: str, layout: str, dtype: str) -> None:
    channels = 1 if order == "gray" else 3
    scaled = {} if dtype == "uint8" else {"mean": (123.7, 116.3, 103.5)[:channels], "std": (58.4, 57.1, 57.4)[:channels]}
    plain = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    spec = PreprocessSpec((5, 6), baked=False, channel_order=order, layout=layout, dtype=dtype, **(scaled or plain))  # type: ignore[arg-type]
    canvas = np.random.default_rng(1).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    array = normalize(canvas, spec)
    expected = naive(canvas, spec)
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert np.abs(array - expected).max() <= {"float32": 1e-6, "float16": 2e-3, "uint8": 0}[dtype]
    out = np.full_like(array, 9)
    assert normalize(canvas, spec, out) is out
    assert np.array_equal(out, array)


def test_normalize_refuses_what_cannot_be() -> None:
    canvas = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(ModelError, match="uint8"):
        normalize(canvas, PreprocessSpec((4, 4), baked=False, dtype="uint8", **IMAGENET))
    with pytest.raises(ModelError, match="sidecar asks for"):
        normalize(canvas, PreprocessSpec((4, 4), baked=False), np.empty((1, 4, 4, 3), np.float32))


def test_prepare_writes_into_what_it_is_given() -> None:
    images = [noise((30, 40)), noise((10, 90), 1)]
    for spec in (PreprocessSpec((16, 16), "letterbox"), PreprocessSpec((16, 16), "letterbox", baked=False, **IMAGENET)):
        shape = (3, 16, 16, 3) if spec.baked else (3, 3, 16, 16)
        lane = np.full(shape, 5, np.uint8 if spec.baked else np.float32)
        array, placements = prepare(images, spec, lane)
        assert np.shares_memory(array, lane)
        assert array.shape[0] == len(placements) == 2
        assert (lane[2] == 5).all(), "a row that has no picture was written"
        for image, row in zip(images, array, strict=True):
            assert np.array_equal(prepare([image], spec)[0][0], row)
