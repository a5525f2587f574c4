"""The machine's facts, from /proc, /sys and nvidia-smi; what cannot be found out is left empty and nothing here raises."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jetlens.device.files import ask, read_text
from jetlens.device.proc import read_memory, rows

__all__ = ["Gpu", "Jetson", "Machine", "cpu_model", "find_gpus", "gpu_name", "machine", "parse_nvidia_smi", "parse_tegra_release"]

_SMI_QUERY = ("--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits")
_SMI_TIMEOUT_S = 10
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm")
# JetPack generations by the major version of L4T.
_JETPACKS = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}
_ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU; None where the driver does not say."""

    name: str
    memory_mib: int | None
    driver: str
    compute_capability: str


@dataclass(frozen=True, slots=True)
class Jetson:
    """The board's own name, its L4T release and the JetPack generation of that release."""

    model: str
    l4t: str
    jetpack: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measurement was taken on.

    Attributes:
        cores: that this process may use, not those that the machine has.
        memory_mib: physical, or the container's limit where that is lower.
        cpu_features: those instruction sets that matter to networks.
    """

    cpu: str
    cores: int
    cpu_features: tuple[str, ...]
    memory_mib: int | None
    memory_available_mib: int | None
    system: str
    kernel: str
    architecture: str
    python: str
    jetson: Jetson | None
    gpus: tuple[Gpu, ...]


def machine(root: Path = Path("/")) -> Machine:
    """The facts of this machine; ``root`` is where /proc, /sys and /etc are looked for."""
    cpuinfo = read_text(root / "proc/cpuinfo")
    memory = read_memory(root)
    return Machine(
        cpu=_cpu_from(cpuinfo),
        cores=_cores(root),
        cpu_features=_features(cpuinfo),
        memory_mib=memory.total_mib,
        memory_available_mib=memory.available_mib,
        system=_system(root),
        kernel=platform.release(),
        architecture=platform.machine(),
        python=platform.python_version(),
        jetson=_jetson(root),
        gpus=find_gpus(root=root),
    )


@cache
def cpu_model() -> str:
    """The processor's name."""
    return _cpu_from(read_text(Path("/proc/cpuinfo")))


@cache
def gpu_name() -> str:
    """The first GPU's name, on a Jetson the board's; ``GPU`` where neither is known."""
    jetson = _jetson(Path("/"))
    if jetson and jetson.model:
        return jetson.model
    gpus = find_gpus()
    return gpus[0].name if gpus else "GPU"


def find_gpus(command: str = "nvidia-smi", root: Path = Path("/")) -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that nvidia-smi lists; none where it is absent, fails or hangs."""
    return parse_nvidia_smi(ask([command, *_SMI_QUERY], root=root, timeout_s=_SMI_TIMEOUT_S))


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """The rows of nvidia-smi's CSV answer to name, memory.total, driver_version, compute_cap."""
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0]:
            name, memory, driver, capability = ("" if part.startswith("[") else part for part in parts)
            gpus.append(Gpu(name or "NVIDIA GPU", int(memory) if memory.isdigit() else None, driver, capability))
    return tuple(gpus)


def parse_tegra_release(text: str) -> str:
    """The L4T version in the first line of /etc/nv_tegra_release, such as ``36.4.3``; empty where there is none."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def _jetson(root: Path) -> Jetson | None:
    model = read_text(root / "proc/device-tree/model").strip("\0\n ")
    l4t = parse_tegra_release(read_text(root / "etc/nv_tegra_release"))
    if not l4t and not re.search("jetson|tegra", model, re.IGNORECASE):
        return None
    return Jetson(model, l4t, _JETPACKS.get(l4t.partition(".")[0], ""))


def _cpu_from(cpuinfo: str) -> str:
    table = dict(rows(cpuinfo.splitlines()))
    name = table.get("model name") or table.get("Model") or _ARM_CORES.get((table.get("CPU implementer", ""), table.get("CPU part", "")))
    return " ".join((name or platform.processor() or platform.machine() or "unknown").split())


def _features(cpuinfo: str) -> tuple[str, ...]:
    table = dict(rows(cpuinfo.splitlines()))
    flags = set((table.get("flags") or table.get("Features") or "").split())
    return tuple(name for name in _FEATURES if name in flags)


def _cores(root: Path) -> int:
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    quota, _, period = read_text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit() and int(period) > 0:
        count = min(count, max(1, round(int(quota) / int(period))))
    return count


def _system(root: Path) -> str:
    for line in read_text(root / "etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip('"')
    return f"{platform.system()} {platform.release()}"
