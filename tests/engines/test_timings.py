"""What earlier builds leave: build times by graph and options, read whatever the file holds."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.engines.options import BuildOptions
from jetlens.engines.timings import earlier_build_s, record_build_s


def test_times_are_kept_by_graph_and_options(tmp_path: Path) -> None:
    options, other = BuildOptions(), BuildOptions(batch=(1, 4, 8))
    assert earlier_build_s(tmp_path, b"a", options) is None
    record_build_s(tmp_path, b"a", options, 28.126)
    record_build_s(tmp_path, b"a", other, 60.0)
    record_build_s(tmp_path, b"b", options, 5.0)
    record_build_s(tmp_path, b"a", options, 30.0)
    assert [earlier_build_s(tmp_path, b"a", options), earlier_build_s(tmp_path, b"a", other)] == [30.0, 60.0]
    # The oldest go.
    (tmp_path / "durations.json").write_text(json.dumps({str(index): 1.0 for index in range(200)}))
    record_build_s(tmp_path, b"c", options, 1.0)
    kept = json.loads((tmp_path / "durations.json").read_text())
    assert len(kept) == 200
    assert "0" not in kept
    assert earlier_build_s(tmp_path, b"c", options) == 1.0
    assert earlier_build_s(None, b"a", options) is None
    record_build_s(tmp_path / "file" / "x", b"a", options, 1.0)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    record_build_s(tmp_path / "file", b"a", BuildOptions(), 1.0)


@settings(max_examples=30)
@given(st.one_of(st.binary(max_size=60), st.sampled_from([b"[]", b'{"x": {}}', b"[" * 5000, b"1e999"])))
def test_a_damaged_file_is_read_as_empty(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "durations.json").write_bytes(content)
        assert earlier_build_s(Path(folder), b"a", BuildOptions()) is None
        record_build_s(Path(folder), b"a", BuildOptions(), 2.0)
        assert earlier_build_s(Path(folder), b"a", BuildOptions()) == 2.0
