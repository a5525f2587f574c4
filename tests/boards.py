"""Folders that look like the root of a board, made of recorded files and of programs that print what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DPKG = """Package: nvidia-jetpack
Status: install ok installed
Architecture: arm64
Version: 6.2+b77

Package: nvidia-l4t-core
Status: install ok installed
Version: 36.4.3-20250107174145

Package: libcudnn9-cuda-12
Status: install ok installed
Version: 9.3.0.75-1

Package: libnvinfer10
Status: install ok installed
Version: 10.3.0.30-1+cuda12.5

Package: python3-libnvinfer
Status: install ok installed
Version: 10.3.0.30-1+cuda12.5

Package: nvidia-container
Status: deinstall ok config-files
Version: 6.2+b77
"""
NVPMODEL_CONF = """< POWER_MODEL ID=0 NAME=15W >
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
"""
GST_INSPECT = """case "$1" in
nvarguscamerasrc|nvv4l2decoder) echo "Factory Details:"; echo "  Rank primary (256)";;
*) echo "No such element or plugin '$1'"; exit 1;;
esac"""


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Text files under a root."""
    for name, text in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


def write_program(root: Path, name: str, script: str) -> Path:
    """A shell program in the root's usr/bin."""
    target = root / "usr/bin" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"#!/bin/sh\n{script}\n")
    target.chmod(0o755)
    return target


def orin_nano(root: Path, logs: Path) -> Path:
    """An Orin Nano Super with JetPack 6.2, whole."""
    write_files(
        root,
        {
            "proc/device-tree/model": (logs / "device_tree_model_orin_nano_super.txt").read_text() + "\0",
            "etc/nv_tegra_release": (logs / "nv_tegra_release_r36.4.3_orin_nano.txt").read_text(),
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
            "proc/meminfo": "MemTotal: 7802000 kB\nMemAvailable: 5000000 kB\nSwapTotal: 3901440 kB\nSwapFree: 2389504 kB\n",
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "var/lib/dpkg/status": DPKG,
            "etc/nvpmodel.conf": NVPMODEL_CONF,
            "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
            "usr/src/tensorrt/bin/trtexec": "",
            "usr/local/cuda/bin/nvcc": "",
            "dev/video0": "",
            "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
            "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
            "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
            "sys/class/devfreq/17000000.gpu/device/load": "387\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1728000\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "47687\n",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "-256000\n",
            "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
            "sys/class/hwmon/hwmon1/in1_input": "5000\n",
            "sys/class/hwmon/hwmon1/curr1_input": "912\n",
            "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
            "sys/class/hwmon/hwmon1/in2_input": "5000\n",
            "sys/class/hwmon/hwmon1/curr2_input": "96\n",
        },
    )
    write_program(root, "nvpmodel", f"cat '{logs / 'nvpmodel_q_orin_nano_super.txt'}'")
    write_program(root, "gst-inspect-1.0", GST_INSPECT)
    write_program(
        root,
        "nvidia-smi",
        f"case \"$*\" in *query*) echo 'Orin (nvgpu), [N/A], 540.5.0, [N/A]';; *) cat '{logs / 'nvidia_smi_orin_nano_540.5.txt'}';; esac",
    )
    return root


def agx_xavier(root: Path, logs: Path) -> Path:
    """An AGX Xavier that was flashed without JetPack's packages, its power mode read with errors."""
    release = next(line for line in (logs / "nv_tegra_release_lines.txt").read_text().splitlines() if "R35" in line)
    write_files(
        root,
        {
            "proc/device-tree/model": "Jetson-AGX\0",
            "etc/nv_tegra_release": release + "\n",
            "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x4e\nCPU part\t: 0x004\n",
            "proc/meminfo": "MemTotal: 32685000 kB\nMemAvailable: 29000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
        },
    )
    write_program(root, "nvpmodel", f"cat '{logs / 'nvpmodel_q_agx_xavier_with_errors.txt'}'")
    return root
