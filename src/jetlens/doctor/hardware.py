"""The machine itself: system, memory, disk, Jetson and JetPack, power mode and clocks, GPU, cameras."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

from jetlens.device.files import read_text
from jetlens.device.proc import read_memory
from jetlens.device.smi import parse_table
from jetlens.device.state import read_state
from jetlens.doctor.check import Check, Host
from jetlens.folders import cache_folder

__all__ = ["cameras", "clocks", "disk", "gpu", "jetson", "memory", "power_mode", "swap", "system"]

_LOW_MEMORY_MIB = 2048
_LOW_DISK_MIB = 2048
_BUILDER_MIB = 8000
_HOT_C = 85


def system(host: Host) -> Iterator[Check]:
    """System, Python and processor."""
    facts = host.facts
    features = ", ".join(facts.cpu_features) or "no vector extensions known"
    yield Check("system", True, f"{facts.system}, {facts.architecture}, kernel {facts.kernel}", f"Python {facts.python}")
    yield Check("processor", True, f"{facts.cpu}, {facts.cores} cores for this process", features)


def memory(host: Host) -> Check:
    """Memory that is free."""
    total, free = host.facts.memory_mib, host.facts.memory_available_mib
    enough = free is None or free >= _LOW_MEMORY_MIB
    found = "unknown" if total is None else f"{total} MiB, {free} MiB available"
    means = "enough for every shipped model" if enough else f"less than {_LOW_MEMORY_MIB} MiB are available: large models may not load"
    return Check("memory", enough, found, means, "" if enough else "close other programs, or give smaller inputs and batches")


def swap(host: Host) -> Check:
    """Swap: on a small Jetson the builder of engines needs it."""
    facts = read_memory(host.root)
    total, used = facts.swap_total_mib, facts.swap_used_mib
    if total is None:
        return Check("swap", True, "unknown", "/proc/meminfo does not say")
    found = f"{total} MiB, {used} MiB in use" if total else "none"
    if host.facts.jetson is not None and (facts.total_mib or _BUILDER_MIB) + total < _BUILDER_MIB:
        remedy = "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
        return Check("swap", False, found, "building engines may be killed for want of memory", remedy)
    return Check(
        "swap", True, found, "memory that is full slows down in place of failing" if total else "memory that is full ends programs"
    )


def disk(host: Host) -> Check:
    """Room for engines and models where they are kept."""
    folder = cache_folder("engines")
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free >> 20
    enough = free >= _LOW_DISK_MIB
    means = "engines and models are kept there" if enough else f"less than {_LOW_DISK_MIB} MiB: engines and checkpoints may not fit"
    remedy = "" if enough else "free some, or set JETLENS_CACHE to a folder on another disk"
    return Check("disk", enough, f"{free} MiB free for {cache_folder('')}", means, remedy)


def jetson(host: Host) -> Iterator[Check]:
    """Board, L4T and JetPack: of the installed packages where they tell, of the release file otherwise."""
    board = host.facts.jetson
    if board is None:
        return
    core = host.packages.get("nvidia-l4t-core", "").partition("-")[0]
    release = f"L4T {board.l4t or core or 'unknown'}" + (f" (JetPack {board.jetpack})" if board.jetpack else "")
    yield Check("Jetson", True, f"{board.model or 'unknown board'}, {release}", "use JetPack's own cv2, torch and TensorRT")
    jetpack = host.packages.get("nvidia-jetpack", "")
    if jetpack:
        yield Check("JetPack", True, f"nvidia-jetpack {jetpack}", "CUDA, cuDNN and TensorRT come with it")
    elif board.model or core:
        yield Check(
            "JetPack",
            False,
            "the package nvidia-jetpack is not installed",
            "CUDA, cuDNN and TensorRT may be missing, unless this is a container that brings them",
            "sudo apt update && sudo apt install nvidia-jetpack",
        )


def power_mode(host: Host) -> Iterator[Check]:
    """The power mode, and the one without limits where this is another."""
    mode = read_state(host.root).power_mode
    if not mode:
        if host.facts.jetson is not None:
            yield Check("power mode", False, "nvpmodel does not say", "speeds depend on it and cannot be compared", "sudo nvpmodel -q")
        return
    names = re.findall(r"POWER_MODEL\s+ID=([0-9]+)\s+NAME=([\w.-]+)", read_text(host.root / "etc/nvpmodel.conf"))
    fastest = next(((number, name) for number, name in reversed(names) if name.startswith("MAXN")), None)
    if host.facts.jetson is None:
        means = "performance is the fastest" if mode != "performance" else "the fastest"
    elif mode.startswith("MAXN"):
        means = "no limit on clocks but heat"
    elif fastest:
        means = f"clocks are capped; for full speed: sudo nvpmodel -m {fastest[0]} ({fastest[1]})"
    else:
        means = "clocks are capped: /etc/nvpmodel.conf lists the modes, sudo nvpmodel -m N sets one"
    yield Check("power mode", True, mode, means)


def clocks(host: Host) -> Check:
    """What governs the clocks, how hot the machine is and what it holds back."""
    state = read_state(host.root)
    parts = [f"governor {state.governor}" if state.governor else "governor unknown"]
    if state.cpu_mhz is not None:
        limits = f" of {state.cpu_lowest_mhz:.0f} to {state.cpu_highest_mhz:.0f}" if state.cpu_lowest_mhz and state.cpu_highest_mhz else ""
        parts.append(f"CPU {state.cpu_mhz:.0f}{limits} MHz")
    if state.gpu_mhz is not None:
        parts.append(f"GPU {state.gpu_mhz:.0f}{f' of {state.gpu_highest_mhz:.0f}' if state.gpu_highest_mhz else ''} MHz")
    if state.hottest_c is not None:
        parts.append(f"hottest sensor {state.hottest_c:.0f} C")
    found = ", ".join(parts)
    if state.throttling or (state.hottest_c or 0) >= _HOT_C:
        why = ", ".join(state.throttling or ()) or f"{state.hottest_c:.0f} C"
        return Check("clocks", False, found, f"the machine slows itself down ({why}): measurements are too slow", "cool it and wait")
    if state.on_battery:
        return Check("clocks", False, f"{found}, on battery", "laptops run slower on battery", "plug it in before you measure")
    steady = "clocks move with the load: a measurement needs its warm-up"
    if host.facts.jetson is not None:
        steady += "; sudo jetson_clocks holds them at their highest"
    return Check("clocks", True, found, "held at their highest" if state.governor == "performance" else steady)


def gpu(host: Host) -> Iterator[Check]:
    """NVIDIA GPUs with their memory, driver and compute capability."""
    for card in host.facts.gpus:
        memory_text = f", {card.memory_mib} MiB" if card.memory_mib else ""
        newest = parse_table(host.ask("nvidia-smi")).cuda
        found = f"{card.name}{memory_text}, driver {card.driver or 'unknown'}, compute capability {card.compute_capability or 'unknown'}"
        means = f"runtimes with CUDA{f' up to {newest}' if newest else ''} can use it: --device cuda"
        yield Check("GPU", True, found, means)
    if host.facts.gpus:
        return
    if host.facts.jetson is not None:
        yield Check("GPU", True, f"the GPU of {host.facts.jetson.model or 'a Jetson'}", "runtimes with CUDA can use it: --device cuda")
        return
    why = "nvidia-smi lists none" if host.program("nvidia-smi") else "there is no nvidia-smi"
    yield Check(
        "GPU",
        False,
        f"no NVIDIA GPU: {why}",
        "models run on the processor",
        "if the machine has one: install NVIDIA's driver",
        applies=False,
    )


def cameras(host: Host) -> Check:
    """Cameras and whether this user may open them."""
    devices = sorted(host.root.glob("dev/video[0-9]*"), key=lambda path: int(path.name[5:] or 0) if path.name[5:].isdecimal() else 0)
    if not devices:
        return Check("cameras", False, "no /dev/video*", "pictures come from files only", "plug a camera in", applies=False)
    named = [f"{path.name} {read_text(host.root / f'sys/class/video4linux/{path.name}/name').strip()}".strip() for path in devices]
    closed = [path.name for path in devices if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        remedy = "sudo usermod -aG video $USER, then log in again"
        return Check("cameras", False, ", ".join(named), f"this user may not open {', '.join(closed)}", remedy)
    return Check("cameras", True, ", ".join(named), "OpenCV and GStreamer can open them")
