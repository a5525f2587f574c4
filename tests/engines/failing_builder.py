"""Builders that die in every way that a real one does: python failing_builder.py KIND FOLDER. Imports nothing of jetlens."""

import ctypes
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

KIND, FOLDER = sys.argv[1], Path(sys.argv[2])
JOB = json.loads((FOLDER / "job.json").read_text())
PLAN = b"\x00plan" * 100
FACTS = {
    "inputs": [{"name": "images", "dtype": "uint8", "shape": ["N", 8, 8, 3]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": ["N", 3]}],
    "precision": "fp32",
    "layers": {"fp32": 3},
    "build_s": 1.5,
    "workspace_mib": 0,
    "device_memory_mib": 1.0,
    "notes": ["said by the builder"],
}


def answer(kind: str, text: str = "", sha256: str = "", plan: bytes = b"", facts: object = None) -> None:
    if plan:
        (FOLDER / "model.plan").write_bytes(plan)
    (FOLDER / "answer.json").write_text(json.dumps({"kind": kind, "text": text, "sha256": sha256, "facts": facts}))


def built() -> None:
    answer("built", sha256=hashlib.sha256(PLAN).hexdigest(), plan=PLAN, facts=FACTS)


def limited(mib: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20))
    bytearray(1 << 31)


def flood() -> None:
    line = b"[TRT] [V] " + b"x" * 1013 + b"\n"
    for _ in range(100 << 10):
        os.write(1, line)


def segfault() -> None:
    ctypes.string_at(0)


def hang() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A grandchild that holds the pipe open.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if os.environ.get("PIDS"):
        Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def bad_alloc() -> None:
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n")
    os.abort()


def cuda_memory() -> None:
    """As TensorRT does when CUDA itself has no memory: it says so, then crashes."""
    os.write(2, b"TensorRT: createInferBuilder: Error Code 1: Cuda Runtime (out of memory)\n")
    segfault()


def needs_little() -> None:
    if JOB["options"]["workspace_mib"] > 256:
        os.kill(os.getpid(), signal.SIGKILL)
    built()


KINDS = {
    "ok": built,
    "segfault": segfault,
    "abort": os.abort,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "limited": lambda: limited(512),
    "bad_alloc": bad_alloc,
    "cuda_memory": cuda_memory,
    "told_memory": lambda: answer("memory", "Error Code 2: OutOfMemory (Requested size was 20132809216 bytes.)"),
    "needs_little": needs_little,
    "hang": hang,
    "flood_and_crash": lambda: (flood(), segfault()),
    "flood": lambda: (flood(), built()),
    "nothing": lambda: None,
    "junk_answer": lambda: (FOLDER / "answer.json").write_bytes(os.urandom(5000)),
    "huge_answer": lambda: (FOLDER / "answer.json").write_bytes(b"[" * (8 << 20)),
    "junk_plan": lambda: answer("built", sha256="0" * 64, plan=os.urandom(5000), facts=FACTS),
    "junk_facts": lambda: answer("built", sha256=hashlib.sha256(PLAN).hexdigest(), plan=PLAN, facts={"inputs": [5]}),
    "junk_words": lambda: (os.write(2, bytes(range(256)) * 40), sys.exit(3)),
    "built_and_crash": lambda: (built(), segfault()),
    "unsupported": lambda: answer("model", "TensorRT 8.6.0 cannot run net: operator NonMaxSuppression of node '/post/nms': no importer"),
    "refused": lambda: answer("backend", "net is an fp16 graph and TensorRT 8.6.0 runs none of it in fp16"),
}
KINDS[KIND]()
