import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bitwright import BitwrightError
from bitwright.training.loop import fit
from bitwright.training.optimizers import allowed_options, create_optimizer, list_optimizers
from bitwright.training.settings import Optimizer, Schedule, TrainSettings
from training_cases import blobs, linear_net, small_net, weights

RATES = {"Adadelta": 1.0, "Adagrad": 0.05, "LBFGS": 0.2, "ASGD": 0.05, "SGD": 0.05}
REFUSED = {"SparseAdam", "Muon"}


@pytest.mark.parametrize("name", sorted(set(list_optimizers()) - REFUSED))
def test_every_optimizer_learns(name):
    net = linear_net()
    settings = TrainSettings(epochs=8, batch_size=30, optimizer=Optimizer(name, RATES.get(name, 0.01), {}))
    history = fit(net, blobs(), settings)
    assert history.epochs[-1].train_loss < 0.9 * history.epochs[0].train_loss


def test_all_of_torch_is_known():
    assert {"SGD", "Adam", "AdamW", "RMSprop", "LBFGS", "Rprop", "Adafactor"} <= set(list_optimizers())
    assert "Optimizer" not in list_optimizers()


def test_unknown_name_lists_the_known():
    with pytest.raises(BitwrightError, match=r"unknown optimizer 'Adamw'; did you mean 'AdamW'\? Known: .*AdamW"):
        create_optimizer(Optimizer("Adamw"), linear_net())


def test_unknown_option_lists_the_allowed():
    with pytest.raises(BitwrightError, match=r"unknown option of optimizer Adam 'momentum'.*betas.*eps"):
        create_optimizer(Optimizer("Adam"), linear_net())
    assert "lr" not in allowed_options(torch.optim.Adam)


def test_impossible_value_keeps_torchs_reason():
    with pytest.raises(BitwrightError, match=r"SGD refuses lr=0\.01 .*Invalid momentum value: -1"):
        create_optimizer(Optimizer("SGD", options={"momentum": -1}), linear_net())


def test_optimizers_that_cannot_train_this():
    with pytest.raises(BitwrightError, match=r"SparseAdam needs sparse gradients.*take Adam"):
        create_optimizer(Optimizer("SparseAdam", options={}), linear_net())
    with pytest.raises(BitwrightError, match=r"Muon refuses .*2D parameters"):
        create_optimizer(Optimizer("Muon", options={}), linear_net())


def test_muon_trains_a_net_of_matrices():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    epochs = fit(net, blobs(), TrainSettings(epochs=5, optimizer=Optimizer("Muon", 0.05, {}))).epochs
    assert epochs[-1].train_loss < epochs[0].train_loss


def test_nothing_to_train():
    net = linear_net().requires_grad_(False)
    with pytest.raises(BitwrightError, match="Sequential has no trainable parameter; set requires_grad"):
        fit(net, blobs(), TrainSettings(epochs=1))


def test_own_decay_holds_for_weights_only():
    net = small_net()
    optimizer = create_optimizer(Optimizer("AdamW", 0.01, {"weight_decay": 0.3}), net)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in net.named_parameters()}
    assert found.pop("0.weight") == found.pop("5.weight") == 0.3
    assert set(found.values()) == {0.0}
    assert len(found) == 4


def test_own_decay_asks_the_parameters_too():
    net = small_net()
    net[0].weight.decays, net[1].weight.decays = False, True
    optimizer = create_optimizer(Optimizer("AdamW", 0.01, {"weight_decay": 0.3}), net)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, p in net.named_parameters() if decay[id(p)]} == {"1.weight", "5.weight"}


def steps_of(net, epochs):
    """One full batch an epoch under a cosine: the history, and the rates of all groups at every step."""
    rates = []
    plain = {"batch_size": 90, "weight_decay": 0.0, "schedule": Schedule("cosine"), "select": "last"}
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups])
    )
    try:
        return fit(net, blobs(), TrainSettings(epochs, **plain, optimizer=Optimizer("SGD", 0.1, {}))).epochs, rates
    finally:
        hook.remove()


def test_a_parameters_own_learning_rate_follows_the_schedule():
    net = linear_net()
    net[1].bias.lr_factor = 0.25
    epochs, rates = steps_of(net, 2)
    assert np.allclose(rates, [[0.1, 0.025], [0.05, 0.0125]])
    assert [epoch.lr for epoch in epochs] == pytest.approx([0.1, 0.05]), "the history tells the common rate"


def test_a_quarter_of_the_rate_is_a_quarter_of_the_way():
    start, common, own = weights(linear_net()), linear_net(), linear_net()
    own[1].bias.lr_factor = 0.25
    for net in (common, own):
        steps_of(net, 1)
    way, own_way = ({n: t - start[n] for n, t in weights(net).items()} for net in (common, own))
    torch.testing.assert_close(own_way["1.bias"], 0.25 * way["1.bias"], atol=1e-6, rtol=1e-4)
    assert torch.equal(own_way["1.weight"], way["1.weight"])


def test_one_group_is_all_that_lbfgs_takes():
    net = linear_net()
    net[1].bias.lr_factor = 0.5
    with pytest.raises(BitwrightError, match=r"LBFGS refuses .*take another optimizer"):
        create_optimizer(Optimizer("LBFGS", options={}), net)


def test_frozen_parameters_are_left_out():
    net = small_net()
    net[0].requires_grad_(False)
    optimizer = create_optimizer(Optimizer(), net)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
