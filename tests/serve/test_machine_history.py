import time

from jetlens.device.reading import Reading
from jetlens.serve.machine import MachineHistory


class MadeReader:
    name = "made"
    why_no_power = "nothing here measures power"

    def __init__(self) -> None:
        self.count = 0
        self.closed = False

    def read(self) -> Reading:
        self.count += 1
        return Reading(at_s=float(self.count), cpu_percent=float(self.count), memory_used_mib=512.04)

    def cost_s(self) -> float:
        return 0.0

    def close(self) -> None:
        self.closed = True


def test_keeps_the_last_readings_and_says_none_where_nothing_is_measured() -> None:
    reader = MadeReader()
    history = MachineHistory(0.005, kept=10, open_readers=lambda _: [reader])
    history.start()
    while reader.count < 40:
        time.sleep(0.01)
    history.close()
    said = history.to_dict()
    assert reader.closed
    assert len(said["series"]["cpu_percent"]) == 10
    assert said["series"]["cpu_percent"] == sorted(said["series"]["cpu_percent"])
    assert set(said["series"]["memory_used_mib"]) == {512.0}
    assert set(said["series"]["gpu_percent"]) == set(said["series"]["power_w"]) == {None}
    assert said["why_no_power"] == "nothing here measures power"
    assert said["power_of"] == ""


def test_before_the_first_reading_and_without_a_start() -> None:
    history = MachineHistory(open_readers=lambda _: [])
    assert history.to_dict()["series"]["cpu_percent"] == []
    history.close()
