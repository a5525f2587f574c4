import sys

import pytest

from jetlens.errors import MissingDependencyError, UnknownNameError
from jetlens.registry import Table, installed, require, resolve


def test_resolve_imports_on_use() -> None:
    assert resolve("math:pi") == pytest.approx(3.14159, abs=1e-5)


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    table = Table("backend", {"onnxruntime": "math:pi", "openvino": "math:e"})
    with pytest.raises(
        UnknownNameError, match=r"unknown backend 'onnxrutime' \(did you mean 'onnxruntime'\?\); known: onnxruntime, openvino"
    ) as caught:
        table["onnxrutime"]
    assert caught.value.exit_code == 2
    assert "nothing-like-it" not in table


def test_a_table_does_not_change_with_the_dictionary_it_was_made_from() -> None:
    rows = {"a": "math:pi"}
    table = Table("thing", rows)
    rows["b"] = "math:e"
    assert list(table) == ["a"]


def test_a_missing_package_names_the_extra() -> None:
    assert not installed("no_such_package_here")
    with pytest.raises(
        MissingDependencyError, match=r"reading videos needs no_such_package_here, which is not installed: pip install 'jetlens\[video\]'"
    ):
        require("no_such_package_here", extra="video", why="reading videos")


def test_a_module_that_stands_on_an_optional_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "stands_on_av.py").write_text("import av\nthing = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"thing needs av, which is not installed: pip install 'jetlens\[video\]'"):
        resolve("stands_on_av:thing")


def test_a_package_that_is_there_and_broken_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "broken_package.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingDependencyError, match="is installed but does not import"):
        require("broken_package", extra="cpu")
