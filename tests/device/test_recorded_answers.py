"""nvpmodel, jetson_clocks, nvidia-smi and dpkg: what real machines answered, and what they never did."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boards import DPKG, NVPMODEL_CONF, write_files
from jetlens.device.jetson import installed_packages, parse_power_mode, read_power_mode
from jetlens.device.smi import GpuState, gpu_reading, parse_state, parse_table, plausible_power, throttling, visible_gpu


@pytest.mark.parametrize(
    ("file", "name", "number", "errors"),
    [
        ("nvpmodel_q_maxn.txt", "MAXN", 0, 0),
        ("nvpmodel_q_orin_nano_super.txt", "MAXN_SUPER", 2, 0),
        ("nvpmodel_q_agx_xavier_with_errors.txt", "MODE_15W_DESKTOP", 7, 4),
    ],
)
def test_power_modes(shared_data: Path, file: str, name: str, number: int, errors: int) -> None:
    mode = parse_power_mode((shared_data / "logs" / file).read_text())
    assert (mode.name, mode.number, len(mode.errors)) == (name, number, errors)


def test_the_power_mode_of_the_service_needs_no_program(tmp_path: Path) -> None:
    assert read_power_mode(tmp_path).name == ""
    write_files(tmp_path, {"var/lib/nvpmodel/status": "pmode:0002 fmode:cool", "etc/nvpmodel.conf": NVPMODEL_CONF})
    assert (read_power_mode(tmp_path).name, read_power_mode(tmp_path).number) == ("MAXN_SUPER", 2)


def test_packages_that_are_installed(tmp_path: Path) -> None:
    write_files(tmp_path, {"var/lib/dpkg/status": DPKG})
    assert installed_packages("nvidia-jetpack|libcudnn.*", tmp_path) == {"nvidia-jetpack": "6.2+b77", "libcudnn9-cuda-12": "9.3.0.75-1"}
    assert installed_packages("nvidia-container", tmp_path) == {}
    assert installed_packages("nvidia", tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "driver", "cuda", "gpu"),
    [
        ("nvidia_smi_linux_datacentre.txt", "510.39.01", "11.6", GpuState(0, 0, 24576, 11, 350, 28, name="NVIDIA GeForce ...")),
        ("nvidia_smi_windows_rtx3070_581.txt", "581.57", "13.0", GpuState(0, 22, 8192, 6, 240, 42, name="NVIDIA GeForce RTX 3070")),
        (
            "nvidia_smi_rtx4070_laptop_580.txt",
            "580.95.05",
            "13.0",
            GpuState(17, 15, 8188, None, 115, 38, name="NVIDIA GeForce RTX 4070 ..."),
        ),
        ("nvidia_smi_orin_nano_540.5.txt", "540.5.0", "12.6", GpuState(name="Orin (nvgpu)")),
    ],
)
def test_tables_of_nvidia_smi(shared_data: Path, file: str, driver: str, cuda: str, gpu: GpuState) -> None:
    """The laptop's 590 W of 115 W cannot be: no power is better than a false one."""
    table = parse_table((shared_data / "logs" / file).read_text())
    assert (table.driver, table.cuda) == (driver, cuda)
    assert table.gpus == (gpu,)


def test_rows_of_nvidia_smi() -> None:
    state = parse_state("98, 30210, 81559, 612.44, 700.00, 61, 1980, 1980, P0, 0x0000000000000004\n")
    assert state == GpuState(98, 30210, 81559, 612.44, 700, 61, 1980, 1980, ("power cap",))
    reading = gpu_reading(state, "GPU 0 (nvidia-smi)", 3.0)
    assert (reading.power_w, reading.gpu_percent, reading.temperatures_c) == (612.44, 98, {"GPU 0": 61})
    jetson = parse_state("[N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]")
    assert jetson == GpuState()
    assert gpu_reading(jetson, "GPU", 0).whole == ()
    for text in ("", 'Field "x" is not a valid field to query.', "NVIDIA-SMI has failed, because, it, could, not, a, b, c, d", "1,2,3"):
        assert parse_state(text) is None


@pytest.mark.parametrize(
    ("visible", "gpu", "driver"),
    [
        ("", 0, "0"),
        ("", 1, "1"),
        ("3,1", 0, "3"),
        ("3,1", 1, "1"),
        ("3", 1, "1"),
        ("-1", 0, "0"),
        ("GPU-8932f937-d72c", 0, "GPU-8932f937-d72c"),
    ],
)
def test_cuda_counts_the_gpus_that_are_visible(monkeypatch: pytest.MonkeyPatch, visible: str, gpu: int, driver: str) -> None:
    """Negative control: the power of GPU 0 is not that of a process that runs on the fourth."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpu(gpu) == driver


def test_what_holds_clocks_down() -> None:
    assert throttling(0x1 | 0x2 | 0x10 | 0x100) == ()
    assert throttling(0x8 | 0x40) == ("hardware slowdown", "hardware thermal slowdown")
    assert plausible_power(120, 115) == 120
    assert plausible_power(590, 115) is None
    assert plausible_power(None, 115) is None


@given(st.text(max_size=400))
def test_odd_answers_are_no_error(text: str) -> None:
    parse_power_mode(text)
    parse_table(text)
    parse_state(text)


@given(
    st.lists(
        st.sampled_from(["MinFreq=", "MaxFreq=1", "cpu0:", "GPU", " ", "9" * 5000, "|", "1%", "W / ", "MiB / ", "\n", "0x", "N/A,"]),
        max_size=30,
    )
)
def test_odd_answers_of_known_words_are_no_error(words: list[str]) -> None:
    test_odd_answers_are_no_error.hypothesis.inner_test("".join(words))  # type: ignore[attr-defined]
