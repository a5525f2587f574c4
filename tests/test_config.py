from dataclasses import dataclass
from pathlib import Path

import pytest

from jetlens.config import load_config
from jetlens.errors import UsageError


@dataclass(frozen=True)
class Settings:
    epochs: int
    name: str = "run"


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('epochs = 3\nname = "file"\n')
    assert load_config(Settings, file, {"epochs": None, "name": "flag"}) == Settings(3, "flag")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3\n", r"s\.toml: 'epoch' \(did you mean 'epochs'\?\); known: epochs, name"),
        ("epochs = \n", "not valid TOML"),
        ('name = "x"\n', "epochs is needed"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(Settings, file, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml"):
        load_config(Settings, tmp_path / "absent.toml", {})
