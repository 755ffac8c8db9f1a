"""Blocks of ggml, what gguf-py unpacks of them, and what ggml quantizes: python make_blocks.py GGML OUT

GGML is the folder `vendor/llama.cpp/ggml` of the source package of llama-cpp-python, OUT is `tests/golden/blocks`. For each format:
`FORMAT.blocks`, of random bytes with sane scales and of edges (zeros, codes of ones alone, scales that are subnormal, negative or the
largest); `FORMAT.unpacked`, their numbers by `gguf.quants.dequantize` as float32; `FORMAT.quantized`, the blocks of `numbers.f32` by the
functions that `llama_model_quantize` calls without an importance matrix (`quantize_row_*_ref`, and `quantize_iq4_nl` and `quantize_iq4_xs`,
which try more scales than the `_ref` of the first).

`src/ggml-quants.c` is compiled by gcc with -O2 -ffp-contract=off for plain x86-64, so that no product is fused with a sum.

Made with gguf 0.19.0, numpy 2.4, llama-cpp-python 0.3.36, gcc 12.
"""

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

GGML, OUT = Path(sys.argv[1]), Path(sys.argv[2])
FORMATS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
# Places of scales in float16 in a block.
SCALES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2],
    "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}
NUMBERS = 6 * 256
STUBS = """
#include "ggml.h"
#include <stdarg.h>
#include <stdlib.h>
size_t ggml_row_size(enum ggml_type type, int64_t n) { (void) type; (void) n; return 0; }
size_t ggml_type_size(enum ggml_type type) { (void) type; return 0; }
const char * ggml_type_name(enum ggml_type type) { (void) type; return ""; }
void ggml_abort(const char * file, int line, const char * format, ...) { (void) file; (void) line; (void) format; abort(); }
"""


def blocks(name: str, draw: np.random.Generator) -> np.ndarray:
    """Blocks of random codes, the last ones edges; [blocks, bytes]."""
    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    count = NUMBERS // numbers
    made = draw.integers(0, 256, (count, size), dtype=np.uint8)

    def scaled(block: int, scale: float) -> None:
        for place in SCALES[name]:
            made[block, place : place + 2] = np.array([scale], np.float16).view(np.uint8)
        if name == "MXFP4":
            made[block, 0] = int(np.clip(127 + np.log2(abs(scale)) if scale else 0, 0, 254))

    for block in range(count):
        scaled(block, draw.normal() * 0.02)
    made[-1] = 0
    made[-2] = 255
    scaled(-2, 0.0115)
    scaled(-3, 3 * 2.0**-24)
    scaled(-4, -65504.0 if numbers == 32 else -0.03)
    if name == "MXFP4":
        made[:3, 0] = [0, 1, 254]
    return made


def numbers(draw: np.random.Generator) -> np.ndarray:
    """Numbers as weights have them, and edges; [rows, 256]."""
    rows = [draw.normal(0, scale, 256) for scale in [0.02, 0.02, 0.03, 1.0, 30.0]]
    rows += [draw.standard_t(3, 256) * 0.02 for _ in range(5)]
    rows.append(np.zeros(256))
    outlier = draw.normal(0, 0.01, 256)
    outlier[77] = -4.0
    rows.append(outlier)
    alone = np.zeros(256)
    alone[130] = 0.7
    rows.append(alone)
    rows.append(np.abs(draw.normal(0, 0.05, 256)) + 0.01)
    rows.append(-np.abs(draw.normal(0, 0.05, 256)) - 0.01)
    rows.append(np.full(256, 0.25))
    rows.append(np.full(256, -0.25))
    rows.append(draw.integers(-8, 8, 256) * 0.125)
    rows.append(draw.integers(0, 32, 256) * 0.5)
    rows.append(draw.normal(0, 1e-6, 256))
    rows.append(draw.normal(0, 1e-12, 256))
    rows.append(draw.normal(0, 2000, 256))
    rows.append(np.concatenate([np.zeros(128), draw.normal(0, 0.02, 128)]))
    rows.append(draw.normal(0, 0.02, 256) * np.repeat(10.0 ** draw.uniform(-4, 1, 16), 16))
    return np.array(rows, np.float32)


def library() -> ctypes.CDLL:
    folder = Path(tempfile.mkdtemp())
    (folder / "stubs.c").write_text(STUBS)
    includes = [f"-I{GGML / part}" for part in ["include", "src"]]
    command = ["gcc", "-O2", "-ffp-contract=off", "-DNDEBUG", "-D_GNU_SOURCE", "-fPIC", "-shared", *includes]
    sources = [GGML / "src/ggml-quants.c", folder / "stubs.c"]
    subprocess.run([*command, *sources, "-lm", "-o", folder / "quants.so"], check=True)
    return ctypes.CDLL(str(folder / "quants.so"))


def quantized(ggml: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    of_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    to = np.zeros(x.size // of_block * size, np.uint8)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (x, to)]
    if name.startswith("IQ4"):
        one_row = [ctypes.c_int64(1), ctypes.c_int64(x.size)]
        getattr(ggml, f"quantize_{name.lower()}")(*pointers, *one_row, None)
    else:
        spelled = name if name.endswith("_K") else name.lower()
        spelled = spelled.replace("Q", "q")
        getattr(ggml, f"quantize_row_{spelled}_ref")(*pointers, ctypes.c_int64(x.size))
    return to


def main() -> None:
    draw = np.random.default_rng(24)
    OUT.mkdir(exist_ok=True)
    x = np.ascontiguousarray(numbers(draw))
    (OUT / "numbers.f32").write_bytes(x.tobytes())
    ggml = library()
    for name in FORMATS:
        made = blocks(name, draw)
        kind = gguf.GGMLQuantizationType[name]
        with np.errstate(all="ignore"):
            unpacked = gguf.quants.dequantize(made, kind).astype(np.float32)
        packed = quantized(ggml, name, x)
        lower = name.lower()
        (OUT / f"{lower}.blocks").write_bytes(made.tobytes())
        (OUT / f"{lower}.unpacked").write_bytes(unpacked.tobytes())
        (OUT / f"{lower}.quantized").write_bytes(packed.tobytes())
        size = gguf.GGML_QUANT_SIZES[kind][1]
        nearest = gguf.quants.dequantize(packed.reshape(-1, size), kind).reshape(x.shape)
        error = np.sqrt(np.mean((nearest[:10] - x[:10]) ** 2, axis=1) / np.mean(x[:10] ** 2, axis=1))
        line = f"{name}: relative error {error.max():.3f}"
        try:
            by_python = gguf.quants.quantize(x, kind).reshape(-1, size)
            differ = (by_python != packed.reshape(-1, size)).any(axis=1)
            line += f", {differ.sum()} of {len(differ)} blocks differ from gguf-py's"
        except NotImplementedError:
            pass
        print(line)


main()
