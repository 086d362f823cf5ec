"""Writes the tree of the project into README.md: a line per file, its role being the first sentence of the file itself.

python docs/tree.py          rewrites README.md between its markers
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tree:begin -->", "<!-- tree:end -->"
FOLDERS = ("src", "native", "benchmarks", "examples", "docs")
SUFFIXES = {".py", ".cc", ".h", ".yaml", ".jinja", ".md", ".pyi"}


def role(path: Path) -> str:
    """The first sentence of the file's docstring, opening comment, heading or description."""
    text = path.read_text("utf-8")
    if path.suffix in {".py", ".pyi"}:
        words = ast.get_docstring(ast.parse(text)) or ""
    elif path.suffix in {".cc", ".h"}:
        comment = re.match(r"(?:// ?.*\n)+", text)
        if comment is None and path.with_suffix(".h").exists():
            return f"implements {path.stem}.h"
        words = re.sub(r"(?m)^// ?", "", comment.group(0)) if comment else ""
    elif path.suffix == ".yaml":
        words = next(iter(re.findall(r"(?m)^description: *(.+)$", text)), "").strip("\"'")
    elif path.suffix == ".jinja":
        words = next(iter(re.findall(r"(?s)\{#-?(.+?)-?#\}", text)), "").strip()
    else:
        words = next(iter(re.findall(r"(?m)^# (.+)$", text)), "")
    paragraph = " ".join(words.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[^.])(?<!\bal)\.(?:\s|$)|:\s|; ", paragraph)[0]
    if not sentence:
        raise SystemExit(f"{path.relative_to(ROOT)} does not begin by telling its role; add a first sentence")
    return sentence


def tree() -> str:
    """The tree as a text block."""
    lines: list[str] = []
    for folder in FOLDERS:
        files = sorted(p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix in SUFFIXES)
        here = None
        for path in files:
            if path.parent != here:
                here = path.parent
                lines.append(f"{here.relative_to(ROOT)}/")
            lines.append(f"  {path.name:<24} {role(path)}")
    return "\n".join(lines)


def written(readme: str) -> str:
    """`readme` with today's tree between its markers."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n```\n{tree()}\n```\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    target = ROOT / "README.md"
    target.write_text(written(target.read_text("utf-8")), "utf-8")
