"""Runs the benchmarks and writes docs/performance/: their JSON, the tables, and the roofline of this machine.

    python benchmarks/report.py [--run] [--only binary]

Without --run the tables and the figure are made anew from the JSON that is there. docs/performance.md includes both.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bitwright import _native
from bitwright.files import write_atomic
from bitwright.measure.layers import peaks
from bitwright.measure.machine import describe_machine

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "docs" / "performance"
SCRIPTS = (
    "binary",
    "binary_avx2",
    "int8",
    "float",
    "accumulators",
    "bit_serial",
    "sparse",
    "product",
    "resnet18",
    "small_nets",
    "int8_nets",
)
ARRAY_BYTES, TRIES = 256 << 20, 5


def measure(only: str) -> None:
    """Run the scripts and measure the machine; whether a claim holds is in the JSON."""
    FOLDER.mkdir(exist_ok=True)
    machine = {"machine": describe_machine(), "isa": _native.isa(), "peaks": peaks(), "bandwidth": bandwidth()}
    write_atomic(FOLDER / "machine.json", json.dumps(machine, indent=1) + "\n")
    for name in SCRIPTS:
        if only in name:
            command = [sys.executable, str(HERE / f"bench_{name}.py"), "--json", str(FOLDER / f"{name}.json")]
            subprocess.run(command, check=False)


def bandwidth() -> float:
    """Bytes per second that one thread reads from memory: the product of a large array with itself."""
    array = np.ones(ARRAY_BYTES // 4, np.float32)
    seconds = []
    for _ in range(TRIES):
        start = time.thread_time()
        np.dot(array, array)
        seconds.append(time.thread_time() - start)
    return ARRAY_BYTES / min(seconds)


def tables(reports: dict[str, Any]) -> str:
    """Markdown: for every script its cases, contestants and claims."""
    lines = []
    for name, report in reports.items():
        head = f"{report['machine']['cpu']}, {report['isa']}, {report['threads']} thread(s)"
        lines += [f"## {name}", "", head, "", "| case | | ms | spread | Gop/s | of peak | x ours |"]
        lines.append("|---|---|---:|---:|---:|---:|---:|")
        claims = []
        for case, found in report["cases"].items():
            for contestant, row in found["contestants"].items():
                share = f"{row['share']:.0%}" if "share" in row else ""
                numbers = f"{row['ms']:.4f} | {row['mad']:.4f} | {row['gops']:,.0f} | {share} | {row['ratio']:.2f}"
                lines.append(f"| {case} | {contestant} | {numbers} |")
            for claim in found["claims"]:
                verdict = "holds" if claim["holds"] else "**does not hold**"
                against = f"{claim['times']:.2f} x {claim['peer']} (claimed {claim['wanted']:g} x)"
                claims.append(f"* {case}, {claim['ours']}: {against}: {verdict}")
        lines += ["", *claims, ""]
    return "\n".join(lines)


class Roofline:
    """Gop/s over operations per byte, both logarithmic, as SVG."""

    WIDTH, HEIGHT, LEFT, BOTTOM = 720, 420, 70, 50
    X, Y = (0.1, 10_000.0), (1.0, 10_000.0)
    COLORS = ("#3b6ea5", "#a5583b", "#3b8a5a")

    def __init__(self) -> None:
        self.parts: list[str] = []

    def at(self, intensity: float, gops: float) -> tuple[float, float]:
        def share(value: float, low: float, high: float) -> float:
            return math.log(min(max(value, low), high) / low) / math.log(high / low)

        x = self.LEFT + share(intensity, *self.X) * (self.WIDTH - self.LEFT - 20)
        y = self.HEIGHT - self.BOTTOM - share(gops, *self.Y) * (self.HEIGHT - self.BOTTOM - 20)
        return x, y

    def line(self, a: tuple[float, float], b: tuple[float, float], color: str) -> None:
        (x1, y1), (x2, y2) = self.at(*a), self.at(*b)
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.parts.append(f'<line {place} stroke="{color}" stroke-width="1.5"/>')

    def text(self, x: float, y: float, words: str, color: str = "#333", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}">{words}</text>')

    def point(self, intensity: float, gops: float, words: str, color: str) -> None:
        x, y = self.at(intensity, gops)
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"><title>{words}</title></circle>')

    def svg(self) -> str:
        size = f'width="{self.WIDTH}" height="{self.HEIGHT}" viewBox="0 0 {self.WIDTH} {self.HEIGHT}"'
        start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
        return "\n".join([start, '<rect width="100%" height="100%" fill="white"/>', *self.parts, "</svg>", ""])


def roofline(machine: dict[str, Any], reports: dict[str, Any]) -> str:
    """Peaks and memory as lines; the layers of the binary ResNet-18 as points (a pointer on one shows its name)."""
    figure = Roofline()
    speed = machine["bandwidth"] / 1e9
    for exponent in range(5):
        x, y = figure.at(figure.X[0], 10.0**exponent)
        figure.text(x - 8, y + 4, f"{10**exponent:,}", anchor="end")
    for exponent in range(-1, 5):
        x, y = figure.at(10.0**exponent, figure.Y[0])
        figure.text(x, y + 18, f"{10.0**exponent:g}", anchor="middle")
    figure.text(figure.LEFT, 14, "Gop/s")
    figure.text(figure.WIDTH - 20, figure.HEIGHT - 10, "operations per byte of weights and values", anchor="end")
    for color, (family, peak) in zip(figure.COLORS, machine["peaks"].items(), strict=True):
        gops = peak / 1e9
        figure.line((gops / speed, gops), (figure.X[1], gops), color)
        x, y = figure.at(figure.X[1], gops)
        figure.text(x, y - 5, f"{family} {gops:,.0f}", color, "end")
    highest = max(machine["peaks"].values()) / 1e9
    figure.line((figure.Y[0] / speed, figure.Y[0]), (highest / speed, highest), "#666")
    x, y = figure.at(2 * figure.X[0], 2 * figure.X[0] * speed)
    figure.text(x + 10, y + 4, f"memory {speed:.0f} GB/s", "#666")
    for found in reports.get("resnet18", {"cases": {}})["cases"].values():
        for layer in found["bitwright"]["layers"]:
            if layer["gops"]:
                operations = layer["gops"] * layer["ms"] * 1e6
                words = f"{layer['name']}, {layer['kernel']}: {layer['gops']:,.0f} Gop/s, {layer['ms']:.3f} ms"
                figure.point(operations / layer["bytes"], layer["gops"], words, "#222")
    return figure.svg()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="measure first (half an hour)")
    parser.add_argument("--only", default="", help="with --run: scripts whose name has this in it")
    options = parser.parse_args()
    if options.run:
        measure(options.only)
    machine = json.loads((FOLDER / "machine.json").read_text())
    files = {name: FOLDER / f"{name}.json" for name in SCRIPTS}
    reports = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    write_atomic(FOLDER / "tables.md", "# Measured\n\nMade by `python benchmarks/report.py`.\n\n" + tables(reports))
    write_atomic(FOLDER / "roofline.svg", roofline(machine, reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())
