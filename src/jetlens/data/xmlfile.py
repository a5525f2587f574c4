"""A reader of small XML files that expands nothing: a document type or an entity is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree
from xml.parsers import expat

from jetlens.data.base import LabelError, read_annotation

__all__ = ["read_xml"]

_DEEPEST: Final = 100


class _RefusedError(Exception):
    pass


def read_xml(path: Path) -> ElementTree.Element:
    """The root element of an XML file.

    Raises:
        LabelError: the file is missing, no XML, larger than 16 MiB, nested too deeply, or declares a document type.
    """
    content = read_annotation(path)
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise _RefusedError(f"is nested deeper than {_DEEPEST} elements")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise _RefusedError("declares a document type or an entity, which annotations do not need; refused without expanding it")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except _RefusedError as error:
        raise LabelError("bad-label", path, str(error)) from None
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise LabelError("bad-label", path, f"is no valid XML ({str(error)[:80]})") from None
