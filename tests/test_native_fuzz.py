"""Random shapes through the native operations; `python benchmarks/fuzz_kernels.py` tries many more of them."""

import pytest

import fuzz_kernels


@pytest.mark.parametrize("family", fuzz_kernels.FAMILIES)
def test_operations_on_random_shapes(family):
    assert fuzz_kernels.fuzz(60, seed=0, only=family)[family] == 60
