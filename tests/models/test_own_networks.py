"""A user's own network by ``module:factory``: what it gets, and what is said when it cannot be used."""

import sys

import pytest

torch = pytest.importorskip("torch")

from jetlens.errors import UsageError  # noqa: E402
from jetlens.models import build  # noqa: E402

CODE = """
import torch
from torch import nn

def make(num_classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

class Whole(nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments

class Holder:
    @staticmethod
    def make(size_hw):
        network = nn.Identity()
        network.size_hw = size_hw
        return network

def fails(num_classes):
    raise RuntimeError("no such\\nthing")

def nothing(num_classes):
    return "a network"

number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with the user's modules, which are forgotten afterwards."""
    (tmp_path / "my_networks.py").write_text(CODE)
    (tmp_path / "my_broken.py").write_text("import surely_not_installed_anywhere")
    (tmp_path / "my_wrong.py").write_text("1 / 0")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "inner.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("target", ["my_networks:make", "my_package.inner:make"])
def test_a_factory_in_the_current_directory(here, target):
    network = build(target, own_code=True, num_classes=7, width=5, in_channels=3, size_hw=(32, 32))
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 7)


def test_a_class_and_an_attribute_of_one_are_factories_too(here):
    assert build("my_networks:Whole", own_code=True, num_classes=7, size_hw=(3, 4)).arguments == {"num_classes": 7, "size_hw": (3, 4)}
    assert build("my_networks:Holder.make", own_code=True, num_classes=7, size_hw=(3, 4)).size_hw == (3, 4)


@pytest.mark.parametrize(("target", "what"), [
    ("my_network:make", "there is no module my_network; run where my_network.py is"),
    ("my_package.outer:make", "there is no module my_package.outer"),
    ("my_broken:make", "my_broken imports surely_not_installed_anywhere, which is not installed"),
    ("my_wrong:make", "importing my_wrong failed: ZeroDivisionError: division by zero"),
    ("my_networks:mak", "has no mak; it defines make, Whole, Holder, fails, nothing"),
    ("my_networks:number", "is int, which cannot be called"),
    ("my_networks:fails", "failed: RuntimeError: no such thing; called with {'num_classes': 2}"),
    ("my_networks:nothing", "returned str; a factory returns a torch.nn.Module"),
    ("my_networks:", "names no network; write module:factory"),
    ("my networks.py:make", "names no network; write module:factory"),
])  # fmt: skip
def test_what_cannot_be_used_is_explained_in_one_line(here, target, what):
    with pytest.raises(UsageError) as caught:
        build(target, own_code=True, num_classes=2)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_an_argument_that_the_factory_does_not_take_is_named(here):
    with pytest.raises(UsageError, match="my_networks:make does not take depth; it takes num_classes, width"):
        build("my_networks:make", own_code=True, num_classes=2, depth=3)


def test_a_name_out_of_a_file_runs_no_code(tmp_path, monkeypatch):
    """Goal M1: a checkpoint from elsewhere may name any function, such as os:system."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    with pytest.raises(UsageError, match="a network of your own; its code runs only where you name it yourself"):
        build("os:system", command=f"touch {mark}")
    assert not mark.exists()
    with pytest.raises(UsageError, match="returned int"):  # the control: with own_code it would run
        build("os:system", own_code=True, command=f"touch {mark}")
    assert mark.exists()
