"""PyTorch image networks, as small and as fast on a CPU as they can be.

Importing this package imports no torch; what needs it is imported when it is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from bitwright.errors import BitwrightError

__version__ = "0.1.0"

# torch's matrix products are MKL's, whose last bits may depend on where arrays happen to lie in memory (seen on AMD);
# it reads this at its first product. Costs nothing measurable, and equal seeds give equal bytes.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_LAZY = {
    "load_dataset": "bitwright.data",
    "Dataset": "bitwright.data",
    "create_model": "bitwright.models",
    "load_weights": "bitwright.models",
    "train": "bitwright.training",
    "compress": "bitwright.context",
    "pack": "bitwright.packing",
    "load": "bitwright.runtime",
    "run_recipe": "bitwright.run",
    "steps": "bitwright.steps",
    "ops": "bitwright.ops",
    "set_bits": "bitwright.precisions",
    "at_bits": "bitwright.precisions",
}
__all__ = ["BitwrightError", "__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'bitwright' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if _LAZY[name] == f"bitwright.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
