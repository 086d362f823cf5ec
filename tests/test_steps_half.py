"""Rounding to float16: which tensors, how batch norms, and what can't be rounded."""

import pytest
import torch
from torch import nn

from bitwright.context import Context
from bitwright.errors import BitwrightError
from bitwright.packing.lower import lower
from bitwright.steps.half import Half
from training_cases import blobs, small_net


def half(model: nn.Module, step: Half) -> nn.Module:
    return step.apply(model, Context(blobs()))


def is_half(tensor: torch.Tensor) -> bool:
    return torch.equal(tensor.half().to(tensor.dtype), tensor)


def trained_norm() -> nn.Module:
    torch.manual_seed(1)
    model = small_net()
    model[1].weight.data.uniform_(0.5, 2)
    model[1].bias.data.uniform_(-1, 1)
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.1, 3)
    return model.eval()


def test_all_parameters_become_half_and_the_function_nearly_stays():
    model, x = trained_norm(), torch.randn(10, 1, 4, 4)
    expected = model(x)
    model = half(model, Half())
    assert all(is_half(p) for p in model.parameters())
    assert model[0].weight.dtype == torch.float32
    assert torch.allclose(model(x), expected, atol=5e-3)


def test_batch_norm_is_half_in_the_packed_form():
    model = half(trained_norm(), Half())
    _, tensors = lower(model, (torch.zeros(1, 1, 4, 4),))
    for name in ("1.scale", "1.shift"):
        assert is_half(torch.from_numpy(tensors[name])), name


def test_norms_may_be_rounded_as_they_are():
    before, model = trained_norm(), half(trained_norm(), Half(norms=False))
    assert torch.equal(model[1].weight, before[1].weight.half().float())
    assert torch.equal(model[1].running_var, before[1].running_var)


def test_only_chosen_tensors_change():
    before, model = trained_norm(), half(trained_norm(), Half(tensors=("*.bias", "re:^5[.]w"), ignore=("1.*",)))
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    assert changed == {"0.bias", "5.weight", "5.bias"}
    assert torch.equal(model[1].running_mean, before[1].running_mean)


def test_zeros_and_shared_values_stay():
    model = small_net()
    with torch.no_grad():
        model[5].weight[:, ::2] = 0
        model[5].weight[:, 1::2] = 0.123456
    model = half(model, Half())
    assert torch.unique(model[5].weight).tolist() == [0.0, torch.tensor(0.123456).half().item()]


@pytest.mark.parametrize(("value", "shown"), [(1e5, r"100000"), (float("nan"), "nan"), (float("-inf"), "inf")])
def test_refuses_what_float16_has_not(value: float, shown: str):
    model = small_net()
    with torch.no_grad():
        model[5].bias[0] = value
    with pytest.raises(BitwrightError, match=rf"5\.bias holds {shown}, but float16 ends at 65504"):
        half(model, Half())


def test_a_pattern_without_a_tensor():
    with pytest.raises(BitwrightError, match=r"half: pattern 'fc\.\*' matches nothing; the tensors are: 0\.weight"):
        half(small_net(), Half(tensors=("fc.*",)))


def test_records_what_changed():
    context, model = Context(blobs()), small_net()
    model[1].running_var.fill_(4.0)  # scale and shift are other numbers than gamma and beta; that is no change
    Half().apply(model, context)
    assert context.records["half"]["tensors"] == 6
    assert 0 < context.records["half"]["change"] <= 2**-11
