"""The README tells the truth about the tree, and its example runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_printed_tree_is_the_real_one():
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    assert tree.written(README) == README, "run: python docs/tree.py"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    example = EXAMPLES[0].replace('"mnist", root="data"', '"digits"').replace("epochs=20", "epochs=5")
    example = example.replace("zeros(1, 1, 28, 28)", "zeros(1, 1, 8, 8)")
    example = example.replace('create_model("lenet-300-100")', 'create_model("lenet-300-100", input_shape=(1, 8, 8))')
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[-1]) > 0.8
    assert (tmp_path / "lenet.safetensors").stat().st_size < 15_000


def test_the_quantised_example_packs_to_bits_and_runs_on_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[1], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"conv: conv2d \+ add \[(bits|bytes) ", printed)
    assert "norm: affine" in printed or "affine + sign" in printed
    smaller = 4 * (64 * 64 * 9 + 2 * 64) / (tmp_path / "block.safetensors").stat().st_size
    assert f"{round(smaller)} times smaller" in EXAMPLES[1]
