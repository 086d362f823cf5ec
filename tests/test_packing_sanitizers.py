"""The native decoders on random bytes, under the address and undefined-behaviour sanitizers."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def test_decoders_touch_only_their_own_memory(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = [ROOT / "tests" / "fuzz_coders.cc", ROOT / "native" / "coders.cc", ROOT / "native" / "context.cc"]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *SANITIZE, f"-I{ROOT / 'native'}"]
    (tmp_path / "empty.cc").write_text("int main() {}")
    probe = subprocess.run([compiler, *SANITIZE, tmp_path / "empty.cc", "-o", tmp_path / "empty"], check=False)
    if probe.returncode:
        pytest.skip("the compiler has no sanitizers")
    subprocess.run([compiler, *flags, *sources, "-o", tmp_path / "fuzz"], check=True)
    result = subprocess.run([tmp_path / "fuzz"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
