"""Trust: plans that the user made elsewhere, by the hash that the user vouched for; a plan is code that TensorRT runs."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from jetlens.atomic import write_atomic
from jetlens.engines.api import Messages, load_tensorrt, make_logger, open_plan
from jetlens.engines.environment import read_environment
from jetlens.engines.inspection import layer_report, tensor_rows
from jetlens.engines.manifest import PRIVATE, check_folder, from_json, make_folder, make_key, read_key, read_private, to_json
from jetlens.engines.plan import Engine, Manifest, PlanFacts
from jetlens.errors import BackendError, ModelError, OutputError
from jetlens.folders import cache_folder

__all__ = ["UNREAD", "adopt_command", "distrust", "is_trusted", "read_facts", "trust", "trusted", "trusted_plans"]

UNREAD = PlanFacts((), (), "unknown")
"""What is known of a plan that nothing here can open."""


def adopt_command(name: str) -> str:
    """The command that makes a plan loadable."""
    return f"jetlens adopt {name} --trust --task T --labels FILE"


def trust(plan: bytes, facts: PlanFacts, name: str) -> Manifest:
    """Records the hash of a plan that the user vouches for, signed; the plan itself stays where it is.

    Raises:
        OutputError: the record cannot be written.
    """
    folder = _folder()
    make_folder(folder.parent)
    make_folder(folder)
    created = datetime.now().astimezone().isoformat(timespec="seconds")
    digest = hashlib.sha256(plan).hexdigest()
    manifest = Manifest(asdict(read_environment()), digest, facts, name, created, origin="trusted", plan_bytes=len(plan))
    write_atomic(folder / f"{digest}.json", to_json(manifest, make_key(folder.parent)), PRIVATE)
    return manifest


def is_trusted(plan: bytes) -> bool:
    """Whether the user vouched for these very bytes."""
    try:
        trusted(plan)
    except BackendError:
        return False
    return True


def trusted_plans() -> list[Manifest]:
    """What the user vouched for, by name; records that cannot be relied on are left out, as on loading."""
    found = []
    for record in sorted(_folder().glob("*.json")):
        with contextlib.suppress(OSError, ModelError):
            found.append(_record(record.stem))
    return sorted(found, key=lambda manifest: (manifest.name, manifest.sha256))


def distrust(sha256: str) -> bool:
    """Takes trust back from the plan of this hash; whether there was any record.

    Raises:
        OutputError: the record cannot be removed.
    """
    record = _folder() / f"{sha256}.json"
    try:
        record.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"{record}: cannot be removed ({error.strerror})") from None
    return True


def read_facts(plan: bytes) -> PlanFacts:
    """What a plan says of itself, found out by loading it, which runs its code: only after the user vouched for it.

    Raises:
        BackendError: TensorRT or the GPU is not here, or does not take the plan.
    """
    tensorrt = load_tensorrt()
    messages = Messages()
    _, engine = open_plan(tensorrt, plan, make_logger(tensorrt, messages), messages)
    inputs, outputs = tensor_rows(tensorrt, engine)
    report = layer_report(tensorrt, engine)
    return PlanFacts(inputs, outputs, report.precision() or UNREAD.precision, report.layers)


def trusted(plan: bytes, name: str = "model.plan") -> Engine:
    """A plan whose very bytes the user vouched for on this machine; ``name`` is how messages call it.

    Raises:
        BackendError: nobody did.
    """
    try:
        manifest = _record(hashlib.sha256(plan).hexdigest())
    except FileNotFoundError:
        raise _refusal(name, "nobody vouched for these very bytes on this machine") from None
    except OSError as error:
        raise _refusal(name, f"the record of its trust cannot be read: {error.strerror}") from None
    except ModelError as error:
        raise _refusal(name, f"the record of its trust cannot be relied on: {error}") from None
    return Engine(plan, manifest, reused=True)


def _record(sha256: str) -> Manifest:
    """The record of a hash after every check.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ModelError: a check failed.
    """
    folder = _folder()
    check_folder(folder.parent)
    check_folder(folder)
    text = read_private(folder / f"{sha256}.json")
    key = read_key(folder.parent)
    if key is None:
        raise ModelError("the key that signed it is gone")
    manifest = from_json(text, key)
    if manifest.origin != "trusted" or manifest.sha256 != sha256:
        raise ModelError("it is another plan's")
    return manifest


def _refusal(name: str, cause: str) -> BackendError:
    return BackendError(
        f"{Path(name).name} is not loaded: an engine is code that TensorRT runs, and {cause}; if you made it: {adopt_command(name)}"
    )


def _folder() -> Path:
    return cache_folder("engines") / "trusted"
