"""Adoption of TensorRT plans: what the user vouches for is trusted by its hash, opened where TensorRT is, and described."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from jetlens.backends import BACKENDS
from jetlens.backends.base import Session, SessionOptions
from jetlens.engines.trust import UNREAD, adopt_command, distrust, is_trusted, read_facts, trust
from jetlens.errors import UsageError
from jetlens.export.describe import AdoptOptions, describe
from jetlens.export.presets import Preset, preset
from jetlens.graph import GraphFacts
from jetlens.labels import find_labels
from jetlens.spec import ModelSpec, PreprocessSpec

__all__ = ["describe_plan", "describe_unread", "require_trust", "trusted_session"]

_NO_PRESET = Preset("a plan that nobody can open here", "classification", {})


def require_trust(model: Path, trusted: bool) -> None:
    """Refuses a plan that the user does not vouch for.

    Raises:
        UsageError: ``--trust`` is not given.
    """
    if not trusted:
        raise UsageError(
            f"{model.name} is a TensorRT engine, which is code that runs when it is loaded; if you made it, say so: {adopt_command(str(model))}"
        )


@contextmanager
def trusted_session(plan: bytes, name: str) -> Iterator[tuple[Session | None, str]]:
    """Trusts a plan and opens it: its session, or None and why it cannot be opened here; trust is taken back where adoption fails."""
    missing = BACKENDS.load("tensorrt").unavailable()
    known = is_trusted(plan)
    record = trust(plan, UNREAD, name)
    try:
        if missing:
            yield None, missing
            return
        trust(plan, read_facts(plan), name)
        with BACKENDS.load("tensorrt").open(plan, SessionOptions()) as session:
            yield session, ""
    except BaseException:
        if not known:
            distrust(record.sha256)
        raise


def describe_plan(session: Session, options: AdoptOptions, name: str) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec of a plan from its tensors and its answers, and a line for all that was found or assumed."""
    graph = GraphFacts(0, "TensorRT", {}, {}, {}, (), session.inputs, session.outputs, {})
    spec, notes = describe(graph, session, options, name)
    return replace(spec, precision=session.facts.precision), notes


def describe_unread(options: AdoptOptions, name: str, why: str) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec of a plan from what the user says alone; the tensors are held against it when it is first loaded.

    Raises:
        UsageError: the user does not say enough.
    """
    family = preset(options.preset) if options.preset else _NO_PRESET
    task = options.task or (family.task if options.preset else None)
    size = options.size_hw or family.size_hw
    decoder = options.decoder or family.decoder or ("logits" if task == "classification" else None)
    absent = {"--task T": task, "--size HxW": size, "--labels FILE": options.labels or family.labels, "--decoder D": decoder}
    missing = [flag for flag, value in absent.items() if not value]
    if missing or task is None or size is None or decoder is None:
        raise UsageError(
            f"the plan cannot be opened here to look, so give {', '.join(missing)} too, or adopt it where it runs; why not: {why[:160]}"
        )
    values = {**family.preprocess, **options.preprocess()}
    channels = 1 if values.get("channel_order") == "gray" else 3
    for key in ("mean", "std"):
        if len(values.get(key, ())) == 1:
            values[key] = tuple(values[key]) * channels
    rule = PreprocessSpec(size_hw=size, layout=cast(Any, options.layout or "nchw"), baked=False, **values)
    spec = ModelSpec(
        name=options.name or name,
        task=task,
        labels=_names(options, family),
        preprocess=rule,
        decoder=decoder,
        decoder_options={**family.decoder_options, **options.decoder_options},
        label_offset=options.label_offset or 0,
        confidence=family.confidence if options.confidence is None else options.confidence,
        iou=family.iou if options.iou is None else options.iou,
        precision=UNREAD.precision,
        weights={"adopted_from": name, "producer": "TensorRT"},
    )
    return spec, (
        f"not looked into: {why}; its hash is recorded, its tensors are checked when it is first loaded",
        f"assumed: float32 input, {rule.layout}, mean {list(rule.mean)}, std {list(rule.std)}, resize {rule.resize}, filter {rule.filter}",
    )


def _names(options: AdoptOptions, family: Preset) -> tuple[str, ...]:
    given = options.labels if options.labels is not None else family.labels
    return given if isinstance(given, tuple) else find_labels(given or "")
