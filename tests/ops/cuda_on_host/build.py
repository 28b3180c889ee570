"""Compiles csrc/cuda for the host: ``python build.py CSRC LIBRARY``.

What is CUDA's own syntax is rewritten, the rest is in cuda_runtime.h beside this file. The library registers the CUDA
kernels for CPU tensors, together with the schemas and with what has a kernel on the CPU alone.
"""

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils.cpp_extension import include_paths, library_paths

FLAGS = "-std=c++20 -O1 -fPIC -Wno-unknown-pragmas -DTORCH_TARGET_VERSION=0x020b000000000000".split()
SYNTAX = (
    (r"STABLE_TORCH_LIBRARY_IMPL\(hagan3d, CUDA", "STABLE_TORCH_LIBRARY_IMPL(hagan3d, CPU"),
    (r"const DeviceGuard guard\(.*?\);", ""),
    (r"extern __shared__ .*? (\w+)\[\];", r"unsigned char* const \1 = on_host::shared();"),
    (r"__shared__", "static"),
    (r"reinterpret_cast<((?:const )?Group<T, N>)\*>", r"on_host::aligned<\1>"),
    (r"(constexpr int64_t k(MaxBlocks|MaxPartials|MaxRows)) = .*?;", r"\1 = 2;"),  # so that loops go round
    (r"(constexpr int64_t kSumBlocks) = .*?;", r"\1 = 40;"),  # more than a warp has lanes
)
LAUNCH = re.compile(r"([\w:]+(?:<[^<>;{}]*>)?)\s*<<<([^;]*?)>>>\(")


def main() -> None:
    """Compile and link."""
    csrc, library = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        on_cpu_alone = (f for f in (csrc / "cpu").rglob("*.cpp") if not (csrc / "cuda" / f"{f.stem}.cu").exists())
        sources = [csrc / "ops.cpp", *on_cpu_alone]
        (Path(folder) / "cuda").mkdir()
        for source in (csrc / "cuda").iterdir():
            target = Path(folder) / "cuda" / source.name.replace(".cu", ".cpp")
            target.write_text(on_host(source.read_text(encoding="utf-8")), encoding="utf-8")
            sources.extend([target] if target.suffix == ".cpp" else [])
        includes = [f"-I{place}" for place in (folder, Path(__file__).parent, csrc, *include_paths())]

        def compiled(source: Path) -> str:
            target = str(Path(folder) / f"{source.stem}.o")
            subprocess.run(["c++", *FLAGS, *includes, "-c", str(source), "-o", target], check=True)
            return target

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compiled, sources))
        places = [f"-L{place}" for place in library_paths()]
        subprocess.run(["c++", "-shared", *objects, *places, "-ltorch_cpu", "-lc10", "-o", str(library)], check=True)


def on_host(source: str) -> str:
    """CUDA source as C++: launches become calls, shared memory that of the one block that runs."""
    for pattern, replacement in SYNTAX:
        source = re.sub(pattern, replacement, source)
    while launch := LAUNCH.search(source):
        end = _closing(source, launch.end())
        call = f"on_host::launch({launch[2]}, [&] {{ {launch[1]}({source[launch.end() : end]}); }})"
        source = source[: launch.start()] + call + source[end + 1 :]
    return source


def _closing(source: str, at: int) -> int:
    """Position of the parenthesis that closes the one before ``at``."""
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(source[at], 0)
        at += 1
    return at - 1


if __name__ == "__main__":
    main()
