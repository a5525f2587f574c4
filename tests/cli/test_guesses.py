"""Who gives a photograph to a network that saw rendered pictures alone is told so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from jetlens.cli import main
from jetlens.media.images import write_image

SAID = "saw nothing but the rendered orange line, and guesses on other pictures"


@pytest.mark.parametrize(("source", "model", "told"), [("photo.png", "orange-detect", True), ("photo.png", "cifar10-basic", False)])
def test_a_photograph_is_doubted_where_only_the_line_was_seen(
    source: str, model: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / source, np.full((48, 64, 3), 90, np.uint8))
    for words in (["predict", source, "--model", model], ["predict", source, "--model", model, "--json"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert (SAID in capsys.readouterr().out) == (told and "--json" not in words)


def test_the_line_itself_is_not_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["predict", "test://orange-line?frames=1&size=180x320"])
    assert SAID not in capsys.readouterr().out
