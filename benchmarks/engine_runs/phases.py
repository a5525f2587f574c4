"""The phases of h200.py: what is run on a lent GPU, by importance, with the seconds that each was seen or is thought to take."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["OUT", "PARTS", "TREE", "WORK", "Phase", "phases"]

BASE = Path("/tmp/h200")
OUT, PARTS, WORK, TREE = BASE / "out", BASE / "parts", BASE / "work", BASE / "tree"
MODELS = BASE / "models"
BUNDLE = BASE / "bundle"
ENGINE = f"{BUNDLE}/python3.10"
SITES = {"engine": BASE / "site310", "torch": BASE / "site312"}
DATA = TREE / ".gpu" / "d1"
READY = BASE / "ready"
PYTHONS = f"--engine-python {ENGINE} --torch-python python3"


@dataclass(frozen=True, slots=True)
class Phase:
    """One command.

    Attributes:
        kind: ``prepare`` needs no engine and little of the GPU; ``build`` shares the GPU; ``alone`` is timed, or takes all of the memory.
        needs: names of phases that must have ended, well or not.
    """

    name: str
    kind: Literal["prepare", "build", "alone"]
    seconds: float
    limit_s: float
    command: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the comparison.

    Attributes:
        flags: where its weights come from.
        profile: of the engine for larger batches; the other one is 1:1:1.
        batches: that are timed.
        fp32: whether the fp32 engine is built for larger batches too.
        build_s, prepare_s, graphs_s: a build, the export and the fp16 and int8 graphs, in seconds.
    """

    name: str
    flags: str
    profile: str
    batches: str
    fp32: bool
    compiled: str
    build_s: float
    prepare_s: float
    graphs_s: float

    @property
    def ours(self) -> bool:
        return self.name.startswith("orange")


def _own(name: str, build_s: float) -> Network:
    return Network(name, f"--checkpoint {DATA}/ship/{name}.safetensors", "1:8:32", "1,8,32", False, "1", build_s, 15, 3)


NETWORKS = {
    network.name: network
    for network in (
        Network("resnet50", "", "1:32:64", "1,8,32", True, "1,32", 160, 17, 30),
        _own("orange-detect", 150),
        _own("orange-grade", 60),
        _own("orange-segment", 85),
        Network("ssd300_vgg16", "", "1:8:32", "1,8,32", False, "", 110, 27, 75),
        Network("deeplabv3_resnet50", "", "1:4:8", "1,8", False, "", 100, 37, 118),
        Network("mobilenet_v2", f"--weights {DATA}/mobilenet_v2.pth", "1:8:32", "1,8,32", False, "", 70, 13, 13),
        Network("resnet18", "", "1:8:32", "1,8,32", False, "", 45, 14, 17),
    )
}
TWINS = ("orange-detect", "orange-segment", "ssd300_vgg16", "deeplabv3_resnet50")


def phases(gpus: int, parts: int = 15) -> list[Phase]:
    """All of them, the most important first: a phase whose needs are not met lets the next ones pass.

    One GPU or two have no time for all: there the small networks come in fewer engines first, and the rest at the end.
    """
    few = gpus <= 2
    level = 2 if few else 3
    ours = [name for name, network in NETWORKS.items() if network.ours]
    rows = [_unpack(parts), _sites(), *_prepared("resnet50"), *_exports(), *_prepared("ssd300_vgg16")]
    for name in (*ours, "deeplabv3_resnet50", "mobilenet_v2", "resnet18"):
        rows += _prepared(name)
    rows += [_twins(name) for name in TWINS]
    # What the issues check first: fp16 that is fp16 and its speed, the comparison, streams and frames in real time.
    rows += [_tests("lanes", "test_tensorrt_session.py", "not memory and not ship", 25)]
    # A comparison with accuracy needs no package for a segmenter that the lent machine has not.
    rows += _filled("orange-segment", "bench", _PRECISIONS, 160) + _filled("orange-detect", "streams", ("fp16",), 280)
    rows += _builds("resnet50", 3, ("fp16", "int8"), static=True)
    rows += [*_builds("resnet50", 3, ("fp16", "int8"), static=False), *_builds("resnet50", 3, ("fp32",), static=True)]
    rows += [*_builds("ssd300_vgg16", level, ("int8", "fp16"), static=True), *_live("ssd300_vgg16", 45)]
    rows += [
        _measure("resnet50", 95 if few else 150, few),
        _report("orange-segment"),
        _streams("orange-detect"),
        _script("call-overhead", "call_overhead.py", "", 30, 90),
    ]
    for name in ours:
        rows += _builds(name, level, ("fp16", "int8"), static=True)
    rows += [
        _tests("build", "test_engine_build.py", _NOT_ALONE, 150),
        _tests("real", "test_real_engines.py", f"{_NOT_ALONE} and not built_saved", 110),
    ]
    rest = [_builds("ssd300_vgg16", level, ("fp16",), static=False), _builds("ssd300_vgg16", level, ("fp32",), static=True)]
    for name in ours:
        rest += [_builds(name, level, ("fp16", "int8"), static=False), _builds(name, level, ("fp32",), static=True)]
    if not few:
        rows += functools.reduce(operator.iadd, rest, [])
    rows += [_measure(name, 40 if few else 75, few) for name in (*ours, "ssd300_vgg16")]
    rows += [_tests("memory", "test_tensorrt_session.py test_real_engines.py", "memory_is_flat or leaks or opening", 60, kind="alone")]
    rows += [_captures(), *_frames("orange-segment")]
    rows += [_twin_engines(name, 60) for name in TWINS[:3]]
    # DeepLab, then the rest.
    rows += _builds("deeplabv3_resnet50", level, ("fp16", "int8"), static=True)
    rows += [_measure("deeplabv3_resnet50", 40 if few else 75, few), _tests("cache", "test_engine_cache.py", "", 60)]
    rows += [_tests("reload", "test_real_engines.py", "built_saved", 110), _tests("session", "test_tensorrt_session.py", "ship", 200)]
    rows += [_tests("hogs", "test_engine_build.py test_real_engines.py", "hog or full_gpu", 200, kind="alone")]
    rows += [*_live("deeplabv3_resnet50", 45), _twin_engines("deeplabv3_resnet50", 60)]
    for name in ("mobilenet_v2", "resnet18"):
        rows += _builds(name, 2, ("fp16", "int8", "fp32"), static=True) + _builds(name, 2, ("fp16", "int8"), static=False)
        rows += [_measure(name, 40 if few else 75, few)]
    rows += [
        *functools.reduce(operator.iadd, rest, []),
        *_builds("deeplabv3_resnet50", level, ("fp16",), static=False),
        *_builds("resnet50", 3, ("fp32",), static=False),
    ]
    known: dict[str, Phase] = {}
    for row in rows:
        known.setdefault(row.name, row)
    return list(known.values())


_PRECISIONS = ("fp32", "fp16", "int8")
_NOT_ALONE = "not (hog or full_gpu or opening)"
_RUN = f"export PYTHONPATH={SITES['engine']}:{TREE}/src PYTHONUNBUFFERED=1;"
_TORCH = f"export PYTHONPATH={TREE}/src:{SITES['torch']} PYTHONUNBUFFERED=1;"


def _unpack(parts: int) -> Phase:
    last = parts - 1
    wait = "while [ ! -e $f ]; do sleep 0.2; done; cat $f"
    loop = f"for n in $(seq -w 00 {last:02d}); do f={PARTS}/bundle.$n; {wait}; done"
    tools = f"{TREE}/.gpu/tools"
    unzip = f"chmod +x {tools}/zstd; ({loop}) | LD_LIBRARY_PATH={tools} {tools}/zstd -q -d --long=27 | tar -C {BUNDLE} -xf -"
    check = f"{ENGINE} -c 'import tensorrt; print(tensorrt.__version__)'"
    return Phase("unpack", "prepare", 110, 500, f"mkdir -p {BUNDLE}; {unzip} && {check}")


def _sites() -> Phase:
    """pytest for the bundle's Python, and what the machine's own Python lacks of jetlens' needs; the checked fp16 and int8 files of ours.

    Caches that are merged later get one signing key.
    """
    wheels = f"mkdir -p {SITES['engine']} {SITES['torch']} {READY}; for w in {TREE}/.gpu/x/whl/*.whl; do python3 -m zipfile -e $w {SITES['engine']}; done"
    copy = f"cp {TREE}/src/jetlens/assets/models/orange-*.onnx* {READY}/; cp {TREE}/.gpu/ready/* {READY}/"
    # Pure Python, so that those of the bundle do; the loop waits for it.
    names = "rich typer shellingham markdown_it mdurl pygments pynvml.py"
    lend = f'for n in {names}; do python3 -c "import ${{n%.py}}" 2> /dev/null || ln -sf {BUNDLE}/site/$n {SITES["torch"]}/$n; done'
    folder = f"{BASE}/cache/bench-$p/engines"
    key = f"head -c 32 /dev/urandom > {BASE}/key; for p in {' '.join(_PRECISIONS)}; do mkdir -p {folder}; chmod 700 {folder}; "
    key += f"install -m 600 {BASE}/key {folder}/signing.key; done"
    return Phase("sites", "prepare", 5, 60, f"{wheels}; {copy}; {key}; {lend}")


def _driver(network: Network, rest: str) -> str:
    return (
        f"{_TORCH} cd {TREE}; python3 benchmarks/tensorrt_engines.py --network {network.name} {network.flags} --photos {DATA}/coco "
        f"--gpu $GPU --cores $CORES {PYTHONS} --ready {READY} --work {WORK}/{network.name} {rest}"
    )


def _prepared(name: str) -> list[Phase]:
    network = NETWORKS[name]
    return [
        Phase(f"p-{name}", "prepare", network.prepare_s, 150, _driver(network, "--steps prepare"), ("sites",)),
        Phase(f"g-{name}", "prepare", network.graphs_s, 300, _driver(network, "--steps graphs"), (f"p-{name}",)),
    ]


def _twins(name: str) -> Phase:
    seconds = {"deeplabv3_resnet50": 100, "ssd300_vgg16": 57}.get(name, 22)
    return Phase(f"w-{name}", "prepare", seconds, 300, _driver(NETWORKS[name], "--steps twins"), (f"g-{name}",))


def _exports() -> list[Phase]:
    """The SSD of source 002 and a segmenter of source 004's kind, by the command that a user would type."""
    labels = f"printf '%s\\n' background sunburn ulcer scar > {MODELS}/labels.txt"
    network = f"--task segmentation --labels {MODELS}/labels.txt --size 224x224 --mean 123.7,116.3,103.5 --std 58.4,57.1,57.4"
    export = "python3 -m jetlens export"
    ssd = f"{export} ssd300_vgg16 --untrained --output {MODELS}/ssd300_vgg16.onnx"
    own = (
        f"PYTHONPATH=$PYTHONPATH:{TREE}/tests/export {export} poolformer_style:s12 --untrained {network} --output {MODELS}/poolformer.onnx"
    )
    # What the machine's Python lacks comes with the bundle.
    ready = "until python3 -c 'import rich, typer'; do sleep 3; done"
    return [Phase("exports", "prepare", 40, 300, f"{_TORCH} cd {TREE}; mkdir -p {MODELS}; {labels}; {ready}; {own}; {ssd}", ("sites",))]


def _build_name(name: str, kind: str, profile: str) -> str:
    return f"b-{name}-{kind}-{profile.replace(':', '-')}"


def _builds(name: str, level: int, kinds: tuple[str, ...], *, static: bool) -> list[Phase]:
    network = NETWORKS[name]
    profile = "1:1:1" if static else network.profile
    seconds = network.build_s * (1 if level == 3 else 0.7)
    rows = []
    for kind in kinds:
        ready = f"p-{name}" if kind == "fp32" else f"g-{name}"
        command = _driver(network, f"--steps build --precisions {kind} --profiles {profile} --level {level}")
        rows.append(Phase(_build_name(name, kind, profile), "build", seconds, 420, command, ("unpack", ready)))
    return rows


def _measure(name: str, seconds: float, few: bool) -> Phase:
    """Waits for the builds of its network that it times first; an engine that comes later is left out."""
    network = NETWORKS[name]
    waits, batches, compiled = [(kind, "1:1:1") for kind in ("fp16", "int8")], network.batches, network.compiled
    if name == "resnet50" or not few:
        waits += [("fp32", "1:1:1"), ("fp16", network.profile), ("int8", network.profile)]
    else:
        batches, compiled = "1", ""
    if few:
        compiled = compiled.partition(",")[0]
    rounds = "--rounds 5" if name == "resnet50" and not few else "--rounds 3 --seconds 0.1"
    baselines = "torch-eager-fp32,torch-eager-fp16,torch-graph-fp32,torch-graph-fp16" + (",torch-compile-fp16" if compiled else "")
    rest = f"--steps measure --batches {batches} --compile-batches {compiled or 0} {rounds} --baselines {baselines}"
    command = _driver(network, f"{rest} --output {OUT}/{name}.json")
    return Phase(f"m-{name}", "alone", seconds, 240, command, tuple(_build_name(name, *wait) for wait in waits))


def _twin_engines(name: str, seconds: float) -> Phase:
    """Raw numbers of the fp16 and int8 engines beside PyTorch's fp32; afterwards the record is written once more, with them and no timing."""
    command = _driver(NETWORKS[name], "--steps taps --precisions fp16,int8")
    keep = f"mkdir -p {OUT}/taps; for f in {WORK}/{name}/engines/taps-*.json; do cp $f {OUT}/taps/{name}-$(basename $f); done"
    return Phase(f"t-{name}", "build", seconds, 240, f"{command}; {keep}", ("unpack", f"w-{name}"))


def _tests(name: str, files: str, chosen: str, seconds: float, *, kind: Literal["build", "alone"] = "build") -> Phase:
    select = f'-k "{chosen}"' if chosen else ""
    paths = " ".join(f"tests/gpu/{file}" for file in files.split())
    alone = "export JETLENS_GPU_ALONE=1;" if kind == "alone" else ""
    command = (
        f"{_RUN} export JETLENS_GPU_MODELS={MODELS}; {alone} cd {TREE}; {ENGINE} -m pytest -m gpu -p no:cacheprovider -o junit_family=xunit1 -rA -s "
        f"--durations=20 --junitxml={OUT}/tests-{name}.xml {select} {paths}"
    )
    return Phase(f"tests-{name}", kind, seconds, 400, command, ("unpack", "sites", *(("exports",) if name == "reload" else ())))


def _script(
    name: str, script: str, flags: str, seconds: float, limit_s: float, needs: tuple[str, ...] = ("unpack", "sites"), *, cache: str = ""
) -> Phase:
    command = f"{_RUN} export JETLENS_CACHE={BASE}/cache/{cache or name}; cd {TREE}; {ENGINE} benchmarks/{script} {flags} --output {OUT}/{name}.json"
    return Phase(name, "alone", seconds, limit_s, command, needs)


def _captures() -> Phase:
    command = f"{_RUN} export JETLENS_CACHE={BASE}/cache/captures; cd {TREE}; {ENGINE} benchmarks/engine_runs/captures.py {READY} {OUT}/commands.txt"
    return Phase("captures", "build", 150, 400, command, ("unpack", "sites"))


def _bench(name: str, cache: str) -> str:
    return f"{_RUN} export JETLENS_CACHE={BASE}/cache/{cache}; cd {BASE}; {ENGINE} -m jetlens bench {READY}/{name}.onnx --backends tensorrt"


def _filled(name: str, cache: str, precisions: tuple[str, ...], seconds: float) -> list[Phase]:
    """Engines for what follows, each in a cache of its own: a cache builds one at a time."""
    flags = "--blocks 1 --block-seconds 0.05 --pictures 0 --count 2"
    return [
        Phase(
            f"fill-{cache}-{precision}",
            "build",
            seconds,
            420,
            f"{_bench(name, f'{cache}-{precision}')} --precisions {precision} {flags}",
            ("unpack", "sites"),
        )
        for precision in precisions
    ]


def _report(name: str) -> Phase:
    """The comparison as a user would make it, with TensorRT in one Python and PyTorch in the other; a page as soon as there is something to show."""
    cache = f"{BASE}/cache/bench"
    torch = f"{_TORCH} export JETLENS_CACHE={cache}; cd {BASE}; python3 -m jetlens"
    model, timed = f"{READY}/{name}.onnx", "--blocks 6 --block-seconds 0.3"
    records = [f"{OUT}/bench-{part}.json" for part in ("tensorrt", "pytorch", "cpu")]

    def page(count: int) -> list[str]:
        return [f"({torch} report {' '.join(records[:count])} --target-fps 30 --output {OUT}/h200.{kind})" for kind in ("html", "md")]

    commands = (
        f"mkdir -p {cache}; for p in {' '.join(_PRECISIONS)}; do cp -a {cache}-$p/. {cache}/; done",
        f"{_bench(name, 'bench')} --precisions {','.join(_PRECISIONS)} {timed} --output {records[0]}",
        f"({torch} bench {model} --backends pytorch --devices cuda --precisions fp32,fp16 {timed} --output {records[1]})",
        *page(2),
        f"({torch} bench {model} --backends pytorch,onnxruntime --devices cpu {timed} --output {records[2]})",
        *page(3),
    )
    return Phase("bench", "alone", 110, 300, "; ".join(commands), tuple(f"fill-bench-{precision}" for precision in _PRECISIONS))


def _live(name: str, seconds: float) -> list[Phase]:
    """Issue 6: frames that are already decoded, through all stages; once to fill the engine cache, then alone."""
    model = f"{WORK}/{name}/{name}.fp16.onnx"
    run = f"cd {TREE}; {ENGINE} benchmarks/decoded_frames.py --models {model} --backend tensorrt --batches 1,4 --level 2"
    # A cache each: one builds one engine at a time.
    plain, framed = (f"{_RUN} export JETLENS_CACHE={BASE}/cache/live-{kind}-{name}; {run}" for kind in ("plain", "framed"))
    # With antialiasing on the host a thread each fills a lane; else four are all that the pipeline uses.
    plain += "" if name == "deeplabv3_resnet50" else " --lanes 4"
    framed += " --framed --profile each --lanes 4"
    warm, timed = "--seconds 0.05 --rounds 1", "--seconds 1 --rounds 3 --four"
    rows = []
    for kind, build_s, start in (("framed", 180, framed), ("plain", 80, plain)):
        filled, output = f"lw-{kind}-{name}", f"{OUT}/live-{kind}-{name}.json"
        rows.append(Phase(filled, "build", build_s, 420, f"{start} {warm}", ("unpack", f"g-{name}")))
        rows.append(Phase(f"live-{kind}-{name}", "alone", 2 * seconds, 200, f"{start} {timed} --output {output}", (filled,)))
    return rows


def _streams(name: str) -> Phase:
    """Issue 6: 16 cameras of 30 frames a second without a lost frame."""
    run = f"{_RUN} export JETLENS_CACHE={BASE}/cache/streams-fp16; cd {BASE}; {ENGINE} -m jetlens streams --model {READY}/{name}.onnx"
    flags = "--precision fp16 --backend tensorrt --fps 30 --seconds 3 --limit 32 --least 16 --json"
    return Phase("streams", "alone", 60, 150, f"{run} {flags} > {OUT}/streams.json", ("fill-streams-fp16",))


def _frames(name: str) -> list[Phase]:
    """The camera's resize on the host beside in the graph."""
    flags = f"--models {READY}/{name}.onnx --precision fp16 --backend tensorrt"
    timed = _script("frame-size", "frame_size.py", flags, 25, 150, ("fs-warm",))
    warm = timed.command.replace("--output", "--blocks 1 --output")
    return [Phase("fs-warm", "build", 150, 420, warm, ("unpack", "sites")), timed]
