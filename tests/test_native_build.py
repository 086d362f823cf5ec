"""The objects of the native build: instructions of one set only where the dispatch guards them."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright import _native

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "native" / "kernels"
SUFFIXES = ("_avx2", "_avx512", "_avx512vnni", "_avx512vpopcntdq", "_amx")
# Registers that the baseline does not have.
WIDE = {"ymm": re.compile(r"%ymm"), "zmm": re.compile(r"%zmm"), "vex": re.compile(r"^\s+[0-9a-f]+:\s+v[a-z]")}


# Mnemonics of x86-64 after SSE2, VEX aside. tzcnt is none of them: as "rep bsf" it runs everywhere.
LATER = re.compile(
    r"\t(addsub|hadd|hsub|lddqu|movddup|movs[hl]dup|pshufb|phadd|phsub|pmaddubsw|pmulhrsw|psign|pabs|palignr|pblend|blend"
    r"|ptest|round[sp]|pm(in|ax)(s[bd]|u[wd])|pmul(ld|dq)|pcmpeqq|pcmpgtq|packusdw|pmov[sz]x|p(ext|ins)r[bdq]|insertps"
    r"|extractps|mpsadbw|dpp[sd]|phminposuw|movntdqa|pcmp[ei]str|crc32|popcnt|lzcnt|andn |bextr|bls|pdep|pext "
    r"|[rs][oah][rl]x|mulx|adcx|adox|movbe|aes|pclmul|sha[12])"
)


def kernel_objects() -> list[Path]:
    """Objects of the newest build of every kernel source that exists."""
    found: dict[str, Path] = {}
    for path in sorted(ROOT.glob("build/*/CMakeFiles/_native.dir/native/**/*.cc.o"), key=lambda p: p.stat().st_mtime):
        source = path.name.removesuffix(".o")
        if "sanitize" in path.parts:
            continue
        if (KERNELS / source).exists() or (ROOT / "native" / source).exists():
            found[source] = path
    return list(found.values())


OBJECTS = kernel_objects()


def output_of(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def objects_or_skip() -> list[Path]:
    if not OBJECTS:
        pytest.skip("no build folder with objects beside this checkout")
    return OBJECTS


def is_kernel(path: Path) -> bool:
    return path.parent.name == "kernels"


def test_every_kernel_source_was_built() -> None:
    built = {path.name.removesuffix(".o") for path in objects_or_skip() if is_kernel(path)}
    assert built == {path.name for path in KERNELS.glob("*.cc")}


def test_kernel_objects_have_no_weak_symbols() -> None:
    """The linker may keep the copy of a weak function that was compiled for AVX-512 and call it on any CPU."""
    for path in filter(is_kernel, objects_or_skip()):
        weak = [line for line in output_of("nm", str(path)).splitlines() if re.search(r" [WVu] ", line)]
        assert not weak, f"{path.name}: {weak}"


def test_kernel_objects_export_one_function() -> None:
    for path in filter(is_kernel, objects_or_skip()):
        exported = [line.split()[-1] for line in output_of("nm", str(path)).splitlines() if " T " in line]
        assert len(exported) == 1, f"{path.name} exports {exported}"
        assert path.name.removesuffix(".cc.o") in exported[0]


def test_wide_instructions_only_in_dispatched_files() -> None:
    for path in objects_or_skip():
        stem = path.name.removesuffix(".cc.o")
        code = output_of("objdump", "-d", "--no-show-raw-insn", str(path))
        found = {name for name, pattern in WIDE.items() if any(map(pattern.search, code.splitlines()))}
        for suffix in SUFFIXES:
            if stem.endswith(suffix):
                assert "zmm" not in found or suffix != "_avx2", f"{path.name} uses {found}"
                break
        else:
            assert not found, f"{path.name} is built for every CPU but uses {found}"


def is_dispatched(path: Path) -> bool:
    return path.name.removesuffix(".cc.o").endswith(SUFFIXES)


def disassembly(path: Path) -> list[str]:
    return output_of("objdump", "-d", "--no-show-raw-insn", str(path)).splitlines()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the baseline of x86-64")
def test_the_baseline_is_sse2() -> None:
    for path in objects_or_skip():
        if not is_dispatched(path):
            later = [line for line in disassembly(path) if LATER.search(line)]
            assert not later, f"{path.name}: {later[:3]}"


def test_the_extension_has_no_wide_instructions_but_those_of_dispatched_files() -> None:
    """What the linker added (nanobind, the C++ library) is for every CPU, too. Symbols are stripped, so lines count."""
    build = objects_or_skip()[0].parents[4 if is_kernel(OBJECTS[0]) else 3]

    def wide(path: Path) -> int:
        return sum(1 for line in disassembly(path) if any(pattern.search(line) for pattern in WIDE.values()))

    (extension,) = build.glob("_native*.so")
    assert wide(extension) <= sum(wide(path) for path in filter(is_dispatched, OBJECTS))
    for archive in build.glob("libnanobind*.a"):
        assert wide(archive) == 0


@pytest.mark.parametrize("level", _native.isa_names())
def test_packed_networks_run_at_every_level(level: str) -> None:
    """In a fresh process that may use no more: a network with integer layers, one with float layers."""
    code = """
import sys, numpy as np, bitwright
from bitwright import _native
assert _native.isa() == sys.argv[1], _native.isa()
for path in sys.argv[2:]:
    engine, reference = bitwright.load(path, threads=2), bitwright.load(path, engine="reference")
    x = np.random.default_rng(0).random((3, *engine.input_shapes[0])).astype(np.float32)
    np.testing.assert_allclose(engine(x), reference(x), rtol=0, atol=1e-4 * np.ptp(reference(x)))
"""
    files = [ROOT / "tests/golden/good-quantised.safetensors", ROOT / "results/lenet-5-deep-compression.safetensors"]
    environment = {**os.environ, "BITWRIGHT_CPU": level}
    subprocess.run([sys.executable, "-c", code, level, *map(str, files)], env=environment, check=True)


def test_dispatched_files_use_what_they_are_for() -> None:
    """Guards against a lost compile flag, which would be slow and otherwise unseen."""
    for path in objects_or_skip():
        for suffix in SUFFIXES:
            register = {"_avx2": "%ymm", "_amx": "%tmm"}.get(suffix, "%zmm")
            if path.name.removesuffix(".cc.o").endswith(suffix):
                assert register in output_of("objdump", "-d", "--no-show-raw-insn", str(path)), path.name


@pytest.mark.parametrize("source", sorted(KERNELS.glob("*")), ids=lambda p: p.name)
def test_kernel_files_include_only_c_and_intrinsics(source: Path) -> None:
    allowed = {"immintrin.h", "stdint.h", "stddef.h", "string.h", "math.h"}
    for name in re.findall(r"^#include <(.+)>", source.read_text(), re.MULTILINE):
        assert name in allowed, f"{source.name} includes <{name}>"
    for name in re.findall(r'^#include "(.+)"', source.read_text(), re.MULTILINE):
        assert name in ("kernels.h", "codes.h", "bits.h", "bytes.h") or (KERNELS / name).exists(), (
            f'{source.name} includes "{name}"'
        )


def test_every_dispatched_kernel_has_all_variants() -> None:
    variants: dict[str, set[str]] = {}
    for path in KERNELS.glob("*_*.cc"):
        operation, _, isa = path.stem.rpartition("_")
        if f"_{isa}" in ("_ref", *SUFFIXES):
            variants.setdefault(operation, set()).add(isa)
    assert set(variants) >= {"conv2d", "depthwise", "linear", "sparse_linear"}
    assert variants.pop("bits_plain") == {"avx2"}  # no level chooses it, benchmarks compare with it
    assert variants.pop("bytes16") == {"avx2", "avx512"}  # what bytes_* compute, where sums fit 16 bits
    assert all(isas >= {"ref", "avx2"} for isas in variants.values()), variants


def test_other_processors_build_the_reference_only(tmp_path: Path) -> None:
    """Configured for another processor, no file needs instructions or flags of x86-64."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if cmake is None:
        pytest.skip("cmake is not installed")
    options = {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_EXPORT_COMPILE_COMMANDS": "ON", "Python_EXECUTABLE": sys.executable}
    for processor, wide in (("aarch64", False), ("x86_64", True)):
        folder = tmp_path / processor
        given = [f"-D{k}={v}" for k, v in {**options, "CMAKE_SYSTEM_PROCESSOR": processor}.items()]
        output_of(cmake, "-S", str(ROOT), "-B", str(folder), *given)
        entries = json.loads((folder / "compile_commands.json").read_text())
        sources = {Path(entry["file"]).name for entry in entries}
        flags = {
            word for entry in entries for word in shlex.split(entry["command"]) if re.match("-m(avx|fma|amx)", word)
        }
        assert "conv2d_ref.cc" in sources
        assert ("conv2d_avx2.cc" in sources) is wide
        assert bool(flags) is wide, flags


def test_the_stub_names_every_function() -> None:
    stub = (ROOT / "src" / "bitwright" / "_native.pyi").read_text()
    declared = set(re.findall(r"^(?:def|class) (\w+)", stub, re.MULTILINE))
    assert declared == {name for name in dir(_native) if not name.startswith("_")}
