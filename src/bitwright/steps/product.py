"""Product quantisation: short runs of weights that share a few values each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.steps.codebook import Codebook
from bitwright.steps.layers import check_count, per_layer, plain_layers, weight_of
from bitwright.steps.masks import attach, detach
from bitwright.steps.step import Step
from bitwright.training.seeds import derive_seed
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

_WIDTHS = range(2, 9)
"""That FORMAT.md 4.7 looks for."""
_AT_ONCE = 1 << 25
"""Distances that are held in memory together."""


@dataclass(frozen=True)
class Product(Step):
    """Let runs of d weights that rows have in the same columns share K values (Gong et al. 2014; Jegou et al. 2011).

        W = [W_1 ... W_s],  W_g of d columns;   rows of W_g -> nearest of K centroids of k-means on them
        rate of T x S weights: 32 T S / (T (S / d) log2 K + 32 K S)

    Inputs of a linear layer or a 1 x 1 convolution; d = 2 and K = 16 are 2 bits a weight, 1/16 for wide layers, and
    the engine computes such linear layers by looking up 16 products for every two inputs (FORMAT.md 4.7).

    layers, ignore   which layers; the linear ones.
    width            d, 2 to 8; columns that are left over at the end are a run of their own, as are all those of
                     a layer with fewer.
    centroids        K, 2 to 256, a number or a mapping from patterns.
    iterations       of k-means at most, from rows drawn at random (k-means++).
    train            a training of the centroids (with biases and norms; codes stay), or null for none: the gradient of
                     a value is the sum over all weights that share it.

    Records: "product" (per layer: weights, runs, centroids, squared error relative to the weights' squares).
    """

    name: ClassVar[str] = "product"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Gong et al., 2014"

    layers: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ()
    width: int = 2
    centroids: int | dict[str, int] = 16
    iterations: int = 50
    train: TrainSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.width) is not int or self.width not in _WIDTHS:
            raise BitwrightError(
                f"product: width is {self.width!r}; expected {min(_WIDTHS)} to {max(_WIDTHS)} columns, which files can "
                "store; for single weights take `share`",
                kind="setting",
            )
        check_count("product: iterations", self.iterations, 1)
        if self.centroids == {}:
            raise BitwrightError(
                "product: centroids is an empty mapping; expected a number for each layer", kind="setting"
            )
        for count in self.centroids.values() if isinstance(self.centroids, dict) else [self.centroids]:
            if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= 256:
                raise BitwrightError(f"product: centroids is {count!r}; expected 2 to 256", kind="setting")

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse kernels that are no matrices, and centroids for other layers."""
        chosen = plain_layers(model, self.layers, self.ignore)
        for name, layer in chosen.items():
            _matrix(name, layer)
        per_layer(self.centroids, chosen, "product: centroids")

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = plain_layers(model, self.layers, self.ignore)
        counts = per_layer(self.centroids, chosen, "product: centroids")
        found, rows = {}, []
        for name, layer in chosen.items():
            matrix = _matrix(name, layer)
            seed = derive_seed(context.seed, "product", name)
            books, codes = quantise(matrix, self.width, counts[name], self.iterations, seed)
            found[name] = books, codes
            rows.append(self._row(name, matrix, looked_up(books, codes, matrix.shape[1]), counts[name]))
        with _trained(chosen, found):
            if self.train is not None:
                context.train(model, self.train)
        context.record("product", rows)
        return model

    def _row(self, name: str, matrix: Tensor, found: Tensor, count: int) -> dict[str, Any]:
        error = float((found - matrix).square().sum() / matrix.square().sum().clamp(min=1e-30))
        runs = -(-matrix.shape[1] // self.width)
        return {"layer": name, "weights": matrix.numel(), "runs": runs, "centroids": count, "error": error}


def quantise(matrix: Tensor, width: int, count: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Centroids (s, K, d) of each run of columns of a matrix (T, S), and the code of each row, (T, s), int64.

    Columns beyond the last are zero. K is at most T: no more are needed.
    """
    rows, columns = matrix.shape
    unit = torch.exp2(torch.log2(matrix.abs().max().clamp(min=1e-30)).floor())  # squares of any weights stay finite
    padded = torch.nn.functional.pad(matrix / unit, (0, -columns % width))
    runs = padded.view(rows, -1, width).transpose(0, 1).contiguous()  # (s, T, d)
    count = min(count, rows)
    generator = torch.Generator().manual_seed(seed)
    books, codes = [], []
    for part in runs.split(max(_AT_ONCE // (rows * count), 1)):
        book, code = _k_means(part, count, iterations, generator)
        books.append(book)
        codes.append(code)
    return torch.cat(books) * unit, torch.cat(codes).T.contiguous()


def looked_up(books: Tensor, codes: Tensor, columns: int) -> Tensor:
    """The matrix (T, columns) of centroids (s, K, d) and codes (T, s)."""
    return books[torch.arange(len(books)), codes].flatten(1)[:, :columns]


def _k_means(points: Tensor, count: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of many sets of points (s, T, d) at once: centroids (s, count, d) and codes (s, T)."""
    books = _spread_start(points, count, generator)
    codes = torch.full(points.shape[:2], -1)
    for _ in range(iterations):
        before, codes = codes, _distances(points, books).argmin(2)
        if torch.equal(before, codes):
            break
        sums = torch.zeros_like(books).scatter_add_(1, codes[:, :, None].expand_as(points), points)
        sizes = torch.zeros(books.shape[:2]).scatter_add_(1, codes, torch.ones(codes.shape))
        books = torch.where(sizes[:, :, None] > 0, sums / sizes[:, :, None].clamp(min=1), books)
    return books, _distances(points, books).argmin(2)


def _distances(points: Tensor, books: Tensor) -> Tensor:
    """Squared, (s, T, K), up to what is the same for all centroids."""
    return books.square().sum(2)[:, None] - 2 * points @ books.mT


def _spread_start(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur, Vassilvitskii 2007): points drawn by their squared distances to the centroids so far."""
    sets = torch.arange(len(points))
    first = torch.randint(points.shape[1], (len(points),), generator=generator)
    books = [points[sets, first]]
    nearest = (points - books[0][:, None]).square().sum(2)
    for _ in range(count - 1):
        drawn = torch.multinomial(nearest + 1e-30, 1, generator=generator)[:, 0]
        books.append(points[sets, drawn])
        nearest = torch.minimum(nearest, (points - books[-1][:, None]).square().sum(2))
    return torch.stack(books, 1)


def _matrix(name: str, layer: nn.Module) -> Tensor:
    weight = weight_of(layer).detach()
    if weight[0].numel() != weight.shape[1] or getattr(layer, "groups", 1) > 1:
        raise BitwrightError(
            f"product: layer {name!r} has kernels of {tuple(weight.shape[2:])} or groups; take linear layers and 1 x 1 "
            "convolutions, and `ignore` others",
            kind="setting",
        )
    return weight.flatten(1).float()


@contextlib.contextmanager
def _trained(layers: dict[str, nn.Module], found: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """While inside, weights are looked up in the centroids, which are what an optimiser finds."""
    for name, layer in layers.items():
        weight = weight_of(layer)
        books, codes = found[name]
        runs, count, width = books.shape
        places = (torch.arange(runs) * count + codes)[:, :, None] * width + torch.arange(width)
        places = places.flatten(1)[:, : weight.shape[1]].reshape(weight.shape)
        attach(layer, "weight", Codebook(books.flatten().to(weight.device), (places + 1).to(weight.device)))
    try:
        yield
    finally:
        for layer in layers.values():
            detach(layer, "weight")
