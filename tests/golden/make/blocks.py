"""Random blocks of every quantised GGUF type and what the package gguf makes of them -> ../blocks/blocks.safetensors.

Every bit of a block is random but the exponents of its halves, which are kept where scales lie (2^-6 .. 2^1, both signs).
Tensors, by ggml's name in small letters: `q4_k.blocks` (U8), `q4_k.values` (F32).

    python tests/golden/make/blocks.py            (numpy, gguf, safetensors)
"""
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}


def blocks(name, n, rng):
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    b = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in HALVES[name]:
        d = np.exp2(rng.uniform(-6, 1, n)) * rng.choice([-1, 1], n)
        b[:, at:at + 2] = d.astype("<f2").view(np.uint8).reshape(n, 2)
    return b, weights


def main():
    rng = np.random.default_rng(7)
    out = {}
    for name in HALVES:
        b, weights = blocks(name, 2 if name.endswith("_K") or name == "IQ4_XS" else 8, rng)
        y = gguf.quants.dequantize(b, gguf.GGMLQuantizationType[name])
        assert y.dtype == np.float32 and y.size == len(b) * weights
        out[name.lower() + ".blocks"] = b.reshape(-1)
        out[name.lower() + ".values"] = y.reshape(-1)
    folder = Path(__file__).parent.parent / "blocks"
    folder.mkdir(exist_ok=True)
    save_file(out, folder / "blocks.safetensors")


if __name__ == "__main__":
    main()
