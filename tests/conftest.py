"""Fixtures that every test may use."""

from __future__ import annotations

import json
import os
import platform
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Time says nothing on a machine that others use too; CI draws the same examples every time, so that what it says depends on the change alone.
settings.register_profile("jetlens", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("jetlens")

# Contended runtimes spin: one thread each, before any of them is imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

# A shell starts its background jobs with Ctrl-C ignored, and so would be the programs that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPORT = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "release.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help=f"write the outcome of every release test to {REPORT.name}")


class ReleaseRecord:
    """Keeps how each release test ended, with the counts it states, and writes them when the session ends."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "release" in report.keywords and (report.when == "call" or report.outcome != "passed"):
            counts = dict(report.user_properties)
            self.rows[report.nodeid] = {"outcome": report.outcome, "seconds": round(report.duration, 1), **counts}

    def pytest_sessionfinish(self) -> None:
        passed = sum(row["outcome"] == "passed" for row in self.rows.values())
        content = {"passed": f"{passed}/{len(self.rows)}", "processor": platform.processor() or platform.machine(), "tests": self.rows}
        REPORT.write_text(json.dumps(content, indent=1) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record"):
        config.pluginmanager.register(ReleaseRecord())


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models, images and videos beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data is not here: {SHARED}")
    return SHARED
