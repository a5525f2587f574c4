"""BuildOptions: how a TensorRT engine is built."""

from __future__ import annotations

from dataclasses import dataclass

from jetlens.errors import UsageError

__all__ = ["BuildOptions"]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a TensorRT engine is built; the precision is no option, since the graph itself says it.

    Attributes:
        batch: smallest, usual and largest batch of a graph whose batch axis is dynamic.
        workspace_mib: scratch memory that the builder may give to one layer.
        optimization_level: 0 to 5, how long the builder searches; None for TensorRT's own.
        dla_core: of a Jetson's deep learning accelerator; layers that it cannot run go to the GPU.
        version_compatible: an engine that later TensorRT versions load too, at some cost in speed.
        timing_cache: reuse the measured times of layers from earlier builds.
        timeout_s: a build that takes longer is stopped.
        save: keep the engine in the cache.
    """

    batch: tuple[int, int, int] = (1, 1, 1)
    workspace_mib: int = 1024
    optimization_level: int | None = None
    dla_core: int | None = None
    version_compatible: bool = False
    timing_cache: bool = True
    timeout_s: float = 3600
    save: bool = True

    def __post_init__(self) -> None:
        smallest, usual, largest = self.batch
        if not 1 <= smallest <= usual <= largest:
            raise UsageError(f"batch {smallest}:{usual}:{largest}: give smallest:usual:largest, each 1 or more and in that order")
        if self.workspace_mib < 1:
            raise UsageError(f"workspace {self.workspace_mib} MiB: give 1 or more")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"optimization level {self.optimization_level}: give 0 (fastest build) to 5 (fastest engine)")
        if self.dla_core is not None and self.dla_core < 0:
            raise UsageError(f"DLA core {self.dla_core}: give 0 or more")
