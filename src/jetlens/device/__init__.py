"""What the machine is: processor, memory, system, Jetson, GPUs."""

from __future__ import annotations

from jetlens.device.machine import Gpu, Jetson, Machine, cpu_model, find_gpus, gpu_name, machine

__all__ = ["Gpu", "Jetson", "Machine", "cpu_model", "find_gpus", "gpu_name", "machine"]
