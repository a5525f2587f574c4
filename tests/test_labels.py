"""Class names: the lists that ship and the reader of users' lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetlens.errors import InputError, UnknownNameError
from jetlens.labels import LABELS, labels, read_labels


@pytest.mark.parametrize(
    ("name", "count", "known"),
    [
        (
            "imagenet",
            1000,
            {0: "tench", 134: "crane bird", 281: "tabby", 517: "crane", 639: "maillot tank suit", 950: "orange", 999: "toilet tissue"},
        ),
        ("coco80", 80, {0: "person", 4: "airplane", 16: "dog", 49: "orange", 62: "tv", 79: "toothbrush"}),
        ("coco91", 91, {0: "background", 1: "person", 12: "", 18: "dog", 55: "orange", 90: "toothbrush"}),
        ("voc", 21, {0: "background", 1: "aeroplane", 15: "person", 20: "tvmonitor"}),
        ("cityscapes", 19, {0: "road", 10: "sky", 18: "bicycle"}),
        ("cifar10", 10, {0: "airplane", 9: "truck"}),
    ],
)
def test_lists_that_ship(name: str, count: int, known: dict[int, str]) -> None:
    names = labels(name)
    assert len(names) == count
    assert {i: names[i] for i in known} == known
    filled = [label for label in names if label]
    assert len(set(filled)) == len(filled), "a name comes twice"
    assert all(label == label.strip() and label.isprintable() for label in names)
    assert name in LABELS


def test_coco_with_gaps_is_coco_without() -> None:
    assert tuple(label for label in labels("coco91")[1:] if label) == labels("coco80")
    assert [i for i, label in enumerate(labels("coco91")) if not label] == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_imagenet_is_torchvisions() -> None:
    meta = pytest.importorskip("torchvision.models._meta")
    assert list(labels("imagenet")) == list(meta._IMAGENET_CATEGORIES)


def test_lists_agree_with_the_real_ones(shared_data: Path) -> None:
    folder = shared_data / "labels"
    synsets = [line.split(" ", 1)[1] for line in (folder / "ilsvrc12_synset_words.txt").read_text().splitlines()]
    different = [i for i, (ours, theirs) in enumerate(zip(labels("imagenet"), synsets, strict=True)) if ours != theirs.split(",")[0]]
    assert different == [134, 639]
    assert list(labels("voc")[1:]) == (folder / "voc.names").read_text().split()
    assert read_labels(folder / "ilsvrc12_synset_words.txt")[281] == "tabby, tabby cat"
    assert len(read_labels(folder / "coco80.names")) == 80


def test_unknown_list_names_the_known() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'coco80'"):
        labels("coco8")


GOOD = {
    "names.txt": "sound\nsunburn\n\nwind scarring\n\n",
    "crlf.names": "\ufeffsound\r\nsunburn\r\n\r\nwind scarring\r\n",
    "list.json": json.dumps(["sound", "sunburn", "", "wind scarring"]),
    "ids.json": json.dumps({"0": "sound", "1": "sunburn", "3": "wind scarring"}),
    "turned.json": json.dumps({"sound": 0, "sunburn": 1, "wind scarring": 3}),
    "names.json": json.dumps({"names": ["sound", "sunburn", "", "wind scarring"]}),
    "yolo.yaml": "path: ../data  # root\ntrain: images\nnames:\n  0: sound\n  1: 'sunburn'  # hot\n\n  3: \"wind scarring\"\nnc: 4\n",
    "flow.yml": "nc: 4\nnames: [sound, 'sunburn', '', \"wind scarring\"]\n",
    "long.yaml": "names: [sound,\n  sunburn,\n  '', wind scarring]\n",
    "dash.yaml": "names:\n- sound\n- sunburn\n- ''\n- wind scarring\nroad: x\n",
    "flowmap.yaml": "names: {0: sound, 1: sunburn, 3: wind scarring}",
}


@pytest.mark.parametrize("name", GOOD)
def test_users_files(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(GOOD[name].encode())
    assert read_labels(file) == ("sound", "sunburn", "", "wind scarring")


BAD = {
    "empty.txt": b"\n\n",
    "nothing.txt": b"",
    "latin.txt": "Äpfel\n".encode("latin-1"),
    "picture.txt": b"\x89PNG\r\n\x1a\n\xff\xfe\x00",
    "cut.json": b'["a", "b"',
    "number.json": b"3",
    "numbers.json": b"[1, 2]",
    "negative.json": b'{"-1": "a"}',
    "huge.json": b'{"99999999999": "a"}',
    "deep.json": b"[" * 100_000,
    "nokey.yaml": b"classes: [a, b]\n",
    "scalar.yaml": b"names: apples\n",
    "open.yaml": b"names: [a, b\n",
    "twice.yaml": b"names:\n  0: a\n  0: b\n",
    "nested.yaml": b"names:\n  0:\n    en: apple\n",
    "anchor.yaml": b"names:\n  0: *apple\n",
    "mixed.yaml": b"names:\n  - a\n  1: b\n",
    "float.yaml": b"names:\n  0.5: a\n",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_list_is_one_clear_line(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(BAD[name])
    with pytest.raises(InputError) as caught:
        read_labels(file)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message.replace(str(tmp_path), "")) <= 300


def test_absent_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_labels(path)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80), st.sampled_from([".yaml", ".json", ".txt"]), st.booleans())
def test_any_text_is_names_or_an_input_error(tmp_path: Path, text: str, suffix: str, headed: bool) -> None:
    file = tmp_path / f"any{suffix}"
    file.write_text("names:" * headed + text, encoding="utf-8", errors="surrogatepass")
    try:
        names: tuple[str, ...] | str = read_labels(file)
    except InputError as error:
        names = str(error)
    if isinstance(names, str):
        assert "\n" not in names
    else:
        assert any(names)
        assert all(isinstance(name, str) for name in names)
