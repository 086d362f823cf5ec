"""The training loop: one for every step, device and number of processes.

    for each epoch e:  seed(e); permute; for each batch: forward, backward, penalties, clip, step; validate; checkpoint

All randomness of epoch e follows from (seed, label, e), so a checkpoint needs no random state and a training that was
killed ends with the same bits. The data lies in memory as it came (uint8 mostly); a batch is one `index_select` and the
preprocessing, with augmentation of views that were drawn for all samples when the epoch began. With n processes each
takes every n-th sample of the same permuted batch.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitwright.data.dataset import Dataset
from bitwright.errors import BitwrightError
from bitwright.training import augment, checkpoint, history
from bitwright.training.batchnorm import frozen_norms, reestimate, telling_of_single_samples
from bitwright.training.checkpoint import Checkpoint, Weights
from bitwright.training.checks import check, identity
from bitwright.training.devices import Devices
from bitwright.training.evaluate import as_tensor, eval_mode, predict_logits
from bitwright.training.history import Epoch, History
from bitwright.training.losses import Outputs, main_logits, make_loss, soft_targets, with_heads
from bitwright.training.optimizers import create_optimizer
from bitwright.training.penalties import Penalties
from bitwright.training.progress import Progress, default_progress
from bitwright.training.rounds import ONE, Round
from bitwright.training.schedules import factor
from bitwright.training.seeds import derive_seed
from bitwright.training.settings import TrainSettings
from bitwright.training.teacher import Teaching

_UPDATE_EVERY = 32
"""Batches between two updates of the progress bar: it must not cost time."""


def fit(
    model: nn.Module,
    data: Dataset,
    settings: TrainSettings,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    teacher: nn.Module | None = None,
    progress: Progress | None = None,
    label: str = "train",
    rounds: Sequence[Round] = ONE,
) -> History:
    """Train `model` in place on `data.train` and leave the selected weights in it.

    `folder` takes one checkpoint, metrics.jsonl and TensorBoard files. Called again with the same arguments and folder,
    an interrupted training goes on after its last finished epoch and ends with equal bits, a finished one is loaded.
    `seed` and `label` decide the order of samples, their views and dropout; `teacher` is needed where
    `settings.distill` is set. The model may carry parametrizations; it keeps its device and mode. Each batch goes
    through all `rounds`; what is validated, and left, is the first one's state. After an exception the model holds
    the weights it came with if there is a folder to go on from, else those of the last step.

    Raises BitwrightError for settings that don't fit model or data, a checkpoint of another training, and for a loss
    or weights that are no longer finite.
    """
    check(model, data, settings, teacher, label)
    measured = partial(_measured, model, data, settings, seed, label, rounds)
    if settings.epochs == 0:
        return measured(History())
    path = Path(folder) if folder is not None else None
    own = identity(model, data, settings, seed, label, teacher, rounds) if path else {}
    saved = checkpoint.read(path, own) if path else None
    start = checkpoint.frozen(model.state_dict()) if path else None
    try:
        if path and saved and saved.finished:
            model.load_state_dict(saved.model)
            epochs = history.with_seconds(saved.history, path)
            return measured(History(tuple(epochs), _selected(settings, epochs)))
        with Devices.session(model, settings.precision, path) as devices, eval_mode(model):
            training = _Training(model, data, settings, seed, label, devices, teacher, rounds)
            shown = (progress or default_progress()) if devices.is_main else Progress()
            past = training.run(path, own, saved, shown)
        return measured(past)  # not inside: its precision and layout would give other bits than a finished training
    except BaseException:
        if start is not None:
            model.load_state_dict(start)
        raise


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Where each batch begins and ends. A single sample left over joins the batch before (batch norm needs two)."""
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and batch_size > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


class _Training:
    """One training in progress: `train_epoch` and `validate` do the work, `run` keeps the books."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        settings: TrainSettings,
        seed: int,
        label: str,
        devices: Devices,
        teacher: nn.Module | None,
        rounds: Sequence[Round],
    ) -> None:
        self.model, self.data, self.settings, self.rounds = model, data, settings, rounds
        self.seed, self.label, self.devices = seed, label, devices
        self.images, self.labels = devices.keep(as_tensor(data.train.images), as_tensor(data.train.labels))
        self.bounds = batch_bounds(len(self.labels), settings.batch_size)
        self.loss = make_loss(settings)
        self.penalties = Penalties(model, settings.weight_decay, settings.l1)
        self.parametrized = any(parametrize.is_parametrized(m) for m in model.modules())
        self.channels_last = self.images.ndim == 4 and devices.wants_channels_last(model)
        self.teaching = None
        if teacher is not None and settings.distill is not None:
            seen = (self.images, self.labels, data.preprocess)
            self.teaching = Teaching(teacher, settings.distill, *seen, devices, fixed=settings.augment is None)
        self.views = augment.Views(settings.augment, as_tensor(data.train.images)) if settings.augment else None
        self.numbers: Tensor | None = None  # what decides the epoch's views
        self.optimizer = create_optimizer(settings.optimizer, model)
        self.lr = settings.optimizer.lr
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.frozen_norms = frozen_norms(model)
        self.wrapped, self.stepper = devices.prepare(model, self.optimizer)
        self.epochs: list[Epoch] = []
        self.best: Weights = {}

    def run(
        self, folder: Path | None, identity: dict[str, Any], saved: Checkpoint | None, progress: Progress
    ) -> History:
        """All epochs that are left."""
        self._check_weights("before")
        if folder:
            self._restore(saved, folder)
        self.devices.start_tracking(self.epochs)
        steps = len(self.bounds)
        progress.start(self.label, self.settings.epochs * steps, len(self.epochs) * steps)
        try:
            while not self._over():
                self._one_epoch(progress)
                if folder:
                    self._save(folder, identity)
                progress.epoch(self.epochs[-1])
        finally:
            progress.finish()
            self.devices.finish_tracking()
        if self.settings.select == "best":
            self.model.load_state_dict(self.best)
        return History(tuple(self.epochs), _selected(self.settings, self.epochs))

    def _over(self) -> bool:
        done, patience = len(self.epochs), self.settings.patience
        tired = patience is not None and done - history.best_epoch(self.epochs) >= patience
        return done >= self.settings.epochs or tired

    def _one_epoch(self, progress: Progress) -> None:
        begin, number = time.perf_counter(), len(self.epochs) + 1
        torch.manual_seed(derive_seed(self.seed, self.label, number, self.devices.rank))
        loss, error = self.train_epoch(number, progress)
        self._check_loss("the loss", loss, number)
        self._check_weights(f"in epoch {number} of")
        self.devices.synchronise(self.model)
        validation_loss, validation_error = self.validate()
        self._check_loss("the validation loss", validation_loss, number)
        seconds = round(time.perf_counter() - begin, 3)
        self.epochs.append(Epoch(number, loss, error, validation_loss, validation_error, self.lr, seconds))
        if self._newest_is_best():
            self.best = checkpoint.frozen(self.model.state_dict())
        progress.update(number * len(self.bounds), f"validation error {validation_error:.2f} %")

    def train_epoch(self, number: int, progress: Progress) -> tuple[float, float]:
        """Mean loss and error in percent over the samples, as they were trained on."""
        self.wrapped.train()
        for norm in self.frozen_norms:
            norm.eval()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.label, number, "order"))
        order = torch.randperm(len(self.labels), generator=generator).to(self.labels.device)
        if self.views is not None:
            seed = derive_seed(self.seed, self.label, number, "augment")
            self.numbers = self.views.draw(len(self.labels), seed).to(self.labels.device)
        past = [epoch.validation_loss for epoch in self.epochs]
        steps, schedule = len(self.bounds), self.settings.schedule
        figures: list[Tensor] = []  # summed up at the end: nothing waits for a single step's loss
        for i, (first, last) in enumerate(self.bounds):
            scale = factor(schedule, number - 1 + i / steps, self.settings.epochs, past, 1 / steps)
            self.lr = self.settings.optimizer.lr * scale
            for group in self.stepper.param_groups:
                group["lr"] = group["initial_lr"] * scale
            figures.append(self._step(order[first:last]))
            if i % _UPDATE_EVERY == 0:
                progress.update((number - 1) * steps + i)
        loss, wrong = self.devices.sum(torch.stack(figures).double().sum(0)).tolist()
        return loss / len(self.labels), 100.0 * wrong / len(self.labels)

    def _step(self, index: Tensor) -> Tensor:
        """One optimiser step; gives the summed loss and the number of errors of this process's samples."""
        own, share = self.devices.share(index)
        x, y = self._batch(own), self.labels.index_select(0, own).to(self.devices.device)
        soft = self.teaching.targets(own, x) if self.teaching else None
        figures: list[Tensor] = []

        def closure() -> Tensor:
            with contextlib.ExitStack() as inside:
                if self.parametrized:
                    inside.enter_context(parametrize.cached())
                if self.teaching is not None:
                    inside.enter_context(self.teaching.watching(self.model))
                self.stepper.zero_grad()
                self.penalties.watch()
                logits, loss = self._forward(x, y, soft)
                self.devices.backward(loss * share if share != 1.0 else loss)
            self.penalties.add_to_gradients()
            if self.settings.clip_norm is not None:
                self.devices.clip(self.trainable, self.settings.clip_norm)
            if not figures:
                wrong = (logits.argmax(1) != y).sum()
                figures.append(torch.stack((loss.detach() * len(y), wrong)) * float(share > 0))
            return loss

        with telling_of_single_samples(self.settings.batch_size):
            if isinstance(self.optimizer, torch.optim.LBFGS):
                self.stepper.step(closure)
            else:
                closure()
                self.stepper.step()
        return figures[0]

    def _batch(self, index: Tensor) -> Tensor:
        images = self.images.index_select(0, index).to(self.devices.device)
        if self.views is not None and self.numbers is not None:
            images = self.views(images, self.numbers.index_select(0, index).to(self.devices.device))
        x: Tensor = self.data.preprocess.torch(images)
        return x.to(memory_format=torch.channels_last) if self.channels_last else x

    def _forward(self, x: Tensor, y: Tensor, soft: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of the first round, without their gradient, and the loss of all rounds."""
        found: list[Tensor] = []
        losses: list[Tensor] = []
        for one in self.rounds:
            one.begin()
            outputs = self.wrapped(x)
            if one.follows and found:
                loss = soft_targets(main_logits(outputs), found[-1], 1.0)
            else:
                loss = self._objective(outputs, y, soft)
            losses.append(loss if one.weight == 1 else one.weight * loss)
            found.append(main_logits(outputs).detach())
        return found[0], torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _objective(self, outputs: Outputs, labels: Tensor, soft: Tensor | None) -> Tensor:
        """With auxiliary heads, without the penalties, whose gradients are added apart."""
        hard = with_heads(self.loss, outputs, labels)
        if self.teaching is None or soft is None:
            return hard
        return self.teaching.mixed(hard, main_logits(outputs), soft, labels)

    def validate(self) -> tuple[float, float]:
        """Mean loss on the labels and error in percent; every process takes its share of the images."""
        split, part = self.data.validation, slice(self.devices.rank, None, self.devices.processes)
        labels = as_tensor(split.labels[part])
        self.rounds[0].begin()
        sums = torch.zeros(2, dtype=torch.float64)
        if len(labels):
            logits = predict_logits(self.model, as_tensor(split.images[part]), self.data.preprocess)
            sums[0] = self.loss(logits, labels) * len(labels)
            sums[1] = (logits.argmax(1) != labels).sum()
        loss, wrong = self.devices.sum(sums).tolist()
        return loss / len(split), 100.0 * wrong / len(split)

    def _newest_is_best(self) -> bool:
        return self.settings.select == "best" and _selected(self.settings, self.epochs) == len(self.epochs)

    def _restore(self, saved: Checkpoint | None, folder: Path) -> None:
        if saved is not None:
            self.model.load_state_dict(saved.model)
            self.epochs = history.with_seconds(saved.history, folder)
            self.best = checkpoint.frozen(self.model.state_dict()) if self._newest_is_best() else saved.best
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": saved.optimizer, "param_groups": groups})
            self._match_layout()
        if self.devices.is_main:
            history.rewrite_metrics(folder, self.epochs)

    def _match_layout(self) -> None:
        """Lay the optimiser's state out as the parameters are: mixed layouts would be slow."""
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.dtype == parameter.dtype:
                    state[name] = torch.empty_like(parameter).copy_(value).detach()

    def _save(self, folder: Path, identity: dict[str, Any]) -> None:
        """The checkpoint first: a line of metrics that a kill loses is written again on resuming."""
        if self.devices.is_main:
            now = Checkpoint(identity, history.timeless(self.epochs), self._over(), self.model.state_dict())
            if now.finished:
                now.model = self.best or now.model
            else:
                now.best = {} if self._newest_is_best() else self.best
                now.optimizer = self.optimizer.state_dict()["state"]
            checkpoint.write(folder, now)
            history.append_metrics(folder, self.epochs[-1])
        self.devices.track(self.epochs[-1])
        self.devices.wait()

    def _check_loss(self, what: str, loss: float, number: int) -> None:
        if not math.isfinite(loss):
            raise BitwrightError(
                f"{what} is {loss} in epoch {number} of {self.label!r}: the training has diverged; {self._remedy()}",
                kind="diverged",
            )

    def _check_weights(self, when: str) -> None:
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                bad = tensor[~tensor.isfinite()][0].item()
                remedy = self._remedy() if when != "before" else "start from weights that are finite"
                raise BitwrightError(f"{name} holds {bad} {when} {self.label!r}; {remedy}", kind="diverged")

    def _remedy(self) -> str:
        lr, clip = self.settings.optimizer.lr, self.settings.clip_norm
        clipping = "clip_norm=1.0" if clip is None else f"a clip_norm below {clip:g}"
        return f"try a smaller learning rate (lr={lr / 10:g} instead of {lr:g}) or {clipping}"


def _measured(
    model: nn.Module,
    data: Dataset,
    settings: TrainSettings,
    seed: int,
    label: str,
    rounds: Sequence[Round],
    past: History,
) -> History:
    """The end of every training: batch norms are measured anew where that is wanted, on views as it was trained on.

    The images themselves would not do: without the black borders of crops the first variances are others by half.
    """
    if settings.norm_images:
        images = as_tensor(data.sample(settings.norm_images).images)
        if settings.augment is not None:
            views = augment.Views(settings.augment, as_tensor(data.train.images))
            images = views(images, views.draw(len(images), derive_seed(seed, label, "norms")))
        reestimate(model, images, data.preprocess, rounds=rounds)
    rounds[0].begin()
    return past


def _selected(settings: TrainSettings, epochs: list[Epoch]) -> int:
    """The number of the epoch whose weights are to be kept; 0 before the first that may be."""
    if settings.select == "last":
        return len(epochs)
    among = max(1, round(settings.select_among * settings.epochs))
    return history.best_epoch(epochs[settings.epochs - among :])
