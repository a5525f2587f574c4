"""One table of many records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["merge"]

ENGINES = (
    "network",
    "file",
    "engine ran in",
    "profile",
    "level",
    "build s",
    "plan MiB",
    "context MiB",
    "agreement with PyTorch fp32",
    "raw outputs, relative L2",
)
SPEED = (
    "network",
    "batch",
    "engine ran in",
    "run p50",
    "run p99",
    "lane p50",
    "bound p50",
    "lane/bound",
    "compute p50",
    "1 lane images/s",
    "2",
    "3",
    "4",
    "most/1",
    "Polygraphy p50",
    "most/Polygraphy",
    "GPU MiB",
)
TORCH = ("network", "batch", "way", "host p50", "host p99", "compute p50")
AGREEMENTS = ("top1_agreement", "matched_boxes", "mask_agreement")


def merge(paths: Sequence[Path], output: Path, notes: Sequence[str] = ()) -> None:
    """Prints tables of all records and writes them with the records, without their single times, as one file.

    An engine is called by the precision that its layers ran in: a file of fp16 whose engine ran in fp32 is no fp16 result.
    """
    records = [json.loads(path.read_text()) for path in paths]
    engines, speed, torch = [], [], []
    for record in records:
        record.pop("raw", None)
        engines += [_engine_row(record, row) for row in [*record.get("engines", ()), *record.get("taps", ())]]
        for timing in record.get("timings", ()):
            speed += [_speed_row(record, timing, kind) for kind in ("fp32", "fp16", "int8") if f"{kind}/run" in timing["figures"]]
            torch += [_torch_row(record, timing, name) for name in timing["opened"] if f"{name}/host" in timing["figures"]]
    tables = {"engines": _table(ENGINES, engines), "speed_ms": _table(SPEED, speed), "pytorch_ms": _table(TORCH, torch)}
    for name, lines in tables.items():
        print(f"{name}\n" + "\n".join(lines) + "\n")
    for note in notes:
        print(f"note: {note}")
    output.parent.mkdir(parents=True, exist_ok=True)
    content = {"notes": list(notes), "tables": tables, "networks": records}
    output.write_text(json.dumps(content, indent=1) + "\n")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[str(cell) for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [list(head), ["---"] * len(head), *cells]]


def _ran(row: dict[str, Any]) -> str:
    """What the engine's layers ran in; TensorRT's fp32 is TF32 on Ampere and later."""
    ran = str(row.get("runs_in", "?"))
    return "fp32 (TF32)" if ran == "fp32" else ran


def _engine_row(record: dict[str, Any], row: dict[str, Any]) -> list[Any]:
    profile = ":".join(map(str, row["profile"]))
    start = [record["network"], row["precision"]]
    if "failed" in row:
        return [*start, f"failed: {row['failed'][:160]}", profile, row.get("level", ""), "", "", "", "", ""]
    deviation = row.get("deviation", {})
    agreement = next((f"{deviation[key]:.5f} {key}" for key in AGREEMENTS if key in deviation), "")
    raw = "; ".join(f"{key.removesuffix('_relative_l2')} {value:.2e}" for key, value in deviation.items() if key.endswith("_relative_l2"))
    figures = [row.get("build_s", ""), row.get("plan_mib", ""), row.get("device_memory_mib", "")]
    return [*start, _ran(row), profile, row.get("level", ""), *figures, agreement, raw]


def _speed_row(record: dict[str, Any], timing: dict[str, Any], kind: str) -> list[Any]:
    figures, opened = timing["figures"], timing["opened"][kind]
    engine = next(row for row in record["engines"] if row["precision"] == kind and row["profile"] == opened["profile"])
    lanes = [figures[f"{kind}/lanes-{count}"]["images_per_s"] for count in range(1, 5)]
    raw, lane, polygraphy = (_p50(figures, f"{kind}/{case}") for case in ("raw", "lane", "polygraphy"))
    return [
        record["network"],
        timing["batch"],
        _ran(engine) if engine.get("runs_in") == kind else f"{_ran(engine)}, of the {kind} file",
        _p50(figures, f"{kind}/run"),
        figures[f"{kind}/run"]["p99_ms"],
        lane,
        raw,
        round(lane / raw, 3) if raw and lane else "",
        _p50(figures, f"{kind}/compute"),
        *lanes,
        round(max(lanes) / lanes[0], 2),
        polygraphy,
        round(max(lanes) * polygraphy / 1000 / timing["batch"], 1) if polygraphy else "",
        opened.get("memory_mib", ""),
    ]


def _p50(figures: dict[str, Any], case: str) -> Any:
    return figures[case]["p50_ms"] if case in figures else ""


def _torch_row(record: dict[str, Any], timing: dict[str, Any], name: str) -> list[Any]:
    host, compute = timing["figures"][f"{name}/host"], timing["figures"][f"{name}/compute"]
    return [record["network"], timing["batch"], name, host["p50_ms"], host["p99_ms"], compute["p50_ms"]]
