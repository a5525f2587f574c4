"""Class names: the lists that ship with jetlens, and the reader of users' lists."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jetlens.errors import InputError, UnknownNameError

__all__ = ["LABELS", "find_labels", "labels", "read_labels"]

LABELS: dict[str, str] = {
    "imagenet": "the 1,000 classes of ImageNet (ILSVRC 2012), the first name of each; the two cranes and the two maillots told apart",
    "coco80": "the 80 classes of COCO, numbered without gaps",
    "coco91": "the 91 ids of COCO: 0 is the background, the 10 ids without a class are empty",
    "voc": "the 20 classes of PASCAL VOC as its annotations spell them, after 0, the background",
    "cityscapes": "the 19 training ids of Cityscapes",
    "cifar10": "the 10 classes of CIFAR-10",
}
"""The lists that ship, and what each holds."""

_LARGEST_FILE = 1 << 22
_LARGEST_ID = 1 << 16


@cache
def labels(name: str) -> tuple[str, ...]:
    """The names of a list that ships, by class id; an empty text is an id without a class.

    Raises:
        UnknownNameError: no list has this name.
    """
    if name not in LABELS:
        raise UnknownNameError("list of labels", name, LABELS)
    text = files("jetlens").joinpath("assets", "labels", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.removesuffix("\n").split("\n"))


def find_labels(given: str | Path) -> tuple[str, ...]:
    """The names of a list that ships, or of a user's file.

    Raises:
        InputError: it is neither.
    """
    return labels(str(given)) if str(given) in LABELS else read_labels(Path(given))


def read_labels(path: Path) -> tuple[str, ...]:
    """The names in a user's file, by class id.

    By its suffix the file is JSON (a list, a mapping of ids to names or of names to ids, or one of these under ``names``), YAML (the same under
    ``names``) or text with one name a line, where an empty line is an id without a class. WordNet ids before the names are dropped.

    Raises:
        InputError: the file is absent, not UTF-8, empty, or no such list.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path} is larger than 4 MiB; a list of labels is a small text file with one name a line")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: the labels cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: the labels are not UTF-8 text; save the file as UTF-8, one name a line") from None
    suffix = path.suffix.lower()
    if suffix == ".json":
        names = _from_json(path, text)
    elif suffix in (".yaml", ".yml"):
        names = _by_id(path, _YamlNames(path, text).read())
    else:
        names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not any(names):
        raise InputError(f"{path} holds no label; write one name a line")
    if all(re.match(r"n\d{8} ", name) for name in names):
        names = tuple(name.split(" ", 1)[1] for name in names)
    return names


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if isinstance(raw, dict) and "names" in raw:
        raw = raw["names"]
    return _by_id(path, raw)


def _by_id(path: Path, raw: Any) -> tuple[str, ...]:
    """Names by id from a list of names, or from a mapping of ids to names or of names to ids."""
    if isinstance(raw, dict):
        turned = raw and all(type(value) is int for value in raw.values())
        pairs = [(value, key) if turned else (key, value) for key, value in raw.items()]
    elif isinstance(raw, list):
        pairs = list(enumerate(raw))
    else:
        raise InputError(f"{path}: the labels must be a list of names or a mapping of ids to names, not {type(raw).__name__}")
    table: dict[int, str] = {}
    for key, name in pairs:
        if not isinstance(name, str):
            raise InputError(f"{path}: the label of class {key!r} is {str(name)[:60]!r}; it must be a text (put it in quotes)")
        if not re.fullmatch(r"\d+", str(key)) or int(key) >= _LARGEST_ID:
            raise InputError(f"{path}: {str(key)[:60]!r} is no class id; use whole numbers from 0 to {_LARGEST_ID - 1}")
        if int(key) in table:
            raise InputError(f"{path}: class id {int(key)} comes twice ({table[int(key)]!r} and {name!r}); give each id once")
        table[int(key)] = name
    return tuple(table.get(i, "") for i in range(max(table, default=-1) + 1))


class _YamlNames:
    """Reads what stands under ``names:`` in a YAML file, and no more of YAML than that takes."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = [_without_comment(line) for line in text.splitlines()]

    def read(self) -> list[str] | dict[str, str]:
        start = next((i for i, line in enumerate(self._lines) if re.match(r"names\s*:(\s|$)", line)), None)
        if start is None:
            raise InputError(f"{self._path}: there is no key 'names:' at the start of a line; write names: [first, second]")
        inline = self._lines[start].split(":", 1)[1].strip()
        if inline:
            return self._flow(start, inline)
        rows: list[tuple[str, str]] = []
        dash = False
        for number, line in enumerate(self._lines[start + 1 :], start + 2):
            if not line.strip():
                continue
            if not line.startswith((" ", "-", "\t")):
                break
            dash, row = self._row(number, line.strip(), dash, first=not rows)
            rows.append(row)
        return [value for _, value in rows] if dash else self._mapping(rows)

    def _row(self, number: int, line: str, dash: bool, *, first: bool) -> tuple[bool, tuple[str, str]]:
        """One ``- name`` or ``id: name``, and which of the two it is."""
        item = re.match(r"-\s+(.*)$", line)
        if (dash or first) and item:
            return True, ("", self._scalar(number, item[1]))
        pair = re.match(r"""(\d+|"[^"]*"|'[^']*'|[^\s:'"-][^:]*?)\s*:\s+(.+)$""", line)
        if not pair or (dash and not first):
            raise InputError(f"{self._path}:{number}: {line[:60]!r} is neither '- name' nor 'id: name' like the lines before it")
        return False, (self._scalar(number, pair[1]), self._scalar(number, pair[2]))

    def _flow(self, start: int, inline: str) -> list[str] | dict[str, str]:
        """A list in [] or a mapping in {}, perhaps over several lines."""
        number = start + 1
        closing = {"[": "]", "{": "}"}.get(inline[0])
        if closing is None:
            raise InputError(f"{self._path}:{number}: names is {inline[:60]!r}; it must be a list or a mapping of ids to names")
        for line in self._lines[start + 1 :]:
            if inline.endswith(closing):
                break
            inline += " " + line.strip()
        if not inline.endswith(closing):
            raise InputError(f"{self._path}:{number}: the list of names has no closing {closing!r}")
        items = re.findall(r"""(?:"[^"]*"|'(?:[^']|'')*'|[^,"'])+""", inline[1:-1])
        texts = [item.strip() for item in items if item.strip()]
        if closing == "]":
            return [self._scalar(number, item) for item in texts]
        pairs = [item.partition(":") for item in texts]
        return self._mapping([(self._scalar(number, key.strip()), self._scalar(number, value.strip())) for key, _, value in pairs])

    def _mapping(self, rows: list[tuple[str, str]]) -> dict[str, str]:
        table = dict(rows)
        if len(table) != len(rows):
            raise InputError(f"{self._path}: a class id comes twice under 'names:'; give each id once")
        return table

    def _scalar(self, number: int, text: str) -> str:
        if len(text) >= 2 and text[0] == text[-1] == "'":
            return text[1:-1].replace("''", "'")
        if len(text) >= 2 and text[0] == text[-1] == '"' and "\\" not in text:
            return text[1:-1]
        if not text or text[0] in "\"'[]{}&*!|>%@`" or ": " in text:
            raise InputError(f"{self._path}:{number}: {text[:60]!r} is not a plain name; put it in single quotes")
        return text


def _without_comment(line: str) -> str:
    """A line up to its comment: a # at the start or after a space, outside of quotes."""
    quote = ""
    for index, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (index == 0 or line[index - 1] in " \t[{,:-"):
            quote = letter
        elif letter == "#" and (index == 0 or line[index - 1] in " \t"):
            return line[:index].rstrip()
    return line.rstrip()
