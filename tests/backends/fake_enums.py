"""Members of foreign enums: an int with a name."""

from __future__ import annotations

from typing import Any


class Member(int):
    """A value with the name that the real enum gives it."""

    name: str

    def __new__(cls, name: str, value: int) -> Any:
        made = super().__new__(cls, value)
        made.name = name
        return made
