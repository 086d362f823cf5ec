"""Where a training runs: one CPU, one GPU, the processes of `accelerate launch`; all through accelerate."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bitwright.training.history import Epoch

_RESIDENT_BYTES = 4 << 30
"""Data up to this size is kept on a GPU as a whole."""


class Devices:
    """One accelerator for one training, and what the loop wants from it."""

    def __init__(self, precision: str, folder: Path | None) -> None:
        AcceleratorState._reset_state()  # the training before may have had another precision
        options: dict[str, Any] = {"log_with": "tensorboard", "project_dir": str(folder)} if folder else {}
        # Every step uses the same layers. Without this, one that is never used would be an error.
        options["kwargs_handlers"] = [DistributedDataParallelKwargs(static_graph=True)]
        # Asked for GPUs where there are none, accelerate would take each process for the only one.
        cpu = not torch.accelerator.is_available()
        self._accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=cpu, **options)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.processes: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        self._folder = folder
        if self.processes == 1 and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
            warnings.warn(
                "`accelerate launch` was asked for several processes, but without GPUs it starts one unless it is "
                "told --multi_gpu, which starts them on CPUs, too",
                stacklevel=2,
            )

    @classmethod
    @contextlib.contextmanager
    def session(cls, model: nn.Module, precision: str, folder: Path | None) -> Iterator[Devices]:
        """Takes the model to where it is trained, and back: same device, layout, attributes and random state."""
        devices = cls(precision, folder)
        home = next((p.device for p in model.parameters()), torch.device("cpu"))
        attributes = set(vars(model))
        gpus = [devices.device] if devices.device.type == "cuda" else []
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.random.fork_rng(devices=gpus), exact:
            try:
                model.to(devices.device)
                if devices.wants_channels_last(model):
                    _lay_out(model, torch.channels_last)
                yield devices
            finally:
                for name in set(vars(model)) - attributes:
                    delattr(model, name)  # accelerate's own forward and marks
                _lay_out(model.to(home), torch.contiguous_format)

    def wants_channels_last(self, model: nn.Module) -> bool:
        """On CPUs, torch's convolutions are faster in this layout."""
        return self.device.type == "cpu" and any(isinstance(m, _ConvNd) for m in model.modules())

    def adopt(self, model: nn.Module) -> nn.Module:
        """A copy of a model that only looks on: on the device, in eval mode, in the layout of batches."""
        copied = copy.deepcopy(model).to(self.device).eval()
        if self.wants_channels_last(copied):
            _lay_out(copied, torch.channels_last)
        return copied

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The training's precision, for forward passes of models that were not prepared."""
        manager: contextlib.AbstractContextManager[Any] = self._accelerator.autocast()
        return manager

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """What to call instead of model and optimiser."""
        wrapped, stepper = self._accelerator.prepare(model, optimizer)
        return wrapped, stepper

    def keep(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors on the device if all of them fit there comfortably, else as they are."""
        fits = sum(t.nbytes for t in tensors) <= _RESIDENT_BYTES
        return tuple(t.to(self.device) for t in tensors) if fits else tensors

    def share(self, index: Tensor) -> tuple[Tensor, float]:
        """This process's part of a batch, and the factor that makes the mean over processes the batch's mean."""
        if self.processes == 1:
            return index, 1.0
        own = index[self.rank :: self.processes]
        if not len(own):
            return index[:1], 0.0
        return own, len(own) * self.processes / len(index)

    def backward(self, loss: Tensor) -> None:
        """Gradients, averaged over the processes."""
        self._accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], norm: float) -> None:
        """Scale the gradients down to this norm of all of them together."""
        self._accelerator.clip_grad_norm_(parameters, norm)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        return self._accelerator.reduce(tensor.to(self.device), "sum").cpu()

    def synchronise(self, model: nn.Module) -> None:
        """Give every process the first one's buffers (each saw other samples: their running means differ)."""
        if self.processes > 1:
            for buffer in model.buffers():
                buffer.copy_(broadcast(buffer))

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def start_tracking(self, epochs: list[Epoch]) -> None:
        """Begin TensorBoard files that hold exactly these epochs so far."""
        if self._folder is None:
            return
        if self.is_main:
            for old in (self._folder / "tensorboard").glob("events.out.tfevents.*"):
                old.unlink()
        self._accelerator.init_trackers("tensorboard")
        for epoch in epochs:
            self.track(epoch)

    def track(self, epoch: Epoch) -> None:
        """Log one epoch."""
        values = {
            "loss/train": epoch.train_loss,
            "loss/validation": epoch.validation_loss,
            "error/train": epoch.train_error,
            "error/validation": epoch.validation_error,
            "lr": epoch.lr,
        }
        self._accelerator.log(values, step=epoch.epoch)

    def finish_tracking(self) -> None:
        """Close the files (not the process group: further trainings may come)."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Only the tensors that have these layouts: `model.to` would refuse a model with 3-D convolutions."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)
