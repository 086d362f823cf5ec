"""Runs packed networks and every native operation on emulated processors: without AVX at all, and with AVX2 alone.

    python benchmarks/other_processors.py [TRIALS=100]

Needs qemu's user mode (Debian: qemu-user-static). Nehalem is the oldest processor that NumPy's own wheels run on; there
the engine takes the portable kernels. Integer networks must give every bit of the reference engine, others its labels.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import bitwright
import fuzz_kernels
from bitwright import _native

ROOT = Path(__file__).resolve().parent.parent
PROCESSORS = {"Nehalem": "ref", "Haswell": "avx2"}
FILES = (
    ROOT / "results" / "lenet-5-deep-compression.safetensors",
    ROOT / "tests" / "golden" / "good-quantised.safetensors",
)
TOLERANCE = 1e-4  # of the outputs' range; networks with float layers


def check_here(expected: str, trials: int) -> None:
    """On this processor, emulated or not."""
    assert _native.isa() == expected, f"the level is {_native.isa()}, expected {expected}"
    for path in FILES:
        engine, reference = bitwright.load(path, threads=1), bitwright.load(path, engine="reference")
        x = np.random.default_rng(0).random((4, *engine.input_shapes[0])).astype(np.float32)
        found, wanted = engine(x), reference(x)
        assert np.abs(found - wanted).max() <= TOLERANCE * np.ptp(wanted), f"{path.name} differs"
    done = fuzz_kernels.fuzz(trials, seed=0)
    print(f"{expected}: {len(FILES)} networks and {sum(done.values())} random operations are right")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="?", default=100)
    parser.add_argument("--here", metavar="LEVEL", help="check on this processor, which must have this level")
    options = parser.parse_args()
    if options.here:
        check_here(options.here, options.trials)
        return 0
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        print("qemu's user mode is not installed")
        return 1
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for processor, level in PROCESSORS.items():
        command = [emulator, "-cpu", processor, os.path.realpath(sys.executable)]
        arguments = [__file__, str(options.trials), "--here", level]
        subprocess.run([*command, *arguments], env=environment, check=True, stderr=subprocess.DEVNULL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
