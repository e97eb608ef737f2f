"""What bitsandbytes makes of matrices -> ../quantised/quantised.safetensors, for tests/unit/test_nf4.c and tests/model/test_quantised.c.

exact.*    [24, 1024] in bf16, whose blocks' absmax are such that any order of adding them up is exact: codes, second quantisation, numbers
bell.*     [20, 832] in f32 (260 blocks: two groups of their scales, the second short), with a block of zeros and one of numbers that are
           subnormal: the mean of the scales is torch's own here
int8.*     [6, 192] in f32 as LLM.int8() without outliers has it

The second quantisation is bitsandbytes' kernel for any device (backends/default): its library for the processor looks up codes in a table of
65,536 places and takes a neighbour about twice in a thousand, which its kernels for cards do not.

    PYTHONPATH=<site-packages with torch> python tests/golden/make/quantised.py      (torch, bitsandbytes, safetensors)
"""
from pathlib import Path

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent.parent / "quantised"
blockwise = torch.ops.bitsandbytes.quantize_blockwise.default
ANY = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)


def nf4(out, name, w):
    q, single = F.quantize_4bit(w, blocksize=64, quant_type="nf4")
    out[f"{name}.weight"] = w
    out[f"{name}.codes"] = q.reshape(-1)
    single.dtype = torch.float32  # numbers in f32, whatever the weights were
    out[f"{name}.absmax"] = single.absmax
    out[f"{name}.single"] = F.dequantize_4bit(q, single).float()[:2].contiguous()
    offset = single.absmax.mean()
    code = F.create_dynamic_map()
    nested, scale = blockwise.redispatch(ANY, single.absmax - offset, code, 256)
    double = F.QuantState(absmax=nested, shape=w.shape, dtype=torch.float32, blocksize=64, code=single.code, quant_type="nf4", offset=offset,
                          state2=F.QuantState(absmax=scale, blocksize=256, code=code, dtype=torch.float32))
    values = F.dequantize_4bit(q, double)
    out |= {f"{name}.map": code, f"{name}.nested": nested, f"{name}.scale": scale, f"{name}.offset": offset.reshape(1),
            f"{name}.double": values.reshape(w.shape[0], -1)[::7].contiguous()}


def main():
    OUT.mkdir(exist_ok=True)
    g = torch.Generator().manual_seed(11)
    out = {}
    w = torch.randn((24, 1024), generator=g)
    size = 2.0 ** torch.randint(-6, -3, (24, 16, 1), generator=g)  # absmax: 8 bits of three powers of two, 384 of them
    w = (w.reshape(24, 16, 64) / w.reshape(24, 16, 64).abs().amax(-1, keepdim=True) * size * (0.5 + torch.rand((24, 16, 1), generator=g) / 2))
    nf4(out, "exact", w.reshape(24, 1024).to(torch.bfloat16))
    w = torch.randn((20, 832), generator=g) * 0.02
    w[3, 64:128] = 0
    w[5, :64] *= 2.0 ** -130
    nf4(out, "bell", w)
    w = torch.randn((6, 192), generator=g)
    w[2] = w[2].round()
    q, absmax, _ = F.int8_vectorwise_quant(w)
    out |= {"int8.weight": w, "int8.codes": q, "int8.absmax": absmax}
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "quantised.safetensors")


if __name__ == "__main__":
    main()
