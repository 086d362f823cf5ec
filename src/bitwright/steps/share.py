"""Weight sharing: few values per layer, trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.measure.size import entropy_bits
from bitwright.steps.clusters import Clusters, Initial, cluster
from bitwright.steps.codebook import Codebook
from bitwright.steps.dropout import follow, scaled_dropout
from bitwright.steps.half import to_half
from bitwright.steps.layers import per_layer, plain_layers, weight_of
from bitwright.steps.masks import attach, attached, detach, holding_zeros
from bitwright.steps.step import Step, select_layers
from bitwright.training.seeds import derive_seed
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

_RETRAIN = TrainSettings(
    epochs=6, batch_size=256, optimizer=Optimizer("Adam", 1e-3, {}), schedule=Schedule("cosine"), weight_decay=0.0
)


@dataclass(frozen=True)
class Share(Step):
    """Let the weights of a layer share K values, and train those values (Han, Mao, Dally 2016, section 3).

        k(i) = argmin_k (w_i - c_k)^2,  c_k = mean of w_i with k(i) = k   (k-means on the non-zero weights, zeros apart)
        w_i  = c_{k(i)},                dL/dc_k = sum_{i: k(i) = k} dL/dw_i            (assignments fixed from here on)

    Bits per weight: log2 K per non-zero weight and 32 K (16 K with `half_codebook`) per layer for the codebook, so
    the rate of a dense layer of n weights is 32 n / (n log2 K + 32 K); an entropy coder gets below log2 K.

    bits            K = 2^bits: a number, or a mapping from layer patterns to numbers (a path, "conv*", "Linear",
                    "re:..", "*"). Default: the paper's 8 bits for convolutions and 5 for linear layers (section 5).
    clusters        K itself, number or mapping, instead of `bits`: e.g. 31 where a 5-bit code must have a zero.
    initial         "linear" (best in the paper, figure 6: large weights keep values of their own), "density", "random".
    entropy         lambda of entropy-constrained quantisation (Choi, El-Khamy, Lee 2017, section 4), number or mapping:
                    k(i) = argmin_k (w_i - c_k)^2 - lambda var(w) log2 p_k. Frequent values attract more weights, rare
                    ones disappear (K is then the most there can be): a smaller file at equal distortion. A good start
                    is 0.02: at a high rate of R bits lambda is 2 ln 2 D/var, 0.013 for the best 16 values of a normal
                    distribution (D/var = 0.0095); 0 is k-means.
    gradient        "sum" over the cluster, as in the paper, or "mean". With SGD a sum over thousands of weights needs
                    a learning rate 1e-4 to 1e-3 of the usual; Adam does not care.
    retrain         settings for training the codebooks (with biases and norms); None leaves them as k-means found them.
    bias_bits       also let each of these layers' biases share 2^bits values (zeros apart); None leaves biases alone.
    half_codebook   round the values to float16 at the end, so that the file holds 2 bytes for each.
    dropout         "scaled": D_r = D_o sqrt(C_r / C_o) while training, as in `prune`; "keep" leaves it, "off" does
                    without.

    Records: "sharing" (per layer: weights, non-zeros, values, entropy of the codes in bits, distortion relative to the
    variance, codebook before and after training).

    Defaults: 6 epochs of Adam from 1e-3 down, batch 256, by trial on LeNet-300-100; the rest is the paper's.

    References: Han, Mao, Dally, "Deep Compression", ICLR 2016; Choi, El-Khamy, Lee, "Towards the Limit of Network
    Quantization", ICLR 2017.
    """

    name: ClassVar[str] = "share"
    paper: ClassVar[str] = "Han et al., ICLR 2016"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    bits: int | dict[str, int] = field(default_factory=lambda: {"Linear": 5, "*": 8})
    clusters: int | dict[str, int] | None = None
    initial: Initial = "linear"
    entropy: float | dict[str, float] = 0.0
    gradient: Literal["sum", "mean"] = "sum"
    retrain: TrainSettings | None = field(default_factory=lambda: _RETRAIN)
    bias_bits: int | None = None
    half_codebook: bool = False
    dropout: Literal["scaled", "keep", "off"] = "scaled"

    def __post_init__(self) -> None:
        super().__post_init__()
        for bits in _numbers(self.bits) + ([] if self.bias_bits is None else [self.bias_bits]):
            if isinstance(bits, bool) or not isinstance(bits, int) or not 0 <= bits < 16:
                raise _wrong("bits", bits, "a whole number from 0 to 15")
        for clusters in [] if self.clusters is None else _numbers(self.clusters):
            if isinstance(clusters, bool) or not isinstance(clusters, int) or not 1 <= clusters <= 65535:
                raise _wrong("clusters", clusters, "a whole number from 1 to 65535")
        for value in _numbers(self.entropy):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise _wrong("entropy", value, "a number of at least 0")

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse clusters and penalties for other layers."""
        self._counts(plain_layers(model, self.layers, self.ignore))

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        layers = plain_layers(model, self.layers, self.ignore)
        others = {name: layer for name, layer in select_layers(model).items() if name not in layers}
        found = self._cluster(layers, context.seed)
        kept = {name: float((weight_of(layer) != 0).float().mean()) for name, layer in layers.items()}
        shares = self._shares(layers, found)
        with holding_zeros(others), scaled_dropout(model, layers) as dropout, _codebooks(shares, self.gradient):
            follow(dropout, self.dropout, kept)
            if self.retrain:
                context.train(model, self.retrain)
            if self.half_codebook:
                _halve(shares)
        context.record("sharing", [_row(name, layers[name], *found[name]) for name in layers])
        return model

    def _counts(self, layers: dict[str, nn.Module]) -> tuple[dict[str, int], dict[str, float]]:
        """Clusters and penalty of each layer."""
        penalties = per_layer(self.entropy, layers, "entropy")
        if self.clusters is not None:
            return per_layer(self.clusters, layers, "clusters"), penalties
        return {name: 1 << bits for name, bits in per_layer(self.bits, layers, "bits").items()}, penalties

    def _cluster(self, layers: dict[str, nn.Module], seed: int) -> dict[str, tuple[Clusters, float]]:
        """For each layer its clusters and how far they are from the weights, relative to these weights' variance."""
        counts, penalties = self._counts(layers)
        found = {}
        for name, layer in layers.items():
            weight = _array(weight_of(layer))
            clusters = cluster(
                weight,
                counts[name],
                initial=self.initial,
                entropy=penalties[name],
                seed=derive_seed(seed, "share", name),
            )
            found[name] = clusters, distortion(weight, clusters)
        return found

    def _shares(
        self, layers: dict[str, nn.Module], found: dict[str, tuple[Clusters, float]]
    ) -> list[tuple[nn.Module, str, Clusters]]:
        """All tensors to share: module, name of the tensor, its clusters."""
        shares = [(layer, "weight", found[name][0]) for name, layer in layers.items()]
        if self.bias_bits is not None:
            biases = [(layer, layer.bias) for layer in layers.values() if isinstance(layer.bias, Tensor)]
            shares += [(layer, "bias", cluster(_array(bias), 1 << self.bias_bits)) for layer, bias in biases]
        return shares


def distortion(weights: np.ndarray, clusters: Clusters) -> float:
    """Mean squared error over the non-zero weights, relative to their variance (0 where that is 0)."""
    kept = weights != 0
    values = weights[kept].astype(np.float64)
    variance = float(values.var()) if values.size else 0.0
    if not variance:
        return 0.0
    return float(np.mean((values - clusters.weights()[kept]) ** 2)) / variance


@contextmanager
def _codebooks(shares: list[tuple[nn.Module, str, Clusters]], gradient: str) -> Iterator[None]:
    """While inside, the tensors are looked up in codebooks, which are what an optimiser finds."""
    for module, tensor, clusters in shares:
        book, codes = torch.tensor(clusters.codebook), torch.from_numpy(clusters.codes.astype(np.int32))
        device = getattr(module, tensor).device
        attach(module, tensor, Codebook(book.to(device), codes.to(device), mean=gradient == "mean"))
    try:
        yield
    finally:
        for module, tensor, _ in shares:
            detach(module, tensor)


def _halve(shares: list[tuple[nn.Module, str, Clusters]]) -> None:
    """Round the codebooks to float16 values."""
    for module, tensor, _ in shares:
        book = attached(module, tensor)[1]
        with torch.no_grad():
            book.copy_(to_half(book, f"a codebook of {type(module).__name__}"))


def _row(name: str, layer: nn.Module, clusters: Clusters, error: float) -> dict[str, Any]:
    counts = np.bincount(clusters.codes.reshape(-1), minlength=len(clusters.codebook) + 1)[1:]
    trained = np.unique(_array(weight_of(layer)))
    return {
        "layer": name,
        "weights": int(clusters.codes.size),
        "kept": int(counts.sum()),
        "values": len(clusters.codebook),
        "code_entropy": entropy_bits(counts) / max(1, int(counts.sum())),
        "distortion": error,
        "codebook": clusters.codebook.tolist(),
        "trained": trained[trained != 0].tolist(),
    }


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _numbers(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]


def _wrong(field: str, found: object, expected: str) -> BitwrightError:
    return BitwrightError(f"share: {field} is {found!r}; expected {expected}", kind="setting")
