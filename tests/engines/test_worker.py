"""The worker as a process of its own, on the recorded bindings: what the parent gets of every way in which TensorRT ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded_tensorrt import VERSIONS

from jetlens.engines.build import Worker, build
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import PlanFacts
from jetlens.errors import BackendError, ModelError
from tiny_graphs import color_graph

INSPECTOR = json.dumps(
    {"Layers": [{"LayerType": "Convolution", "Inputs": [{"Format/Datatype": "Float"}], "Outputs": [{"Format/Datatype": "Float"}]}]}
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, shared_data: Path, tmp_path: Path) -> Callable[..., tuple[bytes, PlanFacts]]:
    """Builds in a child with the given version and scene."""

    def go(version: str, scene: dict[str, Any], said: list[str] | None = None, **options: Any) -> tuple[bytes, PlanFacts]:
        monkeypatch.setenv("RECORDED", str(shared_data / "tensorrt-api" / f"{version}.json"))
        monkeypatch.setenv("SCENE", json.dumps({"inspector": INSPECTOR, "plan": "plan", **scene}))
        report = (said if said is not None else []).append
        worker = Worker(module="tensorrt_in_child")
        return build(
            color_graph().SerializeToString(),
            BuildOptions(**options),
            name="net",
            timing_cache=tmp_path / "layers.cache",
            report=report,
            worker=worker,
        )

    return go


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_plan_facts_and_warnings_come_back(run: Any, version: str, tmp_path: Path) -> None:
    plan, facts = run(version, {"said": [["WARNING", "weights are subnormal"], ["WARNING", "weights are subnormal"]]}, workspace_mib=64)
    assert plan == b"plan"
    assert (facts.precision, facts.workspace_mib, dict(facts.layers)) == ("fp32", 64, {"fp32": 1})
    assert facts.notes == ("weights are subnormal",)
    assert facts.build_s > 0
    assert (tmp_path / "layers.cache").read_bytes() == b"times"
    assert (tmp_path / "durations.json").is_file()


def test_what_tensorrt_refuses_is_the_graph_s_error(run: Any) -> None:
    problem = {"node": 3, "operator": "Conv", "name": "conv", "desc": "dynamic axes"}
    with pytest.raises(ModelError, match=r"TensorRT 8\.6\.0 cannot run net: operator Conv of node 'conv': dynamic axes"):
        run("8.6.0", {"problems": [problem]})


def test_out_of_memory_is_tried_with_less(run: Any) -> None:
    said: list[str] = []
    words = "[virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory (no further information)"
    with pytest.raises(BackendError, match=r"ran out of memory .*OutOfMemory.*last with 256 MiB"):
        run("10.3.0", {"plan": None, "said": [["ERROR", words]]}, said)
    assert len([line for line in said if "trying" in line]) == 2


def test_recovered_shortage_is_no_failure(run: Any) -> None:
    """A tactic that found no memory is passed over by TensorRT itself, which says so as an error."""
    assert run("8.6.0", {"said": [["ERROR", "Error Code 2: OutOfMemory (no further information)"]]})[0] == b"plan"


def test_a_flood_of_errors_is_cut(run: Any) -> None:
    with pytest.raises(BackendError) as caught:
        run("10.3.0", {"plan": None, "flood": 2000})
    assert "1999 xxx" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_module_that_aborts_on_import(run: Any) -> None:
    with pytest.raises(BackendError, match=r"crashed on net \(SIGABRT\)"):
        run("8.6.0", {"exit": True})
