"""Dead neurons go, the function stays: between all kinds of layers."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitwright.packing.lower import lower
from bitwright.steps.dead import remove_dead_neurons


def bury(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    """Remove them, and check that nothing else has changed."""
    model.eval()
    expected = model(x).detach()
    graph, tensors = lower(model, (x[:1],))
    dead = remove_dead_neurons(model, graph, tensors)
    assert torch.allclose(model(x), expected, atol=1e-5)
    return dead


def seeded(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.randn(tensor.shape, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.abs_()
    return model


def lenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 4, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


def silence(layer: nn.Module, neuron: int) -> None:
    layer.weight.data[neuron] = 0


def ignore(layer: nn.Module, neuron: int, features: int = 1) -> None:
    layer.weight.data[:, neuron * features : (neuron + 1) * features] = 0


def test_constants_go_through_pools_norms_and_flatten():
    model, x = seeded(lenet()), torch.randn(4, 1, 14, 14)
    silence(model[0], 1)
    ignore(model[2], 2)
    silence(model[2], 0)
    ignore(model[7], 4, features=4)
    silence(model[7], 6)
    assert bury(model, x) == {"0": 2, "2": 2, "7": 1}
    assert torch.all(model[2].weight[:, 1:3] == 0)
    assert torch.all(model[7].weight[:, :4] == 0)
    assert torch.all(model[0].bias[1:3] == 0)
    assert torch.all(model[9].weight[:, 6] == 0)


def test_death_spreads_backwards_and_forwards():
    model = seeded(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))
    model[2].weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 1, 0]])
    ignore(model[4], 0)  # then nobody reads neuron 0 of the second layer, nor its only source
    silence(model[0], 1)  # then neuron 2 of the second layer says the same for ever
    assert bury(model, torch.randn(9, 4)) == {"0": 2, "2": 2}
    assert torch.all(model[4].weight[:, [0, 2]] == 0)
    assert torch.all(model[0].weight[:2] == 0)


def test_the_border_of_a_padded_convolution_is_respected():
    model = seeded(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1)))
    silence(model[0], 0)
    silence(model[0], 1)
    model[0].bias.data = torch.tensor([0.8, -0.8, 0.1])
    assert bury(model, torch.randn(4, 1, 8, 8)) == {"0": 1}, "only the one that always says 0"
    assert torch.all(model[2].weight[:, 1] == 0)
    assert torch.any(model[2].weight[:, 0] != 0)


def test_without_a_bias_only_silence_can_go():
    model = seeded(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)))
    silence(model[0], 0)
    silence(model[0], 1)
    model[0].bias.data = torch.tensor([0.8, -0.8, 0.1])
    assert bury(model, torch.randn(9, 4)) == {"0": 1}
    model = seeded(nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)))
    silence(model[0], 0)
    assert bury(model, torch.randn(9, 4)) == {"0": 1}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.c(F.relu(self.b(y)) + y)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.relu(self.b(F.relu(self.a(x)))))


@pytest.mark.parametrize("make", [Residual, Twice])
def test_what_is_read_twice_is_left_alone(make: Callable[[], nn.Module]):
    model = seeded(make())
    silence(model.a, 0)
    ignore(model.b, 1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    assert not any(bury(model, torch.randn(9, 4)).values())
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_healthy_network_is_not_touched():
    model = seeded(lenet())
    before = {n: p.clone() for n, p in model.named_parameters()}
    assert set(bury(model, torch.randn(4, 1, 14, 14)).values()) == {0}
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
