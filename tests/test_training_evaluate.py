import numpy as np
import pytest
import torch
from torch import nn

from bitwright import BitwrightError
from bitwright.data.dataset import Split
from bitwright.training.evaluate import evaluate
from bitwright.training.losses import squared_error
from training_cases import blobs, linear_net, small_net


def test_figures_against_numpy():
    net, data = linear_net(), blobs()
    split = data.validation
    found = evaluate(net, split, data.preprocess, batch_size=7)  # 45 images: the last batch is not full
    x = data.preprocess(split.images).reshape(len(split), -1)
    z = x @ net[1].weight.detach().numpy().T + net[1].bias.detach().numpy()
    wrong = (z.argmax(1) != split.labels).mean()
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    assert found.error == pytest.approx(100 * wrong)
    assert found.accuracy == pytest.approx(100 - 100 * wrong)
    assert found.loss == pytest.approx(-log_p[np.arange(45), split.labels].mean(), rel=1e-5)
    assert found.count == 45
    np.testing.assert_array_equal(found.predictions, z.argmax(1))


def test_other_losses():
    net, data = linear_net(), blobs()
    z = net(data.preprocess.torch(torch.from_numpy(data.test.images)))
    expected = squared_error(z, torch.from_numpy(data.test.labels)).item()
    assert evaluate(net, data.test, data.preprocess, loss=squared_error).loss == pytest.approx(expected, rel=1e-5)


def test_modes_come_back_and_nothing_is_learned():
    net, data = small_net(dropout=0.5), blobs()
    net.train()
    net[1].eval()  # a norm that somebody froze
    before = net[1].running_mean.clone()
    first = evaluate(net, data.validation, data.preprocess)
    assert [m.training for m in net] == [True, False, True, True, True, True]
    assert torch.equal(net[1].running_mean, before)
    np.testing.assert_array_equal(first.predictions, evaluate(net, data.validation, data.preprocess).predictions)


def test_modes_come_back_after_an_error():
    net, data = small_net(), blobs()
    with torch.no_grad():
        net[5].bias[0] = float("nan")
    with pytest.raises(BitwrightError, match="Sequential gives logits that hold nan for 45 of 45 images"):
        evaluate(net, data.validation, data.preprocess)
    assert net.training


def test_read_only_and_float_images():
    data = blobs()
    images = (data.validation.images / np.float32(255)).astype(np.float32)
    images.flags.writeable = False
    as_float = evaluate(linear_net(), Split(images, data.validation.labels), data.preprocess)
    assert as_float.loss == pytest.approx(evaluate(linear_net(), data.validation, data.preprocess).loss, rel=1e-5)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Conv2d(1, 3, 1), r"Conv2d gives \(45, 3, 4, 4\) for 45 images; expected \(45, classes\)"),
        (linear_net(classes=2), "Sequential gives 2 logits, but there is a label 2; create it with num_classes=3"),
    ],
)
def test_models_of_another_shape(net, message):
    data = blobs()
    with pytest.raises(BitwrightError, match=message):
        evaluate(net, data.validation, data.preprocess)


def test_empty_split():
    data = blobs()
    with pytest.raises(BitwrightError, match="no images"):
        evaluate(linear_net(), Split(data.test.images[:0], data.test.labels[:0]), data.preprocess)
