"""Every line of tegrastats that was recorded is read whole; any other text is a sample or a refusal with its reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.device.reading import Reading
from jetlens.device.tegrastats import Rail, Refusal, TegraLine, parse_line, total_rails

# file: lines, refused (prompts, dates, empty lines), rails that make up the module, has the load of the GPU
LOGS = {
    "tegrastats_agx_orin64_4cpu_off.txt": (15, 0, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), True),
    "tegrastats_agx_orin64_jp6.txt": (180, 0, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), True),
    "tegrastats_agx_orin_jp72_r39.txt": (1, 0, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), True),
    "tegrastats_agx_xavier_16gb_jp4.txt": (1, 0, ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), True),
    "tegrastats_agx_xavier_32gb_cpu_off.txt": (2, 0, (), True),
    "tegrastats_nano_4gb_jp4_root.txt": (114, 0, ("POM_5V_IN",), True),
    "tegrastats_nano_stress_jp46.txt": (2, 0, (), True),
    "tegrastats_orin_nano_super_jp62.txt": (1, 0, ("VDD_IN",), True),
    "tegrastats_tx2_4gb.txt": (1, 0, ("VDD_IN",), True),
    "tegrastats_tx2_l4t28_cpu_off_bare_at.txt": (2, 3, ("VDD_IN",), False),
    "tegrastats_tx2_l4t32.txt": (149, 1, ("VDD_IN",), True),
    "tegrastats_xavier_nx_jp5.txt": (103, 0, ("VDD_IN",), True),
}


def _lines(path: Path) -> tuple[list[TegraLine], list[Refusal]]:
    parsed = [parse_line(line) for line in path.read_text().splitlines()]
    return [one for one in parsed if isinstance(one, TegraLine)], [one for one in parsed if isinstance(one, Refusal)]


def test_every_log_is_in_a_test(shared_data: Path) -> None:
    here = {path.name for path in (shared_data / "logs").glob("tegrastats_*")}
    assert here == {*LOGS, "tegrastats_tx2_old_nonroot_then_root.txt", "tegrastats_xavier_nx_stress_jp46.txt"}


@pytest.mark.parametrize("name", LOGS)
def test_every_recorded_line_is_read_and_no_field_is_unknown(shared_data: Path, name: str) -> None:
    count, refused, whole, has_load = LOGS[name]
    lines, refusals = _lines(shared_data / "logs" / name)
    assert (len(lines), len(refusals)) == (count, refused)
    for line in lines:
        reading = line.reading(1.0)
        assert line.unknown == ()
        assert reading.whole == whole
        assert (reading.power_w is not None) == bool(whole)
        assert (reading.gpu_percent is not None) == has_load
        assert reading.memory_used_mib is not None
        assert 0 < reading.memory_used_mib < (reading.memory_total_mib or 0)
        assert reading.cpu_percent is not None
        assert reading.hottest_c is not None
        assert 10 < reading.hottest_c < 90


def test_orin_nano_super(shared_data: Path) -> None:
    (line,), _ = _lines(shared_data / "logs/tegrastats_orin_nano_super_jp62.txt")
    assert line.time == "07-14-2025 10:29:36"
    assert (line.memory_used_mib, line.memory_total_mib, line.swap_used_mib, line.swap_total_mib) == (2147, 7620, 1476, 3810)
    assert [(core.percent, core.mhz) for core in line.cores] == [(0.0, 729.0)] * 6
    assert (line.gpu_percent, line.gpu_mhz, line.memory_bus_percent) == (0.0, (), None)
    assert line.temperatures_c["gpu"] == 48.625
    assert line.rails["VDD_IN"] == Rail(4.556, 4.556)
    assert line.reading(0).power_w == 4.556


def test_agx_orin_has_two_gpu_clusters_engines_and_cores_that_are_off(shared_data: Path) -> None:
    line = _lines(shared_data / "logs/tegrastats_agx_orin64_4cpu_off.txt")[0][0]
    assert [core.online for core in line.cores] == [True] * 8 + [False] * 4
    assert (line.cores[1].percent, line.cores[1].mhz, line.cores[11].percent) == (31, 1036, None)
    assert line.reading(0).cpu_percent == (7 + 31 + 7 + 42 + 4 + 5 + 6 + 1) / 8
    assert (line.gpu_percent, line.gpu_mhz) == (39, (305, 0))
    assert (line.memory_bus_percent, line.memory_bus_mhz) == (12, 204)
    assert line.engines["NVENC"] is None
    assert line.engines["APE"] == 174
    assert line.reading(0).power_w == pytest.approx(2.798 + 0.799 + 3.315)


def test_jetpack_7_prints_three_numbers_a_rail_and_two_a_temperature(shared_data: Path) -> None:
    (line,), _ = _lines(shared_data / "logs/tegrastats_agx_orin_jp72_r39.txt")
    assert line.rails["VIN_SYS_5V0"] == Rail(5.5, 5.5)
    assert line.temperatures_c["cpu"] == 52.968
    assert (line.swap_used_mib, line.gpu_percent, line.gpu_mhz) == (None, 12, (1300, 1300))


def test_tx2_without_root_has_no_gpu_and_with_root_it_has(shared_data: Path) -> None:
    lines, refusals = _lines(shared_data / "logs/tegrastats_tx2_old_nonroot_then_root.txt")
    assert (len(lines), refusals) == (80, [])
    assert {line.gpu_percent for line in lines[:30]} == {None}
    assert all(line.gpu_percent is not None for line in lines[30:])
    assert all(line.reading(0).whole == ("VDD_IN",) for line in lines)


def test_xavier_nx_under_stress_and_one_line_without_rails(shared_data: Path) -> None:
    lines, _ = _lines(shared_data / "logs/tegrastats_xavier_nx_stress_jp46.txt")
    assert [line.reading(0).power_w for line in lines] == [14.703, 12.221, None]


def test_swapped_labels_are_no_total(shared_data: Path) -> None:
    """Negative control: the rail of that name is there, and it is not the module's power."""
    line = _lines(shared_data / "logs/tegrastats_nano_stress_jp46.txt")[0][0]
    assert line.rails["POM_5V_IN"].now_w == 3.227
    assert line.rails["POM_5V_GPU"].now_w == 8.949
    assert line.reading(0).power_w is None


def test_a_bare_clock_is_no_load(shared_data: Path) -> None:
    lines, refusals = _lines(shared_data / "logs/tegrastats_tx2_l4t28_cpu_off_bare_at.txt")
    assert (lines[0].gpu_percent, lines[0].gpu_mhz) == (None, (0,))
    assert [core.online for core in lines[0].cores] == [True, False, False, True, True, True]
    assert [refusal.why for refusal in refusals] == [*["neither RAM nor CPU is in it: not a line of tegrastats"] * 2, "the line is empty"]


def test_forms_that_are_known_from_users_only() -> None:
    thor = parse_line(
        "01-01-2026 10:00:00 RAM 1/2MB (lfb 1x4MB) CPU [1%@972] gpu@62.906C/62.906C VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 1mW/1mW VIN 9000mW/9mW"
    )
    assert isinstance(thor, TegraLine)
    assert (thor.gpu_percent, thor.reading(0).power_w) == (None, 9.0)
    tx1 = parse_line("RAM 1/2MB (lfb 1x1MB) cpu [0%,off]@102 EMC 1%@408 GR3D 5%@76 EDP limit 1734 cv0@-256C new#field")
    assert isinstance(tx1, TegraLine)
    assert (tx1.gpu_percent, tx1.memory_bus_percent, tx1.cores[0].mhz, tx1.temperatures_c) == (5, 1, 102, {})
    assert "new#field" in tx1.unknown


def test_total_rails() -> None:
    assert total_rails({"VDD_IN": 5.0, "VDD_SOC": 5.05}) == ("VDD_IN",)
    assert total_rails({"VDD_IN": 5.0, "VDD_SOC": 6.0}) == ()
    assert total_rails({"VDD_SOC": 6.0}) == ()
    assert total_rails({}) == ()


_WORDS = st.sampled_from(
    [
        "RAM",
        "1/2MB",
        "CPU",
        "[1%@2]",
        "[",
        "]",
        "GR3D_FREQ",
        "99%@[1,2]",
        "@5",
        "off",
        "(lfb 1x4MB)",
        "VDD_IN",
        "1mW/2mW",
        "x@-1C",
        "SWAP",
        "%",
        "MTS",
    ]
)


@given(st.one_of(st.text(max_size=300), st.lists(_WORDS, max_size=30).map(" ".join)))
@settings(max_examples=400)
def test_any_line_is_a_sample_or_a_refusal(line: str) -> None:
    parsed = parse_line(line)
    if isinstance(parsed, Refusal):
        assert parsed.why
    else:
        assert isinstance(parsed.reading(0), Reading)


@given(st.data())
def test_a_recorded_line_that_was_cut_or_altered_never_crashes(shared_data: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted((shared_data / "logs").glob("tegrastats_*"))))
    line = data.draw(st.sampled_from(path.read_text().splitlines()[:5]))
    at = data.draw(st.integers(0, len(line)))
    parse_line(line[:at] + data.draw(st.text(max_size=5)) + line[at + data.draw(st.integers(0, 9)) :])


@given(st.integers(1, 6), st.integers(0, 10**6), st.integers(1, 64))
def test_what_is_printed_is_read_back(digits: int, milliwatts: int, cores: int) -> None:
    loads = [(7 * core) % 101 for core in range(cores)]
    line = f"RAM 5/9MB CPU [{','.join(f'{load}%@1200' for load in loads)}] GR3D_FREQ {loads[-1]}% VDD_IN {milliwatts}mW/{milliwatts}mW a_new_thing {digits}"
    parsed = parse_line(line)
    assert isinstance(parsed, TegraLine)
    assert [core.percent for core in parsed.cores] == loads
    assert parsed.rails["VDD_IN"].now_w == milliwatts / 1000
    assert parsed.gpu_percent == loads[-1]
    assert parsed.engines == {"a_new_thing": digits}


def test_a_naive_parser_would_fail(shared_data: Path) -> None:
    """Negative control: the pattern that most tools use misses boards that are in the recorded lines."""
    naive = re.compile(r"RAM (\d+)/(\d+)MB.*GR3D_FREQ (\d+)%.*VDD_IN (\d+)mW")
    lines = [line for path in (shared_data / "logs").glob("tegrastats_*") for line in path.read_text().splitlines()]
    ours = sum(isinstance(parse_line(line), TegraLine) for line in lines)
    assert ours > 650
    assert sum(naive.search(line) is not None for line in lines) < ours / 5


def test_a_long_line_takes_no_long_time_and_is_refused() -> None:
    assert isinstance(parse_line("RAM " * 100_000), Refusal)
    assert isinstance(parse_line("CPU [" + "1%," * 2000), Refusal)
