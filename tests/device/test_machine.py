"""The machine's facts from recorded files of real boards; nothing raises whatever is missing or odd."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.device import Gpu, cpu_model, find_gpus, gpu_name, machine
from jetlens.device.machine import parse_nvidia_smi, parse_tegra_release


def _board(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


def test_this_machine() -> None:
    facts = machine()
    assert facts.cores >= 1
    assert facts.cpu == cpu_model() != ""
    assert facts.memory_mib is None or facts.memory_mib > 100
    assert gpu_name()


def test_a_jetson_is_known_by_its_files(tmp_path: Path, shared_data: Path) -> None:
    logs = shared_data / "logs"
    root = _board(
        tmp_path,
        {
            "proc/device-tree/model": (logs / "device_tree_model_orin_nano_super.txt").read_text() + "\0",
            "etc/nv_tegra_release": (logs / "nv_tegra_release_r36.4.3_orin_nano.txt").read_text(),
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
            "proc/meminfo": "MemTotal:        7802000 kB\nMemAvailable:    5000000 kB\n",
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        },
    )
    facts = machine(root)
    assert facts.jetson is not None
    assert facts.jetson.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (facts.jetson.l4t, facts.jetson.jetpack) == ("36.4.3", "6")
    assert (facts.cpu, facts.system, facts.memory_mib) == ("Cortex-A78AE", "Ubuntu 22.04.5 LTS", 7619)
    assert facts.cpu_features == ("asimd", "asimddp")


def test_every_recorded_release_line_is_read(shared_data: Path) -> None:
    lines = (shared_data / "logs/nv_tegra_release_lines.txt").read_text().splitlines()
    versions = [parse_tegra_release(line) for line in lines if line.startswith("# R")]
    assert len(versions) >= 10
    assert all(version.count(".") >= 1 and version[:2].isdigit() for version in versions)


def test_the_containers_limits_count(tmp_path: Path) -> None:
    root = _board(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 16384000 kB\nMemAvailable: 12000000 kB\n",
            "sys/fs/cgroup/memory.max": f"{2 << 30}\n",
            "sys/fs/cgroup/memory.current": f"{1 << 30}\n",
            "sys/fs/cgroup/cpu.max": "50000 100000\n",
        },
    )
    facts = machine(root)
    assert (facts.memory_mib, facts.memory_available_mib, facts.cores) == (2048, 1024, 1)


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    facts = machine(tmp_path)
    assert (facts.jetson, facts.memory_mib, facts.cpu_features) == (None, None, ())
    assert facts.cpu
    assert facts.system


def test_nvidia_smi_rows() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559, 570.86.15, 9.0\nOrin (nvgpu), [N/A], 540.5.0, [N/A]\nFailed to initialize NVML\n\n"
    assert parse_nvidia_smi(text) == (
        Gpu("NVIDIA H100 80GB HBM3", 81559, "570.86.15", "9.0"),
        Gpu("Orin (nvgpu)", None, "540.5.0", ""),
    )


@pytest.mark.parametrize("script", ["exit 9", "echo 'NVIDIA-SMI has failed, because it could not communicate'; exit 0", "kill -SEGV $$"])
def test_a_broken_nvidia_smi_is_no_gpu(tmp_path: Path, script: str) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert find_gpus(str(program)) == ()


def test_no_nvidia_smi_is_no_gpu() -> None:
    assert find_gpus("no-such-program-here") == ()


@given(st.text())
def test_odd_texts_are_no_error(text: str) -> None:
    parse_nvidia_smi(text)
    parse_tegra_release(text)
