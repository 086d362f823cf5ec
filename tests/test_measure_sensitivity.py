"""The sensitivity scan on a network whose error is known in closed form."""

import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.measure.sensitivity import propose, scan


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"tough": nn.Linear(10, 10), "frail": nn.Linear(10, 10)}


def select(name: str, weight: Tensor, amount: float) -> Tensor:
    if amount >= 1:
        raise BitwrightError("nothing left")
    return weight.abs() >= weight.abs().flatten().kthvalue(int(100 * amount) + 1).values


def test_scans_one_layer_at_a_time_and_restores_it():
    model = layers()
    before = {n: m.weight.detach().clone() for n, m in model.items()}

    def error() -> float:
        zeros = {n: float((m.weight == 0).float().mean()) for n, m in model.items()}
        return 2.0 + zeros["tough"] + 20 * zeros["frail"]

    found = scan(model, (0.5, 0.25, 0.1, 1.0), select, error)
    assert found["baseline"] == 2.0
    assert [p["amount"] for p in found["layers"]["frail"]] == [0.1, 0.25, 0.5], "rising; ends where nothing is left"
    assert [p["sparsity"] for p in found["layers"]["tough"]] == pytest.approx([0.1, 0.25, 0.5])
    assert [p["error"] for p in found["layers"]["frail"]] == pytest.approx([4.0, 7.0, 12.0])
    assert all(torch.equal(m.weight, before[n]) for n, m in model.items())
    assert propose(found, 0.3) == {"tough": 0.25, "frail": 0.0}
    assert propose(found, 5.0) == {"tough": 0.5, "frail": 0.25}


def test_restores_the_weights_after_an_error():
    model = layers()
    before = model["tough"].weight.detach().clone()
    calls = []

    def error() -> float:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        scan(model, (0.5,), select, error)
    assert torch.equal(model["tough"].weight, before)
