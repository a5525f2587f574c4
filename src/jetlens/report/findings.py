"""Findings: sentences that follow from the measured rows, and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from types import MappingProxyType

from jetlens.bench import figures
from jetlens.bench.compare import run_differences
from jetlens.bench.records import Run
from jetlens.report.rows import Row, number

__all__ = ["SOURCES", "THEORY", "headline", "results", "row_of", "tensorrt", "warnings"]

NOT_CLEAR = 1.05
"""Below this ratio two medians are called about equal."""

THEORY: Mapping[str, str] = {
    "Latency and throughput": "Latency is the time of one answer, throughput the answers a second. Batches and lanes raise the second and may "
    "raise the first too; a camera needs the first.",
    "Percentiles": "A mean hides the slow calls. p99 is the time that one call in a hundred exceeds: at 30 frames/s that happens every three seconds.",
    "What an optimiser does": "It joins layers (convolution, bias, activation) into one kernel, chooses the fastest kernel for each by timing it "
    "on this device, and plans memory once. It changes arithmetic only where the graph asks for fp16 or int8.",
    "fp16": "Half the bytes of fp32 and matrix units for it on most GPUs; 10 bits of mantissa and a largest value of 65504 (Micikevicius et al. 2018).",
    "int8": "Values become 256 steps whose size calibration finds on real images; weights have a step a channel (Jacob et al. 2018; "
    "Krishnamoorthi 2018). It costs accuracy, so accuracy has to be measured, not assumed.",
    "The slowest stage": "Where computing is one part in n of the time, making it infinitely fast gains at most n/(n-1) (Amdahl 1967).",
}
"""Pointers for a reader who is new to this."""

SOURCES: Mapping[str, str] = {
    "Amdahl 1967": "Validity of the single processor approach to achieving large scale computing capabilities. AFIPS spring joint computer conference, 483-485.",
    "Jacob et al. 2018": "Quantization and training of neural networks for efficient integer-arithmetic-only inference. CVPR, 2704-2713.",
    "Krishnamoorthi 2018": "Quantizing deep convolutional networks for efficient inference. arXiv 1806.08342.",
    "Micikevicius et al. 2018": "Mixed precision training. ICLR.",
    "ONNX": "Open Neural Network Exchange, operator specification (QuantizeLinear, DequantizeLinear).",
    "TensorRT": "NVIDIA TensorRT documentation, chapters on performance best practices and on working with quantized types.",
}
"""What the sentences above stand on."""

Elsewhere = Mapping[str, tuple[Run, Sequence[Row]]]
"""Records and their rows by the name of their file."""

_MAY_DIFFER = ("memory_available_mib", "python")  # facts in which one machine differs from run to run

_STAGE_NAMES = {
    "decode": "decoding the picture",
    "preprocess": "resizing",
    "copy_in": "the copy to the device",
    "compute": "the network",
    "copy_out": "the copy back",
    "postprocess": "decoding the answer",
    "draw": "drawing",
}


def headline(run: Run, found: Sequence[Row]) -> str:
    """One sentence: what is the fastest that passed, by how much, and how many were refused."""
    shown = [row for row in found if row.p50_ms is not None]
    refused = [row.title for row in found if row.refused]
    if found and all(row.measurement.failed for row in found):
        return f"No case ran: {found[0].title}: {found[0].refused}."
    if not shown:
        return f"No case passed its gates: {', '.join(refused) or 'none was measured'}."
    best = shown[0]
    ties = [row.title for row in shown if row.rank == best.rank]
    names = best.title if len(ties) == 1 else f"{' and '.join(ties)} (a tie)"
    doubt = figures.doubt(run, best.measurement)
    text = f"Fastest {f'({doubt})' if doubt else 'of those that passed'}: {names}, p50 {number(best.p50_ms, 'ms')}, {number(best.figures['images_per_s'])} images/s"
    other = row_of(found, run.reference)
    if other is not None and other.rank != best.rank and best.p50_ms and other.p50_ms:
        text += f"; {number(other.p50_ms / best.p50_ms, digits=2)} times as fast as {other.title}"
    if refused:
        text += f". Refused: {', '.join(refused)}"
    return text + "."


def results(run: Run, found: Sequence[Row]) -> list[str]:
    """What the measured rows say, a sentence each."""
    sentences = [headline(run, found)]
    for row in found:
        if row.p50_ms is None:
            continue
        stages = figures.scope_medians(run, row.measurement)
        if stages:
            slowest = max(stages, key=lambda name: stages[name])
            share = stages[slowest] / sum(stages.values())
            sentences.append(
                f"{row.title}: the largest part of the time goes to {_STAGE_NAMES[slowest]} ({number(stages[slowest], 'ms')}, {share:.0%})."
            )
    scored = [row for row in found if row.score]
    if scored:
        name = scored[0].score[0] if scored[0].score else ""
        values = ", ".join(f"{row.title} {row.score[1]:.4f}" for row in scored if row.score)
        sentences.append(f"Accuracy ({name}): {values}.")
    reference = row_of(found, run.reference)
    agreeing = [row for row in found if row.agreement and row is not reference]
    if agreeing:
        values = ", ".join(f"{row.title} {row.agreement[1]:.2%}" for row in agreeing if row.agreement)
        sentences.append(f"Agreement with {run.reference or 'the reference'} on identical input: {values}.")
    return sentences


def tensorrt(run: Run, found: Sequence[Row], elsewhere: Elsewhere = MappingProxyType({})) -> list[str]:
    """What TensorRT helped with and what not, from the rows; says so where none was measured.

    Args:
        elsewhere: the other records of the page.
    """
    mine = [row for row in found if _is_tensorrt(row)]
    others = [row for row in found if row not in mine and row.p50_ms is not None]
    if not mine:
        if any(_is_tensorrt(row) for _, rows in elsewhere.values() for row in rows):
            return []
        return ["No TensorRT case was measured here, so this page says nothing about what it would gain on this machine."]
    sentences = [f"{row.title} was refused: {row.refused}." for row in mine if row.refused]
    for row in mine:
        if row.p50_ms is None:
            continue
        sentences += _across(run, row, elsewhere)
        if not others:
            continue
        best = min(others, key=lambda other: other.p50_ms or 0)
        assert best.p50_ms is not None
        ratio = best.p50_ms / row.p50_ms
        if ratio >= NOT_CLEAR:
            sentences.append(f"{row.title} answered {number(ratio, digits=2)} times as fast as {best.title}, the best of the others.")
        else:
            sentences.append(f"{row.title} gained nothing clear over {best.title} ({number(ratio, digits=2)} times as fast).")
        sentences += _where((run, row), (run, best))
    slow = [row for row in mine if row.measurement.engine.get("build_s")]
    sentences += [f"Its price: {row.title} took {number(float(row.measurement.engine['build_s']), 's')} to build, once." for row in slow]
    return sentences


def warnings(run: Run, found: Sequence[Row]) -> list[str]:
    """What a reader must know before believing a number."""
    told = [f"Accuracy was not measured: {run.unscored}."] if run.unscored else []
    if not run.complete:
        done, planned = run.counts
        told.append(f"Incomplete: {done} of {planned} blocks ran, so nothing here is final.")
    for row in found:
        if row.refused:
            continue
        if not row.measurement.warm_up.settled:
            told.append(f"{row.title} did not settle while it warmed up: its numbers may still drift.")
        if row.figures["noise"] > figures.NOISY:
            told.append(f"{row.title}: block medians spread by {row.figures['noise']:.0%}; the machine was noisy.")
        if (row.figures["stage_sum_error"] or 0) > 0.05:
            told.append(f"{row.title}: its stages add up to {1 - row.figures['stage_sum_error']:.0%} of the wall time.")
    median_ms = [row.p50_ms for row in found if row.p50_ms]
    if median_ms and run.overhead_ms > 0.01 * median(median_ms):
        told.append(f"The measurement itself takes {number(run.overhead_ms * 1000, 'µs')} a call, above 1 % of the median.")
    return told


def _is_tensorrt(row: Row) -> bool:
    return "tensorrt" in row.measurement.case.backend


def _across(run: Run, row: Row, elsewhere: Elsewhere) -> list[str]:
    """What a row of TensorRT gained over the fastest of the other records, which did not take turns with it.

    The undisturbed latency is compared: it repeats from run to run where medians move.
    """
    pairs = [(name, other, rival) for name, (other, rows) in elsewhere.items() for rival in rows if _comparable(run, row, other, rival)]
    if not pairs:
        return []
    name, other, rival = min(pairs, key=lambda pair: float(pair[2].figures["undisturbed_ms"]))
    mine, theirs = row.figures, rival.figures
    ratio = theirs["undisturbed_ms"] / mine["undisturbed_ms"]
    clear = ratio >= NOT_CLEAR and mine["undisturbed_interval"][1] < theirs["undisturbed_interval"][0]
    gain = f"answered {number(ratio, digits=2)} times as fast as" if clear else "gained nothing clear over"
    return [
        f"{row.title} at its best {gain} {rival.title} of {name} ({number(mine['undisturbed_ms'])} against {number(theirs['undisturbed_ms'], 'ms')}); "
        "that was measured in another run, one after the other and not by turns.",
        *_where((run, row), (other, rival)),
    ]


def _comparable(run: Run, row: Row, other: Run, rival: Row) -> bool:
    """Whether two rows of two records did the same work on the same machine in the same state, and only the runtime differs."""
    if _is_tensorrt(rival) or rival.p50_ms is None or any(run_differences(run, other)):
        return False
    machines = [{key: value for key, value in one.machine.items() if key not in _MAY_DIFFER} for one in (run, other)]
    if not machines[0] or machines[0] != machines[1]:
        return False
    files = [{one.model_sha256 for one in record.measurements if one.case.model == row.measurement.case.model} for record in (run, other)]
    work = [(one.case.model, one.case.batch, one.case.lanes, one.input_sha256) for one in (row.measurement, rival.measurement)]
    # The files of fp16 and int8 are others than that of fp32: one that both records know shows that the model is the same.
    return work[0] == work[1] and bool(row.measurement.input_sha256) and bool((files[0] & files[1]) - {""})


def _where(first: tuple[Run, Row], second: tuple[Run, Row]) -> list[str]:
    """Which of the timed stages the gain of the first over the second came from, and which stayed."""
    mine, theirs = (figures.scope_medians(run, row.measurement) for run, row in (first, second))
    network = ("copy_in", "compute", "copy_out")
    before, after = (sum(stages.get(name, 0.0) for name in network) for stages in (theirs, mine))
    rest_before, rest_after = (sum(value for name, value in stages.items() if name not in network) for stages in (theirs, mine))
    if not (before and after and rest_after):
        return []
    share = rest_after / (rest_after + after)
    return [
        f"The network itself went from {number(before, 'ms')} to {number(after, 'ms')}; everything around it from {number(rest_before, 'ms')} "
        f"to {number(rest_after, 'ms')}, which TensorRT does not touch and which is now {share:.0%} of the time."
    ]


def row_of(found: Sequence[Row], title: str) -> Row | None:
    """The row that a run names as its reference, if it is one of them."""
    return next((row for row in found if title and (row.title == title or title.startswith(f"{row.measurement.case.title} "))), None)
