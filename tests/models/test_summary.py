"""The summary of a network: parameters and MACs against closed forms, shapes, and that it leaves no trace."""

import pytest

torch = pytest.importorskip("torch")

from jetlens.models import build  # noqa: E402
from jetlens.models.summary import summary, summary_table, totals  # noqa: E402

nn = torch.nn
torch.set_num_threads(1)


@pytest.mark.parametrize(("layer", "given", "shape", "parameters", "macs"), [
    (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), (1, 8, 10, 12), 3 * 8 * 9 + 8, 10 * 12 * 8 * 3 * 9),
    (nn.Conv2d(6, 12, (3, 5), stride=2, groups=3, bias=False), (6, 11, 13), (1, 12, 5, 5), 12 * 2 * 15, 5 * 5 * 12 * 2 * 15),
    (nn.Conv2d(8, 8, 3, groups=8, padding=2, dilation=2), (8, 7, 7), (1, 8, 7, 7), 8 * 9 + 8, 7 * 7 * 8 * 9),
    (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 5), (1, 6, 10, 10), 4 * 6 * 4 + 6, 5 * 5 * 4 * 6 * 4),
    (nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), (3, 4, 4), (1, 10), 490, 480),
    (nn.BatchNorm2d(5), (5, 3, 3), (1, 5, 3, 3), 10, 0),
    (nn.MaxPool2d(2), (3, 8, 8), (1, 3, 4, 4), 0, 0),
])  # fmt: skip
def test_each_layer_equals_its_closed_form(layer, given, shape, parameters, macs):
    rows = summary(nn.Sequential(layer) if not isinstance(layer, nn.Sequential) else layer, given)
    assert rows[-1].output_shape == shape
    assert totals(rows) == (parameters, macs)


def test_basic_cnn_layer_by_layer():
    rows = {row.name: row for row in summary(build("basic_cnn"), (3, 64, 64))}
    assert rows["features.1.0"].output_shape == (1, 64, 32, 32)
    assert rows["features.1.0"].macs == 32 * 32 * 64 * 32 * 9
    assert rows["features.1.0"].detail == "3x3"
    assert rows["features.1.3"].kind == "MaxPool2d"
    assert rows["dropout"].calls == 2
    assert totals(list(rows.values())) == (1_147_914, 64 * 64 * 32 * 27 + 32 * 32 * 64 * 288 + 16 * 16 * 128 * 576 + 2048 * 512 + 5120)


def test_resnet18_costs_what_the_papers_say():
    rows = summary(build("custom_resnet", num_classes=1000, stem="imagenet"), (3, 224, 224))
    parameters, macs = totals(rows)
    assert parameters == 11_689_512
    assert macs == 1_814_073_344  # 1.8 G in He et al. 2016
    assert [row.name for row in rows][:3] == ["conv1", "bn1", "act1"]


@pytest.mark.parametrize(("name", "shape"), [("small_det", (3, 288, 512)), ("small_seg", (3, 64, 64))])
def test_the_parameters_of_the_rows_are_all_parameters(name, shape):
    network = build(name)
    assert totals(summary(network, shape))[0] == sum(p.numel() for p in network.parameters())


def test_a_layer_used_three_times_costs_three_times_and_holds_once():
    row = {row.name: row for row in summary(build("small_det", size_hw=(64, 64)), (3, 64, 64))}["class_tower.mix"]
    assert (row.calls, row.parameters) == (3, 48 * 48 * 9)
    assert row.macs == (8 * 8 + 4 * 4 + 2 * 2) * 48 * 48 * 9


def test_shared_and_unused_parameters():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.second = nn.Conv2d(3, 3, 1)
            self.second.weight = self.first.weight
            self.never = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x):
            return {"out": self.second(self.first(x)) * self.scale}

    network = Odd()
    rows = summary(network, (3, 5, 5))
    assert totals(rows) == (sum(p.numel() for p in network.parameters()), 2 * 25 * 9)
    assert (rows[-1].name, rows[-1].output_shape, rows[-1].calls) == ("never", (), 0)
    assert "not used" in summary_table(rows)


def test_the_network_is_left_as_it_was():
    network = build("basic_cnn").train()
    network.features[1].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    summary(network, (3, 32, 32))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.training
    assert not network.features[1].training
    assert not any(module._forward_hooks for module in network.modules())


def test_the_table_has_a_line_a_layer_and_the_totals():
    rows = summary(build("basic_cnn"), (3, 32, 32))
    lines = summary_table(rows).splitlines()
    assert len(lines) == len(rows) + 4
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "MACs"]
    assert lines[2].split() == ["features.0.0", "Conv2d", "3x3", "32x32x32", "896", "884,736"]
    assert lines[-1].split()[:2] == ["total", "1,147,914"]
