"""Sources of readings on folders that look like a machine, and programs that print, fail, hang or end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boards import orin_nano, write_files, write_program
from jetlens.device import readers
from jetlens.device.nvml import Nvml, open_nvml, process_memory_mib
from jetlens.device.power import JetsonSensors, Rapl
from jetlens.device.proc import Processor, cpu_clocks, process_memory, read_memory, temperatures, thermal_limits
from jetlens.device.readers import LineStream, NvidiaSmi, Tegrastats, find_readers
from jetlens.device.reading import Core, Reading, merge, power_label


def _tegrastats(root: Path, log: Path) -> Path:
    return write_program(
        root, "tegrastats", f"echo \"$@\" > '{root}/asked'; while read -r line; do echo \"$line\"; sleep 0.02; done < '{log}'; sleep 60"
    )


def test_the_processor_of_a_folder(tmp_path: Path) -> None:
    stat = "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\ncpu1 50 0 50 400 0 0 0 0 0 0\nintr 1\n"
    meminfo = "MemTotal: 8192000 kB\nMemAvailable: 4096000 kB\nSwapTotal: 1024000 kB\nSwapFree: 512000 kB\n"
    write_files(tmp_path, {"proc/stat": stat, "proc/meminfo": meminfo, "proc/77/status": "VmHWM:\t 2048 kB\nVmRSS:\t 1024 kB\n"})
    source = Processor(root=tmp_path)
    first = source.read()
    assert (first.cpu_percent, first.cores) == (None, (Core(), Core()))
    write_files(
        tmp_path,
        {"proc/stat": stat.replace("cpu0 50", "cpu0 150").replace("cpu  100", "cpu  200").replace("cpu1 50 0 50 400", "cpu1 50 0 50 500")},
    )
    reading = source.read()
    assert reading.cpu_percent == 100
    assert [core.percent for core in reading.cores] == [100, 0]
    assert (reading.memory_used_mib, reading.memory_total_mib, reading.swap_used_mib, reading.swap_total_mib) == (4000, 8000, 500, 1000)
    memory = process_memory(77, tmp_path)
    assert memory is not None
    assert (memory.rss_mib, memory.peak_mib) == (1, 2)
    assert process_memory(78, tmp_path) is None


def test_an_empty_folder_is_nothing_and_no_error(tmp_path: Path) -> None:
    assert Processor(root=tmp_path).read() == Reading(at_s=pytest.approx(time.perf_counter(), abs=60))
    assert read_memory(tmp_path).total_mib is None
    assert temperatures(tmp_path) == {}
    assert thermal_limits(tmp_path) is None
    assert cpu_clocks(tmp_path).governor == ""
    assert Rapl(tmp_path).read().whole == ()
    assert "no energy counters" in Rapl(tmp_path).why_no_power
    assert not JetsonSensors(tmp_path).found()


def test_this_process() -> None:
    memory = process_memory()
    assert memory is not None
    assert 1 < memory.rss_mib <= memory.peak_mib + 1


def test_energy_counters_turn_over(tmp_path: Path) -> None:
    package = "sys/class/powercap/intel-rapl:0"
    write_files(
        tmp_path,
        {
            f"{package}/name": "package-0\n",
            f"{package}/energy_uj": "9000000\n",
            f"{package}/max_energy_range_uj": "10000000\n",
            "sys/class/powercap/intel-rapl:0:0/name": "core\n",
            "sys/class/powercap/intel-rapl:0:0/energy_uj": "1\n",
            "sys/class/powercap/intel-rapl:0:1/name": "dram\n",
            "sys/class/powercap/intel-rapl:0:1/energy_uj": "5000000\n",
            "sys/class/powercap/intel-rapl:0:1/max_energy_range_uj": "10000000\n",
        },
    )
    source = Rapl(tmp_path)
    assert source.why_no_power == ""
    first = source.read()
    assert first.whole == ("package-0 (RAPL)", "package-0 dram (RAPL)")
    assert (first.counters_j["package-0 (RAPL)"], first.rails_w) == (9.0, {})
    write_files(tmp_path, {f"{package}/energy_uj": "500000\n"})
    second = source.read()
    assert second.counters_j["package-0 (RAPL)"] == pytest.approx(10.5)
    assert second.rails_w["package-0 (RAPL)"] > 0
    assert second.rails_w["package-0 dram (RAPL)"] == 0


def test_energy_counters_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    write_files(tmp_path, {"sys/class/powercap/intel-rapl:0/name": "package-0", "sys/class/powercap/intel-rapl:0/energy_uj": ""})
    source = Rapl(tmp_path)
    assert "sudo chmod" in source.why_no_power
    assert source.read().power_w is None


def test_the_sensors_of_a_jetson(tmp_path: Path, shared_data: Path) -> None:
    source = JetsonSensors(orin_nano(tmp_path, shared_data / "logs"))
    reading = source.read()
    assert source.found()
    assert reading.rails_w == {"VDD_IN": pytest.approx(4.56), "VDD_CPU_GPU_CV": pytest.approx(0.48)}
    assert (reading.whole, reading.gpu_mhz, reading.gpu_percent) == (("VDD_IN",), 306, 38.7)
    assert temperatures(tmp_path) == {"cpu": 47.687}


def test_rails_of_jetpack_4(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    write_files(tmp_path, {f"{folder}/rail_name_0": "POM_5V_IN\n", f"{folder}/in_power0_input": "2793\n", f"{folder}/rail_name_1": "NC\n"})
    assert JetsonSensors(tmp_path).read().power_w == pytest.approx(2.793)


def test_heat_that_slows_down(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "sys/class/thermal/cooling_device0/type": "pwm-fan",
            "sys/class/thermal/cooling_device0/cur_state": "3",
            "sys/class/thermal/cooling_device1/type": "thermal-cpufreq-0",
            "sys/class/thermal/cooling_device1/cur_state": "0",
        },
    )
    assert thermal_limits(tmp_path) == ()
    write_files(tmp_path, {"sys/class/thermal/cooling_device1/cur_state": "2"})
    assert thermal_limits(tmp_path) == ("thermal limit on thermal-cpufreq-0",)


def test_tegrastats_runs_at_the_interval_and_is_ended(tmp_path: Path, shared_data: Path) -> None:
    program = _tegrastats(tmp_path, shared_data / "logs/tegrastats_xavier_nx_jp5.txt")
    source = Tegrastats(str(program), 0.1)
    assert source.started()
    reading = source.read()
    assert (tmp_path / "asked").read_text().split() == ["--interval", "100"]
    assert reading.whole == ("VDD_IN",)
    assert source.why_no_power == ""
    assert source.cost_s() >= 0
    process = source._lines._process
    source.close()
    source.close()
    assert process.returncode is not None
    assert source.read() == Reading()
    assert source.why_no_power == "tegrastats ended"


@pytest.mark.parametrize("script", ["exit 1", "echo 'command needs root'", "echo $$ > /dev/null"])
def test_a_tegrastats_that_says_nothing_did_not_start(tmp_path: Path, script: str) -> None:
    source = Tegrastats(str(write_program(tmp_path, "tegrastats", script)), 0.1)
    assert not source.started()
    source.close()


def test_a_program_that_ignores_its_end_is_killed(tmp_path: Path) -> None:
    program = write_program(tmp_path, "stubborn", "trap '' TERM; while :; do echo 5; sleep 0.05; done")
    stream = LineStream([str(program)], lambda line: int(line) if line.strip().isdigit() else None)
    assert stream.wait(5)
    stream.close()
    assert stream.last() is None


def test_nvidia_smi_whose_driver_does_not_know_the_last_column(tmp_path: Path) -> None:
    script = (
        'case "$*" in *throttle*) echo \'Field "clocks_throttle_reasons.active" is not a valid field to query.\'; exit 2;; esac\n'
        "while :; do echo '7, 100, 8192, 55.5, 120.00, 44, 1500, 2100, P2'; sleep 0.1; done"
    )
    source = NvidiaSmi(str(write_program(tmp_path, "nvidia-smi", script)), 0.1, 0)
    assert source.started()
    reading = source.read()
    source.close()
    assert (reading.gpu_percent, reading.power_w, reading.throttling) == (7, 55.5, None)
    assert power_label(reading.whole) == "GPU 0 (nvidia-smi)"


class _NvmlError(Exception):
    pass


def _pynvml(**functions: Any) -> Any:
    def unsupported(*_: Any) -> Any:
        raise _NvmlError("Not Supported")

    names = ("UtilizationRates", "MemoryInfo", "PowerUsage", "EnforcedPowerLimit", "Temperature", "ClockInfo", "MaxClockInfo", "Name")
    base = {f"nvmlDeviceGet{name}": unsupported for name in names}
    rest = {
        "NVMLError": _NvmlError,
        "NVML_CLOCK_SM": 1,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlDeviceGetHandleByIndex": lambda index: f"gpu{index}",
        "nvmlShutdown": lambda: None,
        "nvmlInit": lambda: None,
    }
    return SimpleNamespace(**{**base, **rest, **functions})


def test_nvml_of_a_gpu_that_says_all() -> None:
    joules = iter(range(1_000_000, 2_000_000, 500))
    source = Nvml(
        _pynvml(
            nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=93, memory=40),
            nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=3 * 2**20, total=9 * 2**20),
            nvmlDeviceGetPowerUsage=lambda handle: 350_500,
            nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
            nvmlDeviceGetTemperature=lambda handle, sensor: 55,
            nvmlDeviceGetClockInfo=lambda handle, clock: 1980,
            nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(joules),
            nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x4,
            nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=5, usedGpuMemory=7 * 2**20)],
        ),
    )
    reading = source.read()
    assert (reading.gpu_percent, reading.power_w, reading.gpu_mhz, source.process_mib(5)) == (93, 350.5, 1980, 7)
    assert reading.counters_j["GPU 0 (NVML)"] == pytest.approx(1000.5)
    assert reading.throttling == ("power cap",)
    assert source.why_no_power == ""
    source.close()
    assert source.read().gpu_percent is None


def test_nvml_of_a_jetson_that_supports_nothing() -> None:
    source = Nvml(_pynvml())
    reading = source.read()
    assert (reading.gpu_percent, reading.power_w, reading.whole, reading.throttling) == (None, None, (), None)
    assert "does not measure power" in source.why_no_power


def test_a_driver_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise _NvmlError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", _pynvml(nvmlInit=fails))
    assert open_nvml() is None
    assert process_memory_mib(1) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml() is None


def test_on_a_jetson_the_gpu_is_a_part_of_the_module(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: adding NVML's power to the module's would count the GPU twice."""
    program = _tegrastats(tmp_path, shared_data / "logs/tegrastats_orin_nano_super_jp62.txt")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    alive = _pynvml(nvmlDeviceGetPowerUsage=lambda handle: 2000, nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=50))
    monkeypatch.setitem(sys.modules, "pynvml", alive)
    found = find_readers(0.1)
    try:
        assert [reader.name for reader in found] == ["tegrastats", "NVML", "/proc"]
        reading = merge(reader.read() for reader in found)
        assert (reading.power_w, reading.whole) == (4.556, ("VDD_IN",))
    finally:
        for reader in found:
            reader.close()
    assert Nvml(alive).read().power_w == 2.0


def test_a_machine_without_any_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(readers, "JetsonSensors", lambda: SimpleNamespace(found=lambda: False))
    assert [reader.name for reader in find_readers(0.1)] == ["RAPL", "/proc"]


def test_no_program_outlives_the_one_that_started_it(tmp_path: Path, shared_data: Path) -> None:
    program = _tegrastats(tmp_path, shared_data / "logs/tegrastats_xavier_nx_jp5.txt")
    code = f"""
from jetlens.device.readers import Tegrastats
source = Tegrastats({str(program)!r}, 0.1)
print(source.started(), source._lines._process.pid)
source.close()
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    started, pid = answer.stdout.split()
    assert started == "True"
    assert not Path(f"/proc/{pid}").exists()


def test_the_hottest_sensor_is_one_that_measures() -> None:
    assert Reading(temperatures_c={"cpu": 40, "PMIC": 100}).hottest_c == 40
    assert Reading().hottest_c is None
