"""Levels of instructions: found, chosen, narrowed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitwright import _native

ISAS = _native.isa_names()


@pytest.fixture(params=_native.isa_names())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(None)


def native_isa(wish: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from bitwright import _native; print(_native.isa())"]
    return subprocess.run(
        command, env={**os.environ, "BITWRIGHT_CPU": wish}, capture_output=True, text=True, check=False
    )


def test_environment_narrows_the_variant() -> None:
    _native.set_isa(None)
    best = native_isa("").stdout.strip()
    for name in ISAS:
        assert native_isa(name).stdout.strip() == min(name, best, key=ISAS.index)


def test_environment_with_an_unknown_variant() -> None:
    done = native_isa("sse9")
    assert done.returncode != 0
    assert "BITWRIGHT_CPU is 'sse9', expected one of 'ref', 'avx2'" in done.stderr


def test_set_isa_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="name is 'neon', expected one of 'ref'"):
        _native.set_isa("neon")


def test_isa_is_what_was_set(isa: str) -> None:
    assert _native.isa() == isa


def test_cpu_features_explain_the_variant() -> None:
    features = _native.cpu_features()
    assert set(features) >= {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"}
    if (facts := Path("/proc/cpuinfo")).is_file():
        assert features["amd"] == ("AuthenticAMD" in facts.read_text())
    if not (features["avx2"] and features["fma"]):
        with pytest.raises(ValueError, match="this machine has no avx2"):
            _native.set_isa("avx2")
