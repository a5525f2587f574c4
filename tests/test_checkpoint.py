"""Checkpoints: what is written comes back, a crash leaves a whole file, and wrong files are refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import save  # noqa: E402

from jetlens.checkpoint import load_checkpoint, load_into, save_checkpoint  # noqa: E402
from jetlens.errors import OutputError, WeightsError  # noqa: E402
from jetlens.models import build  # noqa: E402

META = {"model": "basic_cnn", "arguments": {"num_classes": 4}, "labels": ["größe", "b"], "accuracy": {"accuracy": 0.5}}


def tensors():
    return {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor([1, 2]),
        "c": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }


def test_what_is_written_comes_back(tmp_path):
    given_tensors = tensors()
    path = save_checkpoint(tmp_path / "new" / "x.safetensors", given_tensors, META)
    back, meta = load_checkpoint(path)
    assert meta == META
    assert back.keys() == given_tensors.keys()
    assert all(torch.equal(back[key], given_tensors[key]) and back[key].dtype == given_tensors[key].dtype for key in back)
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_the_metadata_is_plain_json_in_the_safetensors_header(tmp_path):
    path = save_checkpoint(tmp_path / "x.safetensors", tensors(), META)
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["jetlens.checkpoint"])["labels"] == ["größe", "b"]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("whole") / "x.safetensors", tensors(), META).read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_file_is_refused(content, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(WeightsError, match="damaged"):
        load_checkpoint(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_never_taken_for_the_truth(content, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    path.write_bytes(content)
    truth, _ = load_checkpoint(path)
    changed = bytearray(content)
    changed[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(changed))
    try:
        found, meta = load_checkpoint(path)
    except WeightsError:
        return
    # Only a bit that carries nothing may pass, such as white space or the name of the hash itself.
    assert meta == META
    assert all(torch.equal(found[key], truth[key]) for key in truth)


def test_plain_safetensors_take_a_flipped_bit_for_the_truth(content):
    """The negative control: the format alone has no checksum."""
    from safetensors.torch import load

    changed = bytearray(content)
    changed[-1] ^= 1
    assert not all(torch.equal(a, b) for a, b in zip(load(bytes(changed)).values(), load(content).values(), strict=True))


def test_files_of_others_are_refused(tmp_path):
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(save({"a": torch.zeros(3)}))
    with pytest.raises(WeightsError, match="without jetlens' description"):
        load_checkpoint(plain)
    pickled = tmp_path / "x.pt"
    torch.save({"a": 1}, pickled)
    with pytest.raises(WeightsError, match="damaged or no checkpoint"):
        load_checkpoint(pickled)
    with pytest.raises(WeightsError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_weights_of_another_network_are_named():
    network = build("basic_cnn", num_classes=4)
    load_into(network, build("basic_cnn", num_classes=4).state_dict(), "x")
    changed = {**network.state_dict(), "extra": torch.zeros(1)}
    del changed["hidden.bias"]
    with pytest.raises(WeightsError, match=r"1 missing \(hidden.bias .*1 unexpected \(extra"):
        load_into(network, changed, "x")
    with pytest.raises(WeightsError, match=r"another shape \(output.bias: \(10,\), needed \(4,\)\)"):
        load_into(network, build("basic_cnn", num_classes=10).state_dict(), "x")


def test_a_folder_that_takes_no_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "x.safetensors", tensors(), META)


WRITER = """
import sys
from pathlib import Path
from jetlens.atomic import write_atomic
def naive(path, content):
    path.write_bytes(content)
write = {"atomic": write_atomic, "naive": naive}[sys.argv[1]]
path, sources = Path(sys.argv[2]), [Path(name).read_bytes() for name in sys.argv[3:]]
write(path, sources[0])
print("ready", flush=True)
while True:
    for content in sources:
        write(path, content)
"""


def broken_after_kills(how, folder, kills):
    """How often the file was no whole checkpoint after its writer was killed."""
    sources = []
    for index in range(2):
        source = folder / f"source{index}"
        save_checkpoint(source, {"weights": torch.full((1_000_000 + index,), float(index))}, {"index": index})
        sources.append(str(source))
    target, broken, chance = folder / "target.safetensors", 0, random.Random(0)
    for _ in range(kills):
        with subprocess.Popen([sys.executable, "-c", WRITER, how, str(target), *sources], stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.0, 0.05))
            os.kill(writer.pid, signal.SIGKILL)
        try:
            found, meta = load_checkpoint(target)
            assert bool((found["weights"] == meta["index"]).all())
        except WeightsError:
            broken += 1
    return broken


def test_a_killed_writer_leaves_a_whole_checkpoint_and_the_naive_way_does_not(tmp_path, request):
    release = "release" in (request.config.getoption("-m") or "")
    for how in ("atomic", "naive"):
        (tmp_path / how).mkdir()
    assert broken_after_kills("atomic", tmp_path / "atomic", 100 if release else 12) == 0
    assert broken_after_kills("naive", tmp_path / "naive", 12) > 0
