"""Images in: counts of the reliability goals I1 to I3 over the corpus, its mutants, odd pictures and bombs, and the loader's cost beside Pillow.

Run from the repository: ``python benchmarks/images_in.py [--mutants 5000] [--output benchmarks/results/images_in.json]``.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image as PillowImage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from imagefile_cases import Trial, bombs, corpus_files, try_all, unpack_corpus, weighed, write_all  # noqa: E402
from imagefile_odd import CASES, UNDO, count_right, naive, turned_jpeg  # noqa: E402
from jetlens.imagefile import load_image  # noqa: E402

SEED = 20_260_101
ALLOWED_MIB = 20


def counts(trial: Trial) -> dict[str, Any]:
    """A trial as n/N and by outcome."""
    row: dict[str, Any] = {
        "one_image_or_one_error": f"{trial.of('image') + trial.errors}/{trial.count}",
        "images": f"{trial.of('image')}/{trial.count}",
        "silent_none": f"{trial.of('none')}/{trial.count}",
        "crashes": f"{len(trial.crashes)}/{trial.count}",
        "hangs": f"{len(trial.hangs)}/{trial.count}",
        "slowest_s": round(trial.slowest_s, 3),
        "outcomes": dict(sorted(trial.outcomes.items())),
    }
    if trial.pillow:
        clean = trial.count - trial.pillow.get("unclean", 0)
        row["decoded_of_what_pillow_decodes"] = f"{clean - trial.pillow.get('missed', 0)}/{clean}"
        row["equal_to_pillow_where_8_bits"] = (
            f"{trial.pillow.get('equal', 0)}/{clean - trial.pillow.get('missed', 0) - trial.pillow.get('wide', 0)}"
        )
    return row


def odd_pictures() -> dict[str, Any]:
    """Goal I2 and its negative control."""
    files = [turned_jpeg(orientation) for orientation in UNDO]
    ramp = next(case.content for case in CASES if case.name == "png 16-bit grey")
    return {
        "right": f"{count_right(load_image, CASES)}/{len(CASES)}",
        "naive_pillow_right": f"{count_right(naive, CASES)}/{len(CASES)}",
        "orientations_showing_one_picture": f"{sum(np.array_equal(load_image(file), load_image(files[0])) for file in files)}/8",
        "levels_of_a_16_bit_ramp": len(np.unique(load_image(ramp))),
        "levels_of_a_16_bit_ramp_naive": len(np.unique(naive(ramp))),
    }


def bomb_rows(folder: Path) -> dict[str, Any]:
    """Goal I3: refusals with their times and memory."""
    folder.mkdir()
    count = len(list(write_all(bombs(), folder)))
    rows = weighed("jetlens", folder)
    refused = sum(row["outcome"] == "too-large" and row["grown_mib"] <= ALLOWED_MIB for row in rows)
    return {
        "refused": f"{refused}/{count}",
        "within_100_ms": f"{sum(row['took_s'] <= 0.1 for row in rows)}/{count}",
        "slowest_ms": round(1000 * max(row["took_s"] for row in rows), 1),
        "most_grown_mib": round(max(row["grown_mib"] for row in rows), 1),
        "rows": [{**row, "took_s": round(row["took_s"], 4), "grown_mib": round(row["grown_mib"], 2)} for row in rows],
    }


def pillow_decode(content: bytes) -> Any:
    """Pillow's decode and one conversion to an array, nothing else."""
    with PillowImage.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
        return np.asarray(picture)


def speed(repeats: int = 40) -> dict[str, Any]:
    """Median times of the loader and of Pillow's bare decode of 1280x720 RGB, interleaved."""
    coarse = np.random.default_rng(0).integers(0, 256, (45, 80, 3), np.uint8)
    picture = PillowImage.fromarray(coarse).resize((1280, 720), PillowImage.Resampling.BICUBIC)
    rows: dict[str, Any] = {}
    for kind, options in (("JPEG", {"quality": 90}), ("PNG", {})):
        with io.BytesIO() as file:
            picture.save(file, kind, **options)
            content = file.getvalue()
        taken: dict[Callable[[bytes], Any], list[float]] = {load_image: [], pillow_decode: []}
        for turn in range(repeats):
            for load, times in list(taken.items())[:: 1 if turn % 2 else -1]:
                began_s = time.perf_counter()
                load(content)
                times.append(time.perf_counter() - began_s)
        ours, bare = (1000 * statistics.median(times) for times in taken.values())
        rows[kind] = {"load_image_ms": round(ours, 2), "pillow_ms": round(bare, 2), "ratio": round(ours / bare, 3)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "images_in.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        corpus = unpack_corpus(options.data, Path(name) / "corpus")
        files = len(corpus_files(corpus))
        record = {
            "python": platform.python_version(),
            "pillow": PIL.__version__,
            "seed": SEED,
            "corpus": counts(try_all("jetlens", corpus, files)),
            "corpus_naive_cv2_imread": counts(try_all("naive", corpus, files)),
            "mutants": counts(try_all("jetlens", corpus, options.mutants, SEED)),
            "mutants_naive_cv2_imdecode": counts(try_all("naive", corpus, options.mutants, SEED)),
            "odd_pictures": odd_pictures(),
            "bombs": bomb_rows(Path(name) / "bombs"),
            "speed_1280x720": speed(),
        }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
