"""Types of the native extension. See native/bindings.cc for what each function checks."""

import numpy as np

# --- coders (native/bind_coders.cc): contiguous arrays of one dimension; symbols, frequencies uint16, lengths uint8.
# Decoders raise ValueError on bytes that break FORMAT.md section 5.

def huffman_encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes: ...
def huffman_decode(data: bytes, lengths: np.ndarray, count: int) -> np.ndarray: ...
def rans_encode(symbols: np.ndarray, frequencies: np.ndarray, precision: int, lanes: int) -> bytes: ...
def rans_decode(data: bytes, frequencies: np.ndarray, precision: int, lanes: int, count: int) -> np.ndarray: ...
def context_encode(
    grid: np.ndarray, lines: int, length: int, stride: int, magnitude_bits: int, nonzeros: int
) -> bytes: ...
def context_decode(
    data: bytes, lines: int, length: int, stride: int, magnitude_bits: int, nonzeros: int
) -> np.ndarray: ...

# --- levels (native/bind_cpu.cc): BITWRIGHT_CPU, one of isa_names(), narrows the instruction set; set_isa(name)
# does so in a test, set_isa(None) undoes it. ValueError for other names and those beyond this machine.

def cpu_features() -> dict[str, bool]: ...
def isa() -> str: ...
def isa_names() -> list[str]: ...
def set_isa(name: str | None) -> None: ...

# --- operations (native/bind_operations.cc): calls whose weights, geometry and kernel are bound when they are made. The
# constructors copy their arrays (float32 of one entry per channel) and raise ValueError; native/codes.h has the layouts
# and native/finish.h the order of inputs and outputs.

class CodeLayout:
    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        groups: int = 1,
        *,
        top: int = 0,
        left: int = 0,
        bottom: int = 0,
        right: int = 0,
        planes: int = 1,
    ) -> None: ...
    @property
    def image_bytes(self) -> int: ...

class Encode:  # kind: "sign" or "quantize"
    def __init__(
        self,
        kind: str,
        layout: CodeLayout,
        *,
        scale: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        reciprocal: float = 1.0,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None: ...

class Prelu:  # z = x * scale + shift, then (z >= 0 ? z : z * slope) * after_scale + after_shift
    def __init__(
        self,
        slope: np.ndarray,
        *,
        scale: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        after_scale: np.ndarray | None = None,
        after_shift: np.ndarray | None = None,
    ) -> None: ...

class Finish:
    def __init__(
        self,
        channels: int,
        *,
        multiplier: np.ndarray | None = None,
        negative: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        residual: bool = False,
        relu: bool = False,
        prelu: Prelu | None = None,
        limits: tuple[float, float] | None = None,
        out: bool = True,
        encode: Encode | None = None,
    ) -> None: ...

class Window:
    def __init__(
        self,
        image: tuple[int, int],
        in_c: int,
        out_c: int,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> None: ...
    @property
    def output(self) -> list[int]: ...  # height, width, channels

class Operation:
    @property
    def kernel(self) -> str: ...  # what runs: "conv2d avx512"
    @property
    def weight_bytes(self) -> int: ...
    @property
    def input_bytes(self) -> list[int]: ...
    @property
    def output_bytes(self) -> list[int]: ...

# Can compute some rows of its floats by themselves.
class RowOperation(Operation): ...

# Inputs are contiguous arrays of batch * input_bytes[i] bytes, results uint8 arrays of batch * output_bytes[i].
# RuntimeError if the operation wrote beyond them.
def run_operation(
    operation: Operation, inputs: list[np.ndarray], batch: int = 1, threads: int = 1
) -> list[np.ndarray]: ...

# Called with a count: seconds per run of so many runs, on the lists of inputs in turn, whose buffers are made before.
# One thread is timed by its own CPU time.
class Stopwatch:
    def __init__(
        self, operation: Operation, inputs: list[list[np.ndarray]], batch: int = 1, threads: int = 1
    ) -> None: ...
    def __call__(self, repeats: int) -> float: ...

# --- bits (native/bind_bits.cc)

# Floats [height, width, channels] of the encode's layout to codes.
class EncodeOp(Operation):
    def __init__(self, encode: Encode) -> None: ...

# Images as callers hand them, channels first, of at most 4 channels, to bytes: of floats, or of bytes divided by 255.
class EncodeImageOp(Operation):
    def __init__(self, encode: Encode, uint8: bool = False) -> None: ...

# Max pooling; the layouts differ in size and margins only. Codes outside the image don't count. `out` may be one larger
# than the window's output, as in ceil mode.
class PoolCodesOp(Operation):
    def __init__(self, window: Window, x: CodeLayout, out: CodeLayout, least: list[bool] = ...) -> None: ...

# x: planes of codes u, activations m = low + step * u (step 1 or 2), outside the image m = padding. weights: int8
# [O, C / groups, kernel_h, kernel_w], at most 8 in magnitude, 1 where finish has `negative`. `kernel` names one
# other than the best of the level ("plain avx2": what bench_binary_avx2.py compares avx2 with).
class BitConvOp(Operation):
    def __init__(
        self,
        window: Window,
        x: CodeLayout,
        low: int,
        step: int,
        weights: np.ndarray,
        padding: int = 0,
        *,
        finish: Finish,
        kernel: str = "",
    ) -> None: ...

# Operations per second (two per pair of bits) of the inner step of the popcount kernels on registers and L1 alone.
def popcount_peak() -> float: ...

# --- bytes (native/bind_bytes.cc): exact sums of byte codes and int8 weights.

# A code u of x, from 0 to `largest`, is the number low + step * u, beyond the image is the number `padding`. weights
# int8 [O, C / groups, kernel_h, kernel_w], where finish.negative is given -1, 0 and 1. ValueError where a sum might not
# fit int32. Where all fit int16, AVX2 and AVX-512 without VNNI make them there.
class ByteConvOp(RowOperation):
    def __init__(
        self,
        window: Window,
        x: CodeLayout,
        low: int,
        weights: np.ndarray,
        padding: int = 0,
        *,
        finish: Finish,
        step: int = 1,
        largest: int = 255,
    ) -> None: ...

# Operations per second that one thread could at best do: products and additions of bytes (AVX2, AVX-512 without VNNI:
# of 16 bits).
# One linear layer twice: as bit planes for up to `most` samples, as bytes for more.
class ByBatchOp(Operation):
    def __init__(self, few: Operation, many: Operation, planes: CodeLayout, bytes: CodeLayout, most: int) -> None: ...

def byte_peak() -> float: ...

# --- floats (native/bind_floats.cc): float32 in and out, images NHWC, all sizes those of one image. `finish` computes
# (sum + bias) * scale + shift + residual, then relu, of the parts given, each rounded by itself; it has neither
# multiplier nor encode.

class FloatConvOp(RowOperation):  # weight [O, C / groups, kernel_h, kernel_w]
    def __init__(self, window: Window, weight: np.ndarray, finish: Finish) -> None: ...

class FloatLinearOp(Operation):  # weight [O, C]
    def __init__(self, in_c: int, weight: np.ndarray, finish: Finish) -> None: ...

# Output sizes as PyTorch's, ceil mode included. Outside the image a maximum sees -inf.
class MaxPoolOp(Operation):
    def __init__(
        self,
        image: tuple[int, int],
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        ceil: bool = False,
    ) -> None: ...

# A layer of floats only, max pooling of them, and the codes of that, so that the layer's floats stay in the cache.
class PooledOp(Operation):
    def __init__(
        self,
        layer: RowOperation,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        ceil: bool = False,
        *,
        out: bool = True,
        encode: Encode | None = None,
    ) -> None: ...

class AvgPoolOp(Operation):
    def __init__(
        self,
        image: tuple[int, int],
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
        ceil: bool = False,
        count_include_pad: bool = True,
    ) -> None: ...

class AdaptiveAvgPoolOp(Operation):
    def __init__(self, image: tuple[int, int], channels: int, size: tuple[int, int]) -> None: ...

class AdaptiveMaxPoolOp(Operation):
    def __init__(self, image: tuple[int, int], channels: int, size: tuple[int, int]) -> None: ...

class AffineOp(Operation):  # [pixels, C]: x * scale + shift
    def __init__(self, pixels: int, scale: np.ndarray, shift: np.ndarray) -> None: ...

class NormalizeOp(Operation):  # the same; with uint8, x is a byte / 255
    def __init__(self, pixels: int, scale: np.ndarray, shift: np.ndarray, uint8: bool = False) -> None: ...

class PreluOp(Operation):  # [pixels, C]
    def __init__(self, pixels: int, prelu: Prelu) -> None: ...

class ReluOp(Operation):
    def __init__(self, count: int) -> None: ...

class ClampOp(Operation):
    def __init__(self, count: int, low: float, high: float) -> None: ...

class AbsOp(Operation):
    def __init__(self, count: int) -> None: ...

class CurveOp(Operation):  # curve: sigmoid, tanh, elu, gelu, sqrt or rsqrt; alpha is the elu's
    def __init__(self, curve: str, count: int, alpha: float = 1.0) -> None: ...

class AddOp(Operation):  # the other of equal size, or one number for every `channels`
    def __init__(self, count: int, channels: int = 1) -> None: ...

class MulOp(Operation):  # likewise
    def __init__(self, count: int, channels: int = 1) -> None: ...

# [rows, columns] to [columns, rows], elements of 1 or 4 bytes: channels first to last and back.
class TransposeOp(Operation):
    def __init__(self, rows: int, columns: int, element_bytes: int = 4) -> None: ...

# Any shape; axes count from 0 without the batch.
class PadOp(Operation):  # of every axis the elements start, start + step, ..., `count` of them; no lists: all
    def __init__(
        self,
        shape: list[int],
        before: list[int],
        after: list[int],
        value: float,
        start: list[int] = ...,
        step: list[int] = ...,
        count: list[int] = ...,
    ) -> None: ...

class SliceOp(Operation):
    def __init__(self, shape: list[int], axis: int, start: int, stop: int, step: int = 1) -> None: ...

class MeanOp(Operation):  # added up in float64
    def __init__(self, shape: list[int], axes: list[int]) -> None: ...

class SoftmaxOp(Operation):  # computed in float64
    def __init__(self, shape: list[int], axis: int) -> None: ...

# Seconds of this thread for so many operations, two per multiply-add, at the peak of the current level: in registers.
def fma_seconds(operations: float) -> float: ...

# --- channels (native/bind_channels.cc): floats, [pixels, C]

class ResponseNormOp(Operation):  # x / (bias + alpha * the sum of squares of `size` channels around)^beta
    def __init__(self, pixels: int, channels: int, size: int, alpha: float, beta: float, bias: float) -> None: ...

class GroupNormOp(Operation):  # (x - mean) / sqrt(variance + epsilon) within groups of channels, over all pixels
    def __init__(self, pixels: int, channels: int, groups: int, epsilon: float) -> None: ...

class ConcatOp(Operation):  # [outer, sizes[i]] of every input to [outer, sum of sizes]
    def __init__(self, outer: int, sizes: list[int]) -> None: ...

class MaxoutOp(Operation):  # [count, pieces] to the largest of each row
    def __init__(self, count: int, pieces: int) -> None: ...

# --- sparse (native/bind_sparse.cc): float operations on weights that are mostly zero or codes. positions: ascending
# int64 in the flat order of the dense weight. With codes (uint8 or uint16) values is the codebook, without them it has
# one value per position. The finish must end in floats.

# weight [rows, cols]; x [N, cols] -> [N, rows]
class SparseLinearOp(Operation):
    def __init__(
        self,
        rows: int,
        cols: int,
        positions: np.ndarray,
        codes: np.ndarray | None,
        values: np.ndarray,
        finish: Finish,
    ) -> None: ...
    # of each part that so many threads would be given, this thread's seconds for it; equal_rows: if all had equal
    # numbers of rows instead of equal work
    def part_seconds(self, x: np.ndarray, threads: int, repeats: int = 1, equal_rows: bool = False) -> list[float]: ...

# weight [O, C / groups, kernel_h, kernel_w]; x [N, H, W, C] -> [N, H', W', O]
class SparseConvOp(Operation):
    def __init__(
        self, window: Window, positions: np.ndarray, codes: np.ndarray | None, values: np.ndarray, finish: Finish
    ) -> None: ...

# A float weight [O, C / groups, kernel_h, kernel_w] whose zeros follow a pattern; x [N, H, W, C] -> [N, H', W', O].
# PatternConvOp: of every 16 neighbouring channels of C / groups at most 8 are not zero in a row, at each tap.
class PatternConvOp(Operation):
    def __init__(self, window: Window, weight: np.ndarray, finish: Finish) -> None: ...

# Any weight; a tap costs its time for each 16 output channels where one of them is not zero.
class BlockedConvOp(Operation):
    def __init__(self, window: Window, weight: np.ndarray, finish: Finish) -> None: ...

# codes [rows, cols] uint8 stand for finite table entries (1 to 256), times scale [rows] if given; with negative [rows],
# entries below zero are times that instead. x [N, cols] -> [N, rows]
class CodedLinearOp(Operation):
    def __init__(
        self,
        codes: np.ndarray,
        table: np.ndarray,
        finish: Finish,
        *,
        scale: np.ndarray | None = None,
        negative: np.ndarray | None = None,
    ) -> None: ...

# --- exact (native/bind_exact.cc): sign, quantize and integer layers from floats to floats, portable. weights int8
# [O, C / groups, kernel_h, kernel_w]; finish.multiplier is needed.

class SignOp(Operation):
    def __init__(self, count: int) -> None: ...

class QuantizeOp(Operation):  # arrays float32 of one entry per channel; x is [pixels, channels]
    def __init__(
        self, pixels: int, scale: np.ndarray, reciprocal: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None: ...

class ExactConvOp(Operation):  # x = float32(scale * m); padding: the m outside the image
    def __init__(
        self, window: Window, reciprocal: float, weights: np.ndarray, padding: int = 0, *, finish: Finish
    ) -> None: ...

# --- plan (native/bind_plan.cc): operations in order on values that lie in one arena. Values are numbered: the inputs
# (bytes per image), then the outputs of each step; a step is an operation and the values that it reads. A batch is
# worked through in passes whose arena has about `pass_bytes`. Arrays are contiguous and hold `batch` images.
# Thread-safe.

class Plan:
    def __init__(
        self, inputs: list[int], steps: list[tuple[Operation, list[int]]], outputs: list[int], pass_bytes: int
    ) -> None: ...
    @property
    def arena_bytes(self) -> int: ...  # per image
    @property
    def pass_images(self) -> int: ...
    @property
    def idle_bytes(self) -> int: ...  # of the arenas that wait for the next call
    def run(self, inputs: list[np.ndarray], outputs: list[np.ndarray], batch: int, threads: int = 1) -> None: ...
    # seconds of each step, the median of `repeats` runs
    def time(
        self, inputs: list[np.ndarray], outputs: list[np.ndarray], batch: int, threads: int = 1, repeats: int = 1
    ) -> list[float]: ...

# --- training (native/bind_training.cc): one pass over a tensor (pixels, channels), float32, or bfloat16 as 16-bit
# integers; each writes `result` or `sums`

def training_sign(x: np.ndarray, result: np.ndarray, threads: int = 1) -> None: ...  # +1 where x >= 0, else -1
def training_sign_back(  # gradient max(0, 2 - 2 |x|) with curve, else gradient 1{|x| < 1}
    x: np.ndarray, gradient: np.ndarray, result: np.ndarray, curve: bool, threads: int = 1
) -> None: ...
def training_shift(  # x - before[c]
    x: np.ndarray, before: np.ndarray, result: np.ndarray, threads: int = 1
) -> None: ...
def training_sum(x: np.ndarray, sums: np.ndarray, threads: int = 1) -> None: ...  # of each channel
def training_rprelu(  # d = x - before[c], (d > 0 ? d : slope[c] d) + after[c]
    x: np.ndarray, before: np.ndarray, slope: np.ndarray, after: np.ndarray, result: np.ndarray, threads: int = 1
) -> None: ...
def training_rprelu_back(  # sums: (3, channels), those of result, of gradient min(d, 0), of gradient
    x: np.ndarray,
    gradient: np.ndarray,
    before: np.ndarray,
    slope: np.ndarray,
    result: np.ndarray,
    sums: np.ndarray,
    threads: int = 1,
) -> None: ...
