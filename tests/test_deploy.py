"""What is deployed: the platform's packages stay, no secret and no registry of packages is named, the service is fenced in."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILES = {"Dockerfile.jetson": "nvcr.io/nvidia/l4t-jetpack:r36", "Dockerfile.desktop": "nvcr.io/nvidia/pytorch:24.04-py3"}
PLATFORM = ("torch", "torchvision", "tensorrt", "opencv", "onnxruntime")
TEXTS = [*sorted(path for path in DEPLOY.iterdir() if path.is_file()), ROOT / "docs" / "deploy.md"]


def instructions(text: str) -> list[tuple[str, str]]:
    """Instruction and the rest of each, continued lines joined and comments left out."""
    whole = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in whole.splitlines() if line.strip()]


def replaced_packages(text: str) -> list[str]:
    """What a pip install in a Dockerfile would put over the platform's packages."""
    wrong = []
    for word, rest in instructions(text):
        for command in rest.split("&&") if word == "RUN" else []:
            words = shlex.split(command)
            if "install" not in words or not words[0].endswith("pip"):
                continue
            given = [part for part in words[words.index("install") + 1 :] if not part.startswith("-")]
            wrong += [part for part in given if re.split(r"[<>=\[]", part)[0] in PLATFORM or part.startswith(("opencv", "tensorrt"))]
            wrong += [part for part in given if "/" in part and "--no-deps" not in words]
    return wrong


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_keeps_the_platforms_packages(name: str) -> None:
    text = (DEPLOY / name).read_text()
    rows = instructions(text)
    assert rows[0] == ("ARG", rows[0][1])
    assert rows[0][1].startswith(f"BASE={DOCKERFILES[name]}")
    assert rows[1] == ("FROM", "${BASE}")
    assert "--system-site-packages" in text
    assert "--no-deps" in text
    assert replaced_packages(text) == []
    assert dict(rows)["USER"] == "jetlens"
    assert "--runtime nvidia" in text
    for source in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / part).exists() for part in source.split())


def test_what_would_replace_them_is_seen() -> None:
    bad = "RUN python3 -m venv /opt \\\n && /opt/bin/pip install --no-cache-dir 'torch>=2.4' 'opencv-python' && /opt/bin/pip install /usr/src/jetlens"
    assert replaced_packages(bad) == ["torch>=2.4", "opencv-python", "/usr/src/jetlens"]


def test_the_dependencies_of_the_core_are_all_installed() -> None:
    core = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert core is not None
    names = re.findall(r'"([a-z]+)', core[1])
    assert len(names) >= 4
    for name in DOCKERFILES:
        # The desktop container has its own NumPy, which its modules are built against.
        wanted = [one for one in names if (one, name) != ("numpy", "Dockerfile.desktop")]
        assert [one for one in wanted if f"'{one}" not in (DEPLOY / name).read_text()] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_secret_and_no_registry_of_packages_is_named(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text)
    assert not re.search(r"(?i)\b(token|api[_-]?key|secret|passw(or)?d)\s*[=:]\s*\S", text)
    assert not re.search(r"(?i)--(extra-)?index-url|https?://", text)


def unit() -> ConfigParser:
    parser = ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "jetlens.service")
    return parser


def test_the_service_comes_back_and_is_fenced_in() -> None:
    service = unit()["Service"]
    assert (service["Restart"], unit()["Unit"]["StartLimitIntervalSec"]) == ("always", "0")
    assert service["User"] == "jetlens"
    assert service["CapabilityBoundingSet"] == ""
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["ProtectHome"]) == ("yes", "strict", "yes")
    # These would take the camera, the GPU or compilation at run time away.
    assert not {"PrivateDevices", "MemoryDenyWriteExecute", "PrivateNetwork", "PrivateTmp"} & set(service)


def test_the_arguments_stand_in_the_environment_and_not_on_the_command_line(tmp_path: Path) -> None:
    service = unit()["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[:2] == ["/opt/jetlens/bin/python", "-c"]
    assert "JETLENS_RUN" in words[2]
    assert "%" not in service["ExecStart"]
    assert "$" not in service["ExecStart"]
    setting = next(line for line in (DEPLOY / "jetlens.env").read_text().splitlines() if line.startswith("JETLENS_RUN="))
    # The code itself, with a stand-in for the command line that says what it was given.
    stand_in = "import jetlens.cli, sys; jetlens.cli.main = lambda given: print(given); exec(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", stand_in, words[2]],
        env={"JETLENS_RUN": shlex.split(setting)[0].removeprefix("JETLENS_RUN=") + " 'a b'", "PATH": "", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.strip() == str(["run", "csi://0", "--model", "orange-detect", "--view", "8080", "a b"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_knows_every_setting_and_finds_little_exposed() -> None:
    path = DEPLOY / "jetlens.service"
    verify = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=60, check=False)
    # Only that the program is not installed here may be wrong.
    assert [line for line in verify.stderr.splitlines() if "jetlens.service" in line and "is not executable" not in line] == []
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert exposed.returncode == 0, exposed.stdout[-300:]
