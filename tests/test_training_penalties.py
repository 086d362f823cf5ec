"""One step of plain gradient descent shows the gradient: g = (w_before - w_after) / lr."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from bitwright.training.loop import fit
from bitwright.training.settings import Optimizer, TrainSettings
from training_cases import blobs, small_net, weights

LR = 0.5


def one_step(model, **settings):
    """The gradients that one full-batch step has used."""
    data = blobs()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    plain = Optimizer("SGD", LR, {})
    fit(
        model,
        data,
        TrainSettings(**{"epochs": 1, "batch_size": 90, "optimizer": plain, "weight_decay": 0.0, **settings}),
    )
    return {n: (before[n] - p.detach()) / LR for n, p in model.named_parameters()}


class Mask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


class Codebook(nn.Module):
    def __init__(self, indices):
        super().__init__()
        self.register_buffer("indices", indices)

    def forward(self, values):
        return values[self.indices]


def masked_net():
    net = small_net()
    mask = torch.arange(net[5].weight.numel()).reshape(net[5].weight.shape) % 3 == 0
    parametrize.register_parametrization(net[5], "weight", Mask(mask.float()))
    return net, mask


def codebook_net():
    net = small_net()
    indices = torch.arange(net[5].weight.numel()).reshape(net[5].weight.shape) % 4
    net[5].weight = nn.Parameter(torch.tensor([-0.3, -0.1, 0.2, 0.4]))
    parametrize.register_parametrization(net[5], "weight", Codebook(indices), unsafe=True)
    return net, indices


def test_l2_and_l1_reach_weights_only():
    net = small_net()
    start = weights(net)
    without, with_both = one_step(small_net()), one_step(net, weight_decay=0.1, l1=0.01)
    for name in ("0.weight", "5.weight"):
        expected = without[name] + 0.1 * start[name] + 0.01 * start[name].sign()
        torch.testing.assert_close(with_both[name], expected, atol=1e-5, rtol=1e-4)
    for name in ("0.bias", "1.weight", "1.bias", "5.bias"):  # biases and the norm
        torch.testing.assert_close(with_both[name], without[name], atol=1e-6, rtol=0)


def test_masked_weights_are_not_penalised_and_do_not_move():
    plain, mask = masked_net()
    penalised, _ = masked_net()
    start = penalised[5].parametrizations.weight.original.detach().clone()
    name = "5.parametrizations.weight.original"
    without, with_both = one_step(plain)[name], one_step(penalised, weight_decay=0.1, l1=0.01)[name]
    expected = without + mask * (0.1 * start + 0.01 * start.sign())
    torch.testing.assert_close(with_both, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(penalised[5].parametrizations.weight.original[~mask], start[~mask])


def test_a_centroid_gets_the_sum_over_its_cluster():
    (plain, indices), (penalised, _) = codebook_net(), codebook_net()
    name = "5.parametrizations.weight.original"
    centroids = plain[5].parametrizations.weight.original.detach().clone()
    counts = torch.bincount(indices.flatten()).float()
    without, with_both = one_step(plain)[name], one_step(penalised, weight_decay=0.1, l1=0.01)[name]
    expected = without + counts * (0.1 * centroids + 0.01 * centroids.sign())
    torch.testing.assert_close(with_both, expected, atol=1e-4, rtol=1e-4)


def test_an_exact_zero_gets_no_l1():
    net = small_net()
    with torch.no_grad():
        net[5].weight.zero_()
    twin = small_net()
    twin.load_state_dict(net.state_dict())
    assert torch.equal(one_step(net, l1=0.5)["5.weight"], one_step(twin)["5.weight"])


def test_a_frozen_layer_stays():
    net = small_net()
    net[0].weight.requires_grad_(False)
    start = net[0].weight.clone()
    one_step(net, weight_decay=0.1, l1=0.1)
    assert torch.equal(net[0].weight, start)


class Tied(nn.Module):
    """Two layers that share one weight; the second's output is only added to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.flatten, self.one, self.two = nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.two(self.one(self.flatten(x))))


def test_a_tied_weight_is_penalised_once():
    start = Tied().one.weight.detach().clone()
    without, with_l2 = one_step(Tied()), one_step(Tied(), weight_decay=0.1)
    torch.testing.assert_close(with_l2["one.weight"] - without["one.weight"], 0.1 * start, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_weight_decay_is_what_torch_calls_so(name):
    """Several steps, momentum or Adam's moments included, against the optimiser's own coupled decay."""
    options = {"momentum": 0.9} if name == "SGD" else {}
    common = {"epochs": 3, "batch_size": 16, "weight_decay": 0.0}
    ours, theirs = small_net(), small_net()
    fit(ours, blobs(), TrainSettings(**{**common, "weight_decay": 0.03}, optimizer=Optimizer(name, 0.01, options)))
    own_decay = Optimizer(name, 0.01, {**options, "weight_decay": 0.03})
    fit(theirs, blobs(), TrainSettings(**common, optimizer=own_decay))
    for key, value in weights(ours).items():
        torch.testing.assert_close(value, weights(theirs)[key], atol=1e-5, rtol=1e-4)


class Binary(nn.Module):
    """Signs times a trained magnitude, from a latent weight."""

    latent = True

    def __init__(self):
        super().__init__()
        self.magnitude = nn.Parameter(torch.tensor(0.3))

    def forward(self, weight):
        return weight + (weight.sign() * self.magnitude - weight).detach() + 0 * self.magnitude


def binary_net(magnitude_decays):
    net = small_net()
    binary = Binary()
    binary.magnitude.decays = magnitude_decays
    parametrize.register_parametrization(net[5], "weight", binary)
    return net


@pytest.mark.parametrize("magnitude_decays", [True, False])
def test_latent_weights_are_penalised_themselves(magnitude_decays):
    net = binary_net(magnitude_decays)
    latent = net[5].parametrizations.weight.original.detach().clone()
    without, with_both = one_step(binary_net(True)), one_step(net, weight_decay=0.1, l1=0.01)
    name = "5.parametrizations.weight.original"
    torch.testing.assert_close(
        with_both[name], without[name] + 0.1 * latent + 0.01 * latent.sign(), atol=1e-5, rtol=1e-4
    )
    name = "5.parametrizations.weight.0.magnitude"
    expected = without[name] + magnitude_decays * (0.1 * 0.3 + 0.01)
    torch.testing.assert_close(with_both[name], expected, atol=1e-5, rtol=1e-4)


def test_parameters_decide_for_themselves():
    net = small_net()
    net[5].weight.decays = False
    net[1].weight.decays = True
    start, without, with_l2 = weights(net), one_step(small_net()), one_step(net, weight_decay=0.1)
    for name in start.keys() & without.keys():
        decays = name in ("0.weight", "1.weight")
        torch.testing.assert_close(with_l2[name], without[name] + 0.1 * decays * start[name], atol=1e-5, rtol=1e-4)


def test_a_computed_weight_whose_parameters_do_not_decay():
    (plain, _), (net, _) = masked_net(), masked_net()
    net[5].parametrizations.weight.original.decays = False
    name = "5.parametrizations.weight.original"
    torch.testing.assert_close(one_step(net, weight_decay=0.1)[name], one_step(plain)[name], atol=1e-6, rtol=0)
