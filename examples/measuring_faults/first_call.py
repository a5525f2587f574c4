"""Fault 1, no warm-up: the first call is another thing than the rest. python first_call.py PICTURE [MODEL]"""

import sys
from statistics import fmean, median
from time import perf_counter

import jetlens

CALLS = 10


def main(picture: str, model: str = "mobilenet_v2") -> None:
    """Times loading, the first call and the steady state, and what an average over all of it would claim."""
    image = jetlens.load_image(picture)
    for backend in ("pytorch", "onnxruntime"):
        start = perf_counter()
        with jetlens.load(model, backend=backend) as predictor:
            loading_ms = (perf_counter() - start) * 1e3
            first_ms, *calls_ms = [predictor.timed(image)[1].total_ms for _ in range(CALLS + 1)]
        steady_ms = median(calls_ms)
        print(f"{backend}: loading {loading_ms:.0f} ms, first call {first_ms:.1f} ms, then {steady_ms:.1f} ms (median of {CALLS})")
        for told, value_ms in (
            ("one call, loading included", loading_ms + first_ms),
            ("one call", first_ms),
            ("mean of the first five", fmean([first_ms, *calls_ms[:4]])),
        ):
            print(f"  {told}: {value_ms:.1f} ms, {value_ms / steady_ms:.2f} times the steady state")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except jetlens.JetlensError as error:
        sys.exit(f"first_call: {error}")
