"""What the images become before the network sees them, fitted on training images and kept in the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright import edits
from bitwright.edits import edit
from bitwright.errors import BitwrightError, unknown
from bitwright.steps.step import Step
from bitwright.training.evaluate import eval_mode

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

Kind = Literal["mean-image", "decorrelate", "pca", "zca"]
_MOST_NUMBERS = 1 << 14
_BATCH = 2000


class ImageTransform(nn.Module):
    """y = W ((x - m(x)) / sqrt(v(x) + contrast) - mean): see `Preprocess`. `contrast` None leaves the first part out.

    `mean` and `unit` (ones) are buffers (D,), `matrix` is a buffer (D, D), or None where W = 1, for images of D = C H W
    numbers.
    """

    mean: Tensor
    unit: Tensor
    matrix: Tensor | None

    def __init__(self, numbers: int, contrast: float | None, mixes: bool) -> None:
        super().__init__()
        self.contrast = contrast
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("unit", torch.ones(numbers))
        self.register_buffer("matrix", torch.eye(numbers) if mixes else None)

    def extra_repr(self) -> str:
        """For print(model)."""
        return f"{len(self.mean)}, contrast={self.contrast}"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (N, D): the same shape, computed in float32."""
        with torch.autocast(x.device.type, enabled=False):
            y = self.normalised(x.float().flatten(1))
            if self.matrix is None:
                y = F.batch_norm(y, self.mean, self.unit, eps=0.0)
            else:
                y = F.linear(y, self.matrix, -(self.matrix @ self.mean))
        return y.unflatten(1, x.shape[1:]) if x.ndim > 2 else y

    def normalised(self, flat: Tensor) -> Tensor:
        """The image's own contrast normalised, (N, D)."""
        return flat if self.contrast is None else F.layer_norm(flat, flat.shape[1:], eps=self.contrast)


@edit("image-transform")
def image_transform(old: nn.Module, *, numbers: int, contrast: float | None, mixes: bool) -> nn.Module:
    """The module with a transform in front of it."""
    return nn.Sequential(ImageTransform(numbers, contrast, mixes), old)


@dataclass(frozen=True)
class Preprocess(Step):
    """Preprocess images by what all training images have in common; the model keeps it, and so does the packed file.

        x <- (x - m(x)) / sqrt(v(x) + contrast)        m, v: mean and variance over the image's own numbers
        "mean-image"    y = x - mean                   the mean over all training images, a number per pixel
        "decorrelate"   y = U^T (x - mean)             U S U^T: the covariance of the training images
        "pca"           y = S'^-1/2 U^T (x - mean)     PCA whitening, S' = S + epsilon
        "zca"           y = U S'^-1/2 U^T (x - mean)   ZCA whitening: as close to the images as whitened ones can be

    It comes behind the normalisation per channel that every data set has, whose mean and std recipes set as
    data: {preprocess: {mean: [0], std: [1]}}. Decorrelated and PCA whitened images have no neighbourhood: they are for
    networks that begin with a linear layer. The file holds (C H W)^2 numbers for the last three kinds.

    contrast   global contrast normalisation; null: none. 10 / 255^2 = 1.5e-4 of numbers in 0..1 is that of Coates, Lee,
               Ng 2011 (section 3.2.1, there of patches).
    kind       what else; null: nothing.
    epsilon    added to the variances before they divide; in the unit of the images' numbers, squared.

    Records: "preprocess" (numbers, variance in percent that the strongest 10, 100 and 1000 components hold).
    Raises BitwrightError for a setting that changes nothing and for images of more than 16,384 numbers.
    """

    name: ClassVar[str] = "preprocess"
    changes_layers: ClassVar[bool] = True
    paper: ClassVar[str] = "Krizhevsky 2009 (ZCA, appendix A); Coates, Lee, Ng, AISTATS 2011"

    contrast: float | None = None
    kind: Kind | None = "zca"
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in (None, *get_args(Kind)):
            raise unknown("preprocess: kind", self.kind, get_args(Kind))
        if self.kind is None and self.contrast is None:
            raise BitwrightError("preprocess: neither kind nor contrast is set, so nothing would change; set one")
        for name, value, least in (("contrast", self.contrast, 0.0), ("epsilon", self.epsilon, 0.0)):
            if value is not None and (isinstance(value, bool) or not least < value < 1e6):
                raise BitwrightError(f"preprocess: {name} is {value!r}; expected a number above 0", kind="setting")

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse images whose covariance would be too large."""
        numbers = data.train.images[0].size
        if self.kind not in (None, "mean-image") and numbers > _MOST_NUMBERS:
            raise BitwrightError(
                f"preprocess: images of {numbers:,} numbers have a covariance of {numbers:,}^2; expected at most "
                f"{_MOST_NUMBERS:,}: take smaller images, or kind: mean-image",
                kind="setting",
            )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        self.look_ahead(model, context.data)
        images = context.calibration(len(context.data.train))
        path = first_module(model, images[:1])
        mixes = self.kind not in (None, "mean-image")
        options: dict[str, Any] = {"numbers": images[0].numel(), "contrast": self.contrast, "mixes": mixes}
        transform = edits.replace(model, path, "image-transform", **options).get_submodule("0")
        assert isinstance(transform, ImageTransform)
        flat = torch.cat([transform.normalised(part.flatten(1)) for part in images.split(_BATCH)])
        if self.kind is not None:
            transform.mean.copy_(flat.double().mean(0))
        if transform.matrix is not None:
            variances, axes = components(flat - transform.mean)
            transform.matrix.copy_(mixer(variances, axes, self.kind, self.epsilon))
            share = variances.flip(0).cumsum(0) / variances.sum()
            held = {str(n): round(100 * float(share[n - 1]), 2) for n in (10, 100, 1000) if n <= len(share)}
            context.record("preprocess", {"numbers": len(variances), "variance": held})
        return model


def first_module(model: nn.Module, images: Tensor) -> str:
    """The path of the module without children that is given the images themselves.

    Raises BitwrightError where several are, or none.
    """
    found: list[str] = []
    handles = []
    for path, module in model.named_modules():
        if path and not list(module.children()):

            def look(module: nn.Module, inputs: tuple[Tensor, ...], path: str = path) -> None:
                if inputs and inputs[0] is images:
                    found.append(path)

            handles.append(module.register_forward_pre_hook(look))
    try:
        with torch.no_grad(), eval_mode(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    if len(set(found)) != 1:
        raise BitwrightError(
            f"preprocess: {len(set(found))} modules of {type(model).__name__} are given the images "
            f"({', '.join(found) or 'it uses functions on them'}); begin it with one layer that alone sees them",
            kind="input",
        )
    return found[0]


def components(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Variances, ascending, and axes as columns, of centred numbers (N, D); float64."""
    products = torch.zeros(centred.shape[1], centred.shape[1], dtype=torch.float64)
    for part in centred.split(_BATCH):
        products += part.T @ part
    variances, axes = torch.linalg.eigh(products / len(centred))
    return variances.clamp(min=0), axes


def mixer(variances: Tensor, axes: Tensor, kind: Kind | None, epsilon: float) -> Tensor:
    """W of the docstring of `Preprocess`, the strongest component first where they are apart."""
    if kind == "decorrelate":
        return axes.T.flip(0)
    whitened = axes.T / (variances + epsilon).sqrt()[:, None]
    return whitened.flip(0) if kind == "pca" else axes @ whitened
