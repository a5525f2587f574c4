"""Networks of the user's own, named as ``module:factory``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from jetlens.errors import UsageError

__all__ = ["build_own"]

OFFERED = ("num_classes", "in_channels", "size_hw")
"""What jetlens knows of the data and passes to a factory that takes it."""


def build_own(target: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Imports ``module:factory``, also from the current directory, calls it, and gives the network that it returns.

    Of OFFERED the factory gets what its signature has; all other arguments must be in it.

    Raises:
        UsageError: the module or the factory is not there or fails, does not take an argument, or returns no ``torch.nn.Module``.
    """
    factory = _factory(target)
    try:
        parameters = dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        parameters = {}  # something compiled: it says no more
    takes_all = any(row.kind is inspect.Parameter.VAR_KEYWORD for row in parameters.values())
    given = {key: value for key, value in arguments.items() if takes_all or key in parameters or key not in OFFERED}
    unknown = [key for key in given if key not in parameters and not takes_all]
    if unknown:
        raise UsageError(f"{target} does not take {', '.join(unknown)}; it takes {', '.join(parameters) or 'no arguments'}")
    try:
        network = factory(**given)
    except Exception as error:  # the user's code can raise anything
        raise UsageError(f"{target} failed: {_words(error)}; called with {_words(given)}") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{target} returned {type(network).__name__}; a factory returns a torch.nn.Module")
    return network


def _factory(target: str) -> Any:
    module_name, _, attribute = target.partition(":")
    if not attribute or not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise UsageError(f"{target[:80]!r} names no network; write module:factory, such as my_networks:make for make() in my_networks.py")
    try:
        with _current_directory():
            found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if module_name == error.name or module_name.startswith(f"{error.name}."):
            raise UsageError(f"{target}: there is no module {error.name}; run where {error.name}.py is, or put it on PYTHONPATH") from None
        raise UsageError(f"{target}: {module_name} imports {error.name}, which is not installed") from None
    except Exception as error:  # the user's code can raise anything
        raise UsageError(f"{target}: importing {module_name} failed: {_words(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [key for key, value in vars(found).items() if callable(value) and getattr(value, "__module__", "") == module_name]
            raise UsageError(
                f"{target}: {module_name} has no {attribute}; it defines {', '.join(names[:8]) or 'nothing that can be called'}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{target} is {type(found).__name__}, which cannot be called; name a function or a class")
    return found


@contextmanager
def _current_directory() -> Iterator[None]:
    """An installed command does not look for modules where it is run."""
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def _words(value: object) -> str:
    text = " ".join(str(value).split())[:100]
    return f"{type(value).__name__}: {text}" if isinstance(value, Exception) else text
