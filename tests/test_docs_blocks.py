"""Every command in a ```console block of the documentation runs, or says in the Markdown why the tests do not run it.

Above a block may stand ``<!-- not run by the tests: REASON -->``, for all its commands, or ``<!-- not run by the tests (`TEXT`): REASON -->``
for those that contain TEXT. All else runs here, block after block in one folder for each file, with the smallest counts that a command takes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("cv2")
pytest.importorskip("safetensors")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from documented import FOUND, REAL_FILES, ROOT, blocks, make_inputs, run


def test_marks_are_read() -> None:
    text = "<!-- not run by the tests (`b`): no camera -->\n\n```console\n$ a \\\n  c\nout\n$ b\n```\n\n```console\n# root\n```\n"
    first, second = blocks(text, "x")
    assert first.commands == (("a    c", ""), ("b", "no camera"))
    assert second.commands == (("root", ""),)
    assert next(blocks("<!-- not run by the tests (`z`): old -->\n```console\n$ a\n```", "x")).stale == ("z",)


def test_every_page_is_looked_at_and_no_mark_is_stale() -> None:
    assert {"README.md", "docs/measuring.md", "docs/labs/lab-a.md"} <= {block.page for block in FOUND}
    assert [(block.page, block.line, block.stale) for block in FOUND if block.stale] == []
    assert [(block.page, block.line) for block in FOUND if not block.commands] == []
    # A page that marks all it shows would pass by saying nothing.
    assert sum(not reason for block in FOUND for _, reason in block.commands) > 30


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages speak of, small ones of the same names."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.mark.parametrize("page", sorted({block.page for block in FOUND}))
def test_the_commands_of_a_page_run(page: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("JETLENS_CACHE", str(inputs.parent / "docs-cache"))
    folder = tmp_path / "work"
    shutil.copytree(inputs, folder, copy_function=os.link)
    for name in ("examples", "jetson_cnn_toolkit.py"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    absent = [name for name in REAL_FILES if not (folder / name).exists()]
    for block in (block for block in FOUND if block.page == page):
        for command, reason in block.commands:
            if reason or any(name in command for name in absent):
                record_property("not run", f"{command}: {reason or 'the real data is not here'}")
                continue
            assert run(command, folder) == 0, f"{page}, the block at line {block.line}: {command}"
