"""What the training minimises: (logits, labels) -> mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.training.settings import Distill, TrainSettings

Loss = Callable[[Tensor, Tensor], Tensor]
SoftLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

Outputs = Tensor | tuple[Tensor, ...]
"""What a model in training gives: logits (N, K), perhaps with those of auxiliary heads behind them."""

AUXILIARY_WEIGHT = 0.3
"""Of the loss of an auxiliary head (Szegedy et al. 2014, "Going deeper with convolutions", section 5)."""


def main_logits(outputs: Outputs) -> Tensor:
    """Those that the model will give when it is trained."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def with_heads(loss: Loss, outputs: Outputs, labels: Tensor) -> Tensor:
    """The loss of the logits, and `AUXILIARY_WEIGHT` times that of each auxiliary head."""
    total = loss(main_logits(outputs), labels)
    for head in outputs[1:] if isinstance(outputs, tuple) else ():
        total = total + AUXILIARY_WEIGHT * loss(head, labels)
    return total


def make_loss(settings: TrainSettings) -> Loss:
    """The loss on the labels that the settings name. Logits are (N, K) float, labels (N,) int64."""
    if settings.loss == "squared-error":
        return squared_error
    if settings.loss == "squared-hinge":
        return squared_hinge
    return partial(F.cross_entropy, label_smoothing=settings.label_smoothing)


def make_soft_loss(distill: Distill, spread: Tensor | float = 1.0) -> SoftLoss:
    """The loss on the teacher's logits, (student (N, K), teacher (N, K), labels (N,)) -> mean over the batch.

    `spread` (K,) divides the differences of a regression (see `spread_of`).
    """
    if distill.kind == "soft":
        return lambda student, teacher, _: soft_targets(student, teacher, distill.temperature)
    if distill.kind == "dkd":
        return partial(decoupled, temperature=distill.temperature, others=distill.others)
    of = _REGRESSED[distill.kind]
    return lambda student, teacher, _: squared_difference(of(student) / spread, of(teacher) / spread)


def spread_of(distill: Distill, logits: Tensor) -> Tensor:
    """The standard deviation of what a regression is on, for each class (K,), over the teacher's logits (N, K)."""
    return _REGRESSED[distill.kind](logits).std(0).clamp(min=1e-6)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


_REGRESSED: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits,
    "centred": _centred,
    "log-probabilities": partial(torch.log_softmax, dim=1),
}


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """1/(2N) sum_n ||z_n - onehot(y_n)||^2: targets are 0 and 1."""
    return squared_difference(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """1/(NK) sum max(0, 1 - t z)^2 with t = +1 for the class and -1 for the others.

    The L2-SVM loss of BinaryConnect (Courbariaux et al. 2015, section 3.1), mean over samples *and* classes as there.
    """
    signs = F.one_hot(labels, logits.shape[1]).to(logits.dtype) * 2 - 1
    return (1 - signs * logits).clamp(min=0).square().mean()


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """1/(2N) sum_n ||z_s - z_t||^2 (Ba & Caruana 2014, equation 1)."""
    return (student - teacher).square().sum() / (2 * len(student))


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2/N sum_n KL(softmax(z_t/T) || softmax(z_s/T)) (Hinton et al. 2015, section 2).

    T^2 keeps the gradient's size independent of T.
    """
    soft = torch.log_softmax(teacher / temperature, dim=1)
    guess = torch.log_softmax(student / temperature, dim=1)
    return F.kl_div(guess, soft, reduction="batchmean", log_target=True) * temperature**2


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, others: float) -> Tensor:
    """T^2/N sum_n (KL(b_t || b_s) + others KL(q_t || q_s)) (Zhao et al. 2022, equation 7).

    With p = softmax(z/T) and y the label: b = (p_y, 1 - p_y), q = p without p_y, scaled to sum 1. Their alpha is 1.
    """
    label = F.one_hot(labels, student.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        """log b (N, 2) and log q (N, K - 1)."""
        z = logits / temperature
        rest = z[~label].view(len(z), -1)
        whole, among = z.logsumexp(1, keepdim=True), rest.logsumexp(1, keepdim=True)
        return torch.cat((z[label][:, None] - whole, among - whole), 1), rest - among

    pairs = zip(parts(student), parts(teacher), strict=True)
    binary, rest = (F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in pairs)
    return (binary + others * rest) * temperature**2
