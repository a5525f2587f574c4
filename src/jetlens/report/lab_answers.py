"""Answers to a laboratory's questions, from measured rows and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jetlens.bench.figures import on_gpu
from jetlens.bench.records import Run
from jetlens.bench.verdict import verdict
from jetlens.report.findings import NOT_CLEAR, headline, row_of
from jetlens.report.rows import Row, number

__all__ = ["answers", "is_tensorrt"]

_NETWORK = ("copy_in", "compute", "copy_out")


def is_tensorrt(row: Row) -> bool:
    """Whether TensorRT ran it, or was to."""
    return "tensorrt" in row.measurement.case.backend


def answers(run: Run, found: Sequence[Row], fps: float) -> list[tuple[str, str]]:
    """Question and answer; a question to which the rows say nothing is answered with what was not measured."""
    shown = [row for row in found if row.p50_ms is not None]
    told = [(question, " ".join(answer(run, found, shown))) for question, answer in _QUESTIONS.items()]
    fastest = ("What is the fastest way that passed its checks?", headline(run, found))
    real_time = (f"Can it be used in real time ({fps:g} frames a second)?", verdict(run, fps).line + ".")
    return [fastest, *told, real_time]


def _tensorrt(run: Run, found: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    """Against the best row of the same device that is not TensorRT: a processor beside a GPU would credit TensorRT with the GPU."""
    mine = [row for row in found if is_tensorrt(row)]
    if not mine:
        return ["TensorRT was not measured here, so this record says nothing about it."]
    told = [f"{row.title} gives no figure: {row.refused}." for row in mine if row.refused]
    if all(row.refused for row in mine):
        told.append("So this record says nothing about its gain.")
    others = [row for row in shown if not is_tensorrt(row) and on_gpu(row.measurement)]
    for row in mine:
        if row.p50_ms is None:
            continue
        told += [_gain(row, other) for other in _fastest_of_each(others)]
        if not others:
            told.append(
                f"{row.title} has a p50 of {number(row.p50_ms, 'ms')}; no other runtime was measured on the GPU in this record, so no gain can be stated."
            )
        build_s = row.measurement.engine.get("build_s")
        told += [f"Its price was {number(float(build_s), 's')} of building, once."] if build_s else []
    return told


def _gain(row: Row, other: Row) -> str:
    assert row.p50_ms is not None
    assert other.p50_ms is not None
    ratio = other.p50_ms / row.p50_ms
    clear = f"{number(ratio, digits=2)} times as fast as" if ratio >= NOT_CLEAR else f"no clear gain ({number(ratio, digits=2)} times) over"
    memory, theirs = row.measurement.memory.device, other.measurement.memory.device
    room = f"; GPU memory {number(memory, 'MiB')} against {number(theirs, 'MiB')}" if memory and theirs else ""
    return f"{row.title}: {clear} {other.title}, both on the GPU{room}."


def _fastest_of_each(others: Sequence[Row]) -> list[Row]:
    """The fastest row of each backend: PyTorch is what the network was before, ONNX Runtime what it could be without TensorRT."""
    best: dict[str, Row] = {}
    for row in sorted(others, key=lambda row: row.p50_ms or 0.0):
        best.setdefault(row.measurement.case.backend, row)
    return list(best.values())


def _first_call(run: Run, found: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    told = [
        f"{row.title}: {number(row.figures['first_ms'], 'ms')}, {number(row.figures['first_ms'] / row.p50_ms, digits=2)} times its p50."
        for row in shown
        if row.p50_ms and row.figures["first_ms"]
    ]
    return told or ["Nothing was measured."]


def _outputs(run: Run, found: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    reference = row_of(found, run.reference)
    told = [f"{row.title}: {row.agreement[1]:.2%} {row.agreement[0]}." for row in shown if row.agreement and row is not reference]
    if told:
        told.insert(0, f"Beside {run.reference}, on identical input:")
    told += [
        f"{row.title}: {row.score[0]} {row.score[1]:.4f} on {row.measurement.accuracy['pictures']:.0f} labelled pictures."
        for row in shown
        if row.score
    ]
    told += [f"{row.title} does not pass: {row.refused}." for row in found if row.refused and not row.measurement.failed]
    return told or ["Nothing was compared."]


def _network_share(run: Run, found: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    """What an infinitely fast network would still leave, of the fastest row."""
    if not shown:
        return ["Nothing was measured."]
    stages = shown[0].figures["stages_ms"]
    total = sum(value for name, value in stages.items() if name not in ("decode", "draw"))
    network = sum(stages.get(name, 0.0) for name in _NETWORK)
    if not network or total <= network:
        return [f"{shown[0].title}: its stages are not told apart."]
    most = total / (total - network)
    return [
        f"{shown[0].title}: the network takes {number(network, 'ms')} of {number(total, 'ms')} from pixels to answer; a network that took no "
        f"time at all would make it {number(most, digits=2)} times as fast and no more."
    ]


_QUESTIONS: dict[str, Callable[[Run, Sequence[Row], Sequence[Row]], list[str]]] = {
    "How does TensorRT help?": _tensorrt,
    "Why is the first call kept apart?": _first_call,
    "Do the answers stay the same?": _outputs,
    "What would a faster network still gain?": _network_share,
}
