"""A run killed with SIGKILL at a random moment, and started again, ends with the same bytes.

    python benchmarks/kill_resume.py [TRIALS] [RECIPE] [--set PATH=VALUE ...]

First the recipe runs undisturbed. Then, TRIALS times (default 20): begin in an empty folder, kill at a random moment,
every second time kill the second start too, finish, and compare packed.safetensors and result.json byte for byte.
Exits with 1 if any differs. The moments are drawn with a fixed seed, from the time the undisturbed run took.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPARED = ("packed.safetensors", "result.json")


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """`bitwright run` in a process of its own."""
    full = [sys.executable, "-m", "bitwright", *command, "--out", str(folder)]
    return subprocess.Popen(full, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(command: list[str], folder: Path) -> float:
    """Run to the end; the seconds it took."""
    begun = time.perf_counter()
    process = start(command, folder)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed: {errors.decode()}")
    return time.perf_counter() - begun


def kill_after(seconds: float, command: list[str], folder: Path) -> str:
    """Start, kill after `seconds`; how far it had come."""
    process = start(command, folder)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = sorted(p.parent.name for p in folder.glob("*/step.json"))
    trainings = len(list(folder.glob("*/train-*")))
    return f"after {seconds:5.2f} s: {len(done)} steps done, {trainings} trainings begun"


def difference(name: str, before: bytes, after: bytes) -> str:
    """What differs, or nothing."""
    if before == after:
        return ""
    if not name.endswith(".json"):
        return f"{name}: {len(before):,} and {len(after):,} bytes"
    lines = zip(before.decode().splitlines(), after.decode().splitlines(), strict=False)
    return f"{name}: {[f'{old.strip()} -> {new.strip()}' for old, new in lines if old != new][:3]}"


def main() -> int:
    arguments = sys.argv[1:]
    trials = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 20
    command = ["run", *(arguments or ["demo"])]
    moments = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        calm = Path(place) / "calm"
        seconds = finish(command, calm)
        expected = {name: (calm / name).read_bytes() for name in COMPARED}
        print(f"undisturbed: {seconds:.1f} s, {len(expected['packed.safetensors']):,} bytes", flush=True)
        different = 0
        for trial in range(1, trials + 1):
            folder = Path(place) / f"killed-{trial}"
            story = kill_after(moments.uniform(0, seconds), command, folder)
            if trial % 2 == 0:
                story += "; again " + kill_after(moments.uniform(0, seconds / 2), command, folder)
            finish(command, folder)
            wrong = [
                told for name in COMPARED if (told := difference(name, expected[name], (folder / name).read_bytes()))
            ]
            different += bool(wrong)
            print(
                f"{trial:3d}  killed {story}: {'DIFFERENT ' + ', '.join(wrong) if wrong else 'same bytes'}", flush=True
            )
    print(f"{trials - different} of {trials} runs ended with the bytes of the undisturbed one")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
