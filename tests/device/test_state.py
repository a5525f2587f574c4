"""The state of a machine is read before and after, and two states that do not compare say why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from boards import agx_xavier, orin_nano, write_files
from jetlens.device.state import State, comparable, differences, read_state


def test_the_state_of_an_orin_nano(tmp_path: Path, shared_data: Path) -> None:
    state = read_state(orin_nano(tmp_path, shared_data / "logs"))
    assert (state.power_mode, state.governor) == ("MAXN_SUPER", "schedutil")
    assert (state.cpu_mhz, state.cpu_lowest_mhz, state.cpu_highest_mhz) == (729.6, 729.6, 1728)
    assert (state.gpu_mhz, state.gpu_lowest_mhz, state.gpu_highest_mhz) == (306, 306, 1020)
    assert (state.hottest_c, state.throttling, state.on_battery) == (47.687, None, None)
    assert state.swap_used_mib == 3810 - 2333


def test_errors_of_nvpmodel_do_not_hide_the_mode(tmp_path: Path, shared_data: Path) -> None:
    assert read_state(agx_xavier(tmp_path, shared_data / "logs")).power_mode == "MODE_15W_DESKTOP"


def test_nothing_there_is_an_empty_state(tmp_path: Path) -> None:
    assert read_state(tmp_path) == State()


def test_a_laptop(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "sys/firmware/acpi/platform_profile": "balanced\n",
            "sys/class/power_supply/AC/type": "Mains\n",
            "sys/class/power_supply/AC/online": "0\n",
            "sys/class/power_supply/BAT0/type": "Battery\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "3\n",
            "proc/loadavg": "1.25 0.5 0.1 1/100 5\n",
            "proc/cpuinfo": "cpu MHz\t\t: 2600.5\ncpu MHz\t\t: 1400.5\n",
        },
    )
    state = read_state(tmp_path)
    assert (state.power_mode, state.on_battery, state.load_1m, state.cpu_mhz) == ("balanced", True, 1.25, 2000.5)
    write_files(
        tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "5\n", "sys/class/power_supply/AC/online": "1\n"}
    )
    assert differences(state, read_state(tmp_path)) == ("on battery: True -> False", "thermal throttling of the processor: 2 more times")


def test_what_changed_is_named() -> None:
    before = State(
        power_mode="MAXN", governor="performance", temperatures_c={"cpu": 45.0}, throttling=(), swap_used_mib=0, gpu_highest_mhz=1020.0
    )
    assert differences(before, before) == ()
    assert differences(before, replace(before, temperatures_c={"cpu": 50.0}, swap_used_mib=3, load_1m=9.0, gpu_mhz=5.0)) == ()
    after = replace(
        before,
        power_mode="15W",
        throttling=("thermal limit on gpu",),
        temperatures_c={"cpu": 71.0},
        swap_used_mib=300,
        gpu_highest_mhz=612.0,
    )
    assert differences(before, after) == (
        "power mode: MAXN -> 15W",
        "gpu highest mhz: 1020 -> 612",
        "throttling began: thermal limit on gpu",
        "hottest sensor: 45 C -> 71 C",
        "swap in use: 300 MiB more",
    )
    assert comparable(before, after) == ("power mode: MAXN -> 15W", "gpu highest mhz: 1020 -> 612")
    assert comparable(before, replace(before, governor="")) == ("governor: performance -> unknown",)


def test_a_record_keeps_the_state() -> None:
    state = State(power_mode="MAXN", temperatures_c={"cpu": 45.0}, throttling=("x",), throttle_counts={"y": 2})
    assert State.from_dict(json.loads(json.dumps(state.as_dict()))) == state
    assert State.from_dict(json.loads(json.dumps(State().as_dict()))) == State()


def test_this_machine() -> None:
    assert read_state().as_dict().keys() == State().as_dict().keys()
