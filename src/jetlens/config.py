"""Settings of a command: a TOML file and flags become one dataclass."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from jetlens.errors import UnknownNameError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load_config"]

C = TypeVar("C")


def load_config(kind: type[C], file: Path | None, flags: Mapping[str, Any]) -> C:
    """Builds the dataclass from a TOML file's keys and, over them, the flags that were given (those that are not None).

    Raises:
        UsageError: the file is missing or no TOML, a key is unknown, or a required field is given nowhere.
    """
    values = _read(file) if file is not None else {}
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UnknownNameError(f"key in {file}:", unknown[0], known)
    values.update({key: value for key, value in flags.items() if value is not None})
    absent = [name for name, f in known.items() if name not in values and f.default is MISSING and f.default_factory is MISSING]
    if absent:
        raise UsageError(f"{absent[0]} is needed: give --{absent[0].replace('_', '-')} or set it in a TOML file with --config")
    return kind(**values)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{file}: the configuration cannot be read ({why})") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from None
