"""Labelled pictures that are drawn, kept in files for the length of a run, so that each is drawn once and not once a process."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jetlens.data.samples import Sample
from jetlens.errors import DataError, OutputError
from jetlens.frame import Image
from jetlens.results import Detections

__all__ = ["keep", "kept"]


def keep(samples: Iterable[Sample], folder: Path) -> str:
    """Writes each sample to a file of its own; the SHA-256 over all of them, in their order.

    Raises:
        OutputError: there is no room for them.
    """
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256()
    for number, sample in enumerate(samples):
        stream = io.BytesIO()
        np.savez(stream, name=np.array(sample.name), image=np.asarray(sample.image), **_arrays(sample.truth))
        try:
            (folder / f"{number:06}").write_bytes(stream.getbuffer())
        except OSError as error:
            raise OutputError(
                f"{folder}: no room for the labelled pictures ({error.strerror}); set TMPDIR or give fewer --pictures"
            ) from error
        digest.update(hashlib.sha256(stream.getbuffer()).digest())
    return digest.hexdigest()


def kept(folder: Path, sha256: str) -> Iterator[Sample]:
    """The samples that ``keep`` wrote.

    Raises:
        DataError: after the last one, if they are not the very ones that have this hash.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        digest.update(hashlib.sha256(content).digest())
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            image = arrays["image"]
            yield Sample(image, _truth(arrays, image), str(arrays["name"]))
    if digest.hexdigest() != sha256:
        raise DataError(f"{folder}: the labelled pictures changed during the run; measure again")


def _arrays(truth: Any) -> dict[str, Any]:
    if isinstance(truth, Detections):
        return {"xyxy": truth.xyxy, "confidence": truth.confidence, "class_id": truth.class_id, "labels": np.array(truth.labels)}
    return {"truth": np.asarray(truth)}


def _truth(arrays: Any, image: Image) -> Any:
    if "xyxy" in arrays:
        labels = tuple(str(label) for label in arrays["labels"])
        return Detections(arrays["xyxy"], arrays["confidence"], arrays["class_id"], (image.shape[0], image.shape[1]), labels)
    return arrays["truth"] if arrays["truth"].ndim else int(arrays["truth"])
