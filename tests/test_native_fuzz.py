"""Random shapes through the native operations; `python benchmarks/fuzz_kernels.py` tries many more of them."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "benchmarks" / "fuzz_kernels.py"
SPEC = importlib.util.spec_from_file_location("fuzz_kernels", PATH)
fuzz_kernels = importlib.util.module_from_spec(SPEC)
sys.modules["fuzz_kernels"] = fuzz_kernels  # dataclasses look there
SPEC.loader.exec_module(fuzz_kernels)


@pytest.mark.parametrize("family", fuzz_kernels.FAMILIES)
def test_operations_on_random_shapes(family):
    assert fuzz_kernels.fuzz(60, seed=0, only=family)[family] == 60
