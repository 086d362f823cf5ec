"""Which dropout belongs to which layer, and how it shrinks."""

import pytest
from torch import nn

from bitwright.steps.dropout import ScaledDropout, dropouts_before, follow, scaled_dropout


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Dropout2d(0.1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 8),
        nn.Linear(8, 8),
        nn.Dropout(0.3),
    )


def layers(model: nn.Sequential) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def test_a_dropout_belongs_to_the_next_layer():
    model = net()
    assert dropouts_before(model, layers(model)) == {"3": model[1], "6": model[5]}
    assert dropouts_before(model, {"6": model[6]}) == {"6": model[5]}


def test_published_example():
    model = net()
    with scaled_dropout(model, layers(model)) as dropout:
        dropout.scale({"0": 1.0, "3": 0.25, "6": 0.09, "7": 1.0})
        assert model[5].p == pytest.approx(0.15)
        assert model[1].p == pytest.approx(0.05)
        dropout.scale({"3": 1.0, "6": 1.0})  # from the original again, not from what it was made
        assert model[5].p == 0.5
        dropout.scale({"3": 0.0, "6": 0.0})
    assert (model[1].p, model[5].p, model[8].p) == (0.1, 0.5, 0.3)


@pytest.mark.parametrize(("how", "expected"), [("scaled", 0.25), ("keep", 0.5), ("off", 0.0)])
def test_what_a_step_may_ask_for(how: str, expected: float):
    model = net()
    follow(ScaledDropout(model, layers(model)), how, {"3": 1.0, "6": 0.25})
    assert model[5].p == expected
