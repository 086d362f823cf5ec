"""The README tells the truth about the tree, and its example runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_printed_tree_is_the_real_one():
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    assert tree.written(README) == README, "run: python docs/tree.py"


def printed(example, folder):
    """What an example prints in a process of its own, where nothing is imported yet."""
    done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs(tmp_path):
    example = EXAMPLES[0].replace('"mnist", root="data"', '"digits"').replace("epochs=20", "epochs=5")
    example = example.replace("zeros(1, 1, 28, 28)", "zeros(1, 1, 8, 8)")
    example = example.replace('"lenet-300-100", seed=0', '"lenet-300-100", seed=0, input_shape=(1, 8, 8)')
    assert float(printed(example, tmp_path).split()[-1]) > 0.8
    assert (tmp_path / "lenet.safetensors").stat().st_size < 15_000


def test_the_quantised_example_packs_to_bits_and_runs_on_them(tmp_path):
    plan = printed(EXAMPLES[1], tmp_path)
    assert re.search(r"conv: conv2d \+ add \[(bits|bytes) ", plan)
    assert "norm: affine" in plan or "affine + sign" in plan
    smaller = 4 * (64 * 64 * 9 + 2 * 64) / (tmp_path / "block.safetensors").stat().st_size
    assert f"{round(smaller)} times smaller" in EXAMPLES[1]
