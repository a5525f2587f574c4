"""Energy is that of the power that was sampled, and None where it is not known; the sampler itself costs little and leaves nothing behind."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.device.reading import Reading
from jetlens.device.sampling import Range, Sampler, Samples, net_energy_j, sample_idle

RAIL = "VDD_IN"


def _samples(readings: Sequence[Reading], interval_s: float = 0.1) -> Samples:
    return Samples("test", RAIL, "", interval_s, 0.0, tuple(readings))


def _power(function: Callable[[float], float], count: int = 101, interval_s: float = 0.1, start_s: float = 100.0) -> Samples:
    """Readings of a power over time, which starts at 0."""
    times = [index * interval_s for index in range(count)]
    return _samples([Reading(start_s + t, rails_w={RAIL: function(t)}, whole=(RAIL,)) for t in times], interval_s)


def test_constant_power_times_time() -> None:
    samples = _power(lambda t: 5.0)
    assert samples.energy_j() == pytest.approx(50)
    assert samples.energy_j(102.03, 104.57) == pytest.approx(5 * 2.54)
    assert samples.power_w(102.03, 104.57) == pytest.approx(5)


def test_a_ramp_is_integrated_and_not_averaged_by_its_readings() -> None:
    """Negative control: the mean of the readings times the time is wrong for an irregular grid."""
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.3, 1.7, 2.0]
    samples = _samples([Reading(t + 1, rails_w={RAIL: 10 * t}, whole=(RAIL,)) for t in times])
    assert samples.energy_j() == pytest.approx(20.0)
    naive = sum(10 * t for t in times) / len(times) * 2
    assert abs(naive - 20) > 4


@given(st.floats(0.5, 4), st.floats(0.3, 5), st.floats(1, 50), st.floats(0, 1))
def test_any_window_of_a_sine(start: float, length: float, mean_w: float, swing: float) -> None:
    """Within what straight lines between the readings can be wrong by: an eighth of the curvature times the interval squared."""
    samples = _power(lambda t: mean_w * (1 + swing * math.sin(t)))
    expected = mean_w * (length + swing * (math.cos(start) - math.cos(start + length)))
    assert samples.energy_j(100 + start, 100 + start + length) == pytest.approx(expected, abs=mean_w * swing * 0.1**2 / 8 * length + 1e-9)


@given(st.floats(0.3, 4), st.floats(0.3, 4))
def test_the_energy_of_two_parts_is_that_of_the_whole(first: float, second: float) -> None:
    samples = _power(lambda t: 3 + math.sin(3 * t))
    ends = (101.0, 101.0 + first, 101.0 + first + second)
    parts = [samples.energy_j(ends[0], ends[1]), samples.energy_j(ends[1], ends[2])]
    assert sum(part for part in parts if part is not None) == pytest.approx(samples.energy_j(ends[0], ends[2]), rel=1e-3)


def test_a_counter_is_taken_before_the_power() -> None:
    """The counter saw the peak between two readings; the power did not."""
    readings = [
        Reading(t / 10, rails_w={RAIL: 1.0}, counters_j={RAIL: 1000 + 2 * t / 10 + (5 if t > 4 else 0)}, whole=(RAIL,)) for t in range(11)
    ]
    samples = _samples(readings)
    assert samples.energy_j() == pytest.approx(7)
    assert _samples([replace(reading, counters_j={}) for reading in readings]).energy_j() == pytest.approx(1)


def test_parts_add_up() -> None:
    readings = [Reading(t / 10, rails_w={"GPU": 100.0}, counters_j={"CPU": 30 * t / 10}, whole=("GPU", "CPU")) for t in range(21)]
    assert _samples(readings).energy_j() == pytest.approx(2 * 130)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows[:1], "one reading"),
        (lambda rows: [], "no reading"),
        (lambda rows: [replace(row, rails_w={}) if index == 50 else row for index, row in enumerate(rows)], "one reading lacks the rail"),
        (
            lambda rows: [replace(row, whole=()) if index == 50 else row for index, row in enumerate(rows)],
            "one reading does not know the whole",
        ),
        (lambda rows: [row for index, row in enumerate(rows) if not 40 <= index < 60], "two seconds of ten are missing"),
        (lambda rows: rows[:60], "the end is not covered"),
        (lambda rows: rows[40:], "the start is not covered"),
        (lambda rows: [replace(row, rails_w={}, whole=()) for row in rows], "nothing measures power"),
    ],
)
def test_energy_that_is_not_known_is_none_and_never_0(change: Callable[[list[Reading]], list[Reading]], why: str) -> None:
    rows = change(list(_power(lambda t: 5.0).readings))
    assert _samples(rows).energy_j(100.0, 110.0) is None, why
    assert _samples(rows).power_w(100.0, 110.0) is None


def test_a_window_shorter_than_two_intervals_says_nothing() -> None:
    assert _power(lambda t: 5.0).energy_j(101.0, 101.15) is None


def test_idle_is_subtracted_and_other_rails_do_not_compare() -> None:
    busy, idle = _power(lambda t: 12.0), _power(lambda t: 4.5, count=31)
    assert net_energy_j(busy, idle, 101, 103) == pytest.approx(15)
    assert net_energy_j(busy, replace(idle, power_rail="package-0 (RAPL)"), 101, 103) is None
    assert net_energy_j(busy, replace(idle, readings=()), 101, 103) is None
    assert net_energy_j(busy, idle, 90, 103) is None


def test_ranges_leave_out_what_was_not_measured() -> None:
    readings = [Reading(t / 10, gpu_percent=None if t % 2 else 10.0 * t) for t in range(5)]
    samples = _samples(readings)
    assert samples.gpu_percent() == Range(20, 40, 3)
    assert [reading.at_s for reading in samples.between(0.1, 0.3).readings] == [0.1, 0.2, 0.3]


def test_a_record_keeps_every_reading() -> None:
    samples = _power(lambda t: t, count=5)
    again = Samples.from_dict(json.loads(json.dumps(samples.as_dict())))
    assert again == samples
    assert again.energy_j() == samples.energy_j()


@dataclass
class _Source:
    """A source whose power is a number, and that counts what is done to it."""

    name: str = "test"
    why_no_power: str = ""
    power_w: float | None = 7.0
    reads: list[str] = field(default_factory=list)
    closed: int = 0

    def read(self) -> Reading:
        self.reads.append(threading.current_thread().name)
        rails = {} if self.power_w is None else {RAIL: self.power_w}
        return Reading(time.perf_counter(), rails_w=rails, whole=tuple(rails), cpu_percent=50.0)

    def cost_s(self) -> float:
        return 0.25

    def close(self) -> None:
        self.closed += 1


def test_the_sampler_reads_in_its_own_thread_and_covers_the_block() -> None:
    source = _Source()
    with Sampler(0.05, readers=[source]) as sampler:
        start = time.perf_counter()
        time.sleep(0.4)
        end = time.perf_counter()
    samples = sampler.samples()
    assert samples.power_rail == "VDD_IN (whole module)"
    assert (samples.source, samples.why_no_power) == ("test", "")
    assert samples.readings[0].at_s <= start
    assert samples.readings[-1].at_s >= end
    assert samples.energy_j(start, end) == pytest.approx(7 * (end - start))
    assert {"sampler"} <= set(source.reads)
    assert source.closed == 1
    assert samples.cpu_s >= 0.25
    assert "sampler" not in {thread.name for thread in threading.enumerate()}


def test_the_sampler_ends_with_the_block_that_fails() -> None:
    source = _Source()
    with pytest.raises(RuntimeError, match="mine"), Sampler(0.01, readers=[source]):
        raise RuntimeError("mine")
    assert source.closed == 1


def test_nothing_that_measures_power_says_why() -> None:
    source = _Source(power_w=None, why_no_power="the counters are for root only")
    with Sampler(0.01, readers=[source]) as sampler:
        time.sleep(0.05)
    samples = sampler.samples()
    assert (samples.power_rail, samples.why_no_power, samples.energy_j()) == ("", "the counters are for root only", None)


def test_this_machine_can_be_sampled() -> None:
    """What it costs depends on the machine; that it is stated does not."""
    samples = sample_idle(0.5, interval_s=0.05)
    assert "/proc" in samples.source
    assert 0 < samples.cpu_s < 0.5
    assert samples.readings[-1].memory_used_mib is not None
    assert bool(samples.power_rail) != bool(samples.why_no_power)
