"""Check: one line of the diagnosis; Host: the machine that is looked at, which in tests is a folder of recorded files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from jetlens.backends.checks import reason
from jetlens.device import Machine, machine
from jetlens.device.files import ask, program
from jetlens.device.jetson import installed_packages

__all__ = ["Check", "Host", "guarded", "version"]

_DEBIAN = r"nvidia-jetpack|nvidia-l4t-core|libcudnn[0-9]+[\w.-]*|libnvinfer[0-9]+|python3-libnvinfer|cuda-cudart-[0-9]+-[0-9]+"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis.

    Attributes:
        ok: False where something is missing or broken.
        found: what is there, or what went wrong.
        means: the consequence for the user.
        remedy: the command or step that changes it; empty where nothing has to.
        applies: False where this machine has no use for it, such as CUDA without an NVIDIA GPU.
    """

    name: str
    ok: bool
    found: str
    means: str
    remedy: str = ""
    applies: bool = True


@dataclass(frozen=True)
class Host:
    """The machine that is looked at.

    Attributes:
        root: where its files are.
        facts: what it is.
        packages: Debian packages of JetPack, CUDA and TensorRT with their versions.
    """

    root: Path = Path("/")
    facts: Machine = field(default_factory=machine)
    packages: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def at(root: Path) -> Host:
        """The machine under a root folder."""
        return Host(root, machine(root), installed_packages(_DEBIAN, root))

    @property
    def has_gpu(self) -> bool:
        """Whether there is an NVIDIA GPU: a Jetson has one even where nvidia-smi does not say."""
        return bool(self.facts.gpus or self.facts.jetson)

    def program(self, name: str, *homes: str) -> str | None:
        """Where a program is: on the path or in one of its usual homes."""
        found = program(name, self.root)
        return found or next((str(file) for home in homes if (file := self.root / home.lstrip("/")).is_file()), None)

    def ask(self, *command: str, timeout_s: float = 5.0) -> str:
        """What a program prints; empty where it is absent or fails to start."""
        return ask(command, root=self.root, timeout_s=timeout_s)


def guarded(name: str, check: Callable[[Host], Check | Iterator[Check]], host: Host) -> Iterator[Check]:
    """The lines of one check; one that fails says so and raises nothing."""
    try:
        result = check(host)
        yield from (result,) if isinstance(result, Check) else result
    except Exception as error:  # a broken package may raise anything
        yield Check(name, False, f"does not work: {reason(error)}", "what needs it fails", "reinstall it")


def version(distribution: str) -> str:
    """The version of a Python package's distribution; empty where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
