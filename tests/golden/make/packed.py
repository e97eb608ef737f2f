"""Small matrices in the forms of several tensors that safetensors hold, and what their makers make of them -> ../packed/*.safetensors.

nf4.safetensors    plain.weight, nested.weight [24, 128] quantised by bitsandbytes (its own names beside them), without and with
                   double quantisation; plain.values, nested.values: its dequantisation in f32
f8.safetensors     none, tensor, channel, blocks .weight in F8_E4M3 with no scale, one, one a row, one a block of 128 x 128;
                   e5m2.weight, f64.weight; *.values: the numbers by torch, in f32

    PYTHONPATH=<site-packages with torch> python tests/golden/make/packed.py      (torch, bitsandbytes, safetensors)
"""
from pathlib import Path

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent.parent / "packed"


def nf4(out, name, w, nested):
    q, state = F.quantize_4bit(w, blocksize=64, compress_statistics=nested, quant_type="nf4", quant_storage=torch.uint8)
    out[f"{name}.weight"] = q
    for k, v in state.as_dict(packed=True).items():
        out[f"{name}.weight.{k}"] = v
    out[f"{name}.values"] = F.dequantize_4bit(q, state).float().reshape(w.shape)


def f8(out, name, w, scale, spread=None):
    q = w.to(torch.float8_e4m3fn)
    out[f"{name}.weight"] = q
    v = q.float()
    if scale is not None:
        out[f"{name}.weight_scale" + ("_inv" if name == "blocks" else "")] = scale
        v = v * (spread if spread is not None else scale.float())
    out[f"{name}.values"] = v


def main():
    OUT.mkdir(exist_ok=True)
    g = torch.Generator().manual_seed(3)
    w = torch.randn((24, 128), generator=g)
    out = {}
    nf4(out, "plain", w, False)
    nf4(out, "nested", w, True)
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "nf4.safetensors")

    out = {}
    w = torch.randn((130, 192), generator=g) * 20
    w[0, :8] = torch.tensor([0.0, 2.0 ** -9, -3 * 2.0 ** -9, 2.0 ** -6, 448, -448, 1, -0.0])
    f8(out, "none", w[:2], None)
    f8(out, "tensor", w[2:4], torch.tensor(0.37))
    f8(out, "channel", w[4:8], torch.rand((4, 1), generator=g).to(torch.bfloat16))
    s = torch.rand((2, 2), generator=g)
    f8(out, "blocks", w, s, s.repeat_interleave(128, 0)[:130].repeat_interleave(128, 1)[:, :192])
    out["e5m2.weight"] = w[:2, :64].to(torch.float8_e5m2)
    out["e5m2.values"] = out["e5m2.weight"].float()
    out["f64.weight"] = w[:2, :64].double() / 3
    out["f64.values"] = out["f64.weight"].float()
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "f8.safetensors")


if __name__ == "__main__":
    main()
