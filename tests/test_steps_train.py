"""Learning rates of single layers, and frozen ones, in the step `train`."""

import pytest
import torch

import bitwright
from bitwright import BitwrightError
from bitwright.context import Context
from bitwright.recipe import parse
from bitwright.steps.train import Train
from bitwright.training.settings import Optimizer
from training_cases import blobs, equal, small_net, weights

PLAIN = {"epochs": 2, "batch_size": 30, "optimizer": Optimizer("SGD", 0.01, {}), "weight_decay": 0.01, "select": "last"}


def trained(**settings):
    model = small_net()
    Train(**{**PLAIN, **settings}).apply(model, Context(blobs()))
    return model


def test_frozen_layers_stay_in_every_bit_and_only_they():
    before, after = weights(small_net()), weights(trained(rates={"5": 1, "*": 0}))
    stays = {name for name in before if torch.equal(before[name], after[name])}
    assert stays == {name for name in before if not name.startswith("5.")}, "running statistics of norms too"
    first = weights(trained(rates={"first": 0}))
    assert {n for n in before if torch.equal(before[n], first[n])} == {"0.weight", "0.bias"}


def test_a_rate_is_a_factor_on_the_learning_rate():
    """One step of plain gradient descent moves a layer so many times as far."""
    one = {"epochs": 1, "batch_size": 90}
    start, plain, slow = weights(small_net()), weights(trained(**one)), weights(trained(**one, rates={"Conv2d": 0.25}))
    for name in ("0.weight", "0.bias", "1.weight", "5.weight"):
        factor = 0.25 if name.startswith("0.") else 1
        torch.testing.assert_close(slow[name] - start[name], factor * (plain[name] - start[name]), rtol=1e-3, atol=1e-6)


def test_nothing_of_it_stays_on_the_model():
    model = trained(rates={"*": 0.1, "first": 0})
    assert all(p.requires_grad and not hasattr(p, "lr_factor") for p in model.parameters())
    assert equal(weights(trained(rates={})), weights(trained(rates={"*": 1})))


def test_what_was_frozen_by_hand_stays_frozen():
    model = small_net()
    model[0].requires_grad_(False)
    before = weights(model)
    Train(**PLAIN, rates={"*": 2.0}).apply(model, Context(blobs()))
    assert torch.equal(before["0.weight"], weights(model)["0.weight"])
    assert not model[0].weight.requires_grad


def test_a_killed_training_with_rates_ends_with_the_same_bits(tmp_path, monkeypatch):
    from bitwright.training import loop

    settings = Train(**PLAIN, rates={"last": 2, "*": 0.1, "first": 0})
    whole = small_net()
    settings.apply(whole, Context(blobs()))
    model, once = small_net(), loop._Training.validate

    def stop(self):
        if len(self.epochs) == 1:
            raise KeyboardInterrupt
        return once(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "validate", stop)
        with pytest.raises(KeyboardInterrupt):
            settings.apply(model, Context(blobs(), folder=tmp_path))
    model = small_net()
    settings.apply(model, Context(blobs(), folder=tmp_path))
    assert equal(weights(model), weights(whole))


@pytest.mark.parametrize(
    ("rates", "error"),
    [
        ({"fc": 1}, r"train: rates: pattern 'fc' matches nothing; the layers are: 0, 1, 5"),
        ({"*": 0}, r"no trainable parameter"),
    ],
)
def test_rates_that_fit_no_layer_are_refused(rates, error):
    with pytest.raises(BitwrightError, match=error):
        trained(rates=rates)


def test_recipes_name_rates_and_negative_ones_are_refused():
    steps = [{"train": {"epochs": 1, "rates": {"last": 1, "*": 0.1}}}]
    recipe = parse({"name": "r", "data": "digits", "model": "mlp", "steps": steps})
    assert recipe.steps[0].rates == {"last": 1, "*": 0.1}
    with pytest.raises(BitwrightError, match=r"rates\['last'\] is -1\.0; expected a factor of at least 0"):
        Train(rates={"last": -1.0})


def test_layers_are_frozen_by_pattern_in_python_too():
    before, model = weights(small_net()), small_net()
    bitwright.train(model, blobs(), epochs=1, lr=0.05, rates={"5": 1, "*": 0})
    after = weights(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"5.weight", "5.bias"}
    assert all(p.requires_grad for p in model.parameters())
