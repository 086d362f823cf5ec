"""A float32 network in onnxruntime's int8, tuned as its guides advise: the peer of low precision.

Its own pre-processing (which folds batch norm), then static quantisation: uint8 activations, int8 weights per channel,
the ranges of the activations from example inputs. There are two forms of the result, and either may be the faster one.
S8S8 is much slower on x86 and no peer. Only speed is compared: how accurate such a network is depends on its training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError

Array = np.ndarray
FORMATS = ("QDQ", "QOperator")


def quantized(model: bytes, feeds: Sequence[Mapping[str, Array]]) -> dict[str, bytes]:
    """A serialised float32 ONNX model in both forms of int8; `feeds` are example inputs by name.

    Needs onnx and onnxruntime. Raises `BitwrightError` (kind "no-peer") where onnxruntime can't quantise it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    found = {}
    with TemporaryDirectory() as folder, _quiet():
        given, ready, made = (Path(folder, f"{name}.onnx") for name in ("given", "ready", "made"))
        given.write_bytes(model)
        try:
            # symbolic shapes are for transformers, and need sympy
            quant_pre_process(given, ready, skip_symbolic_shape=True)
            for name in FORMATS:
                quantize_static(
                    ready,
                    made,
                    _reader(feeds),
                    quant_format=QuantFormat[name],
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )
                found[name] = made.read_bytes()
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise BitwrightError(
                f"no int8 peer: onnxruntime does not quantise the model: {error}", kind="no-peer"
            ) from error
    return found


def _reader(feeds: Sequence[Mapping[str, Array]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self.left, None)

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's tools speak to the root logger, about things that were chosen on purpose."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
