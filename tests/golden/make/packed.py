"""Small matrices in the forms of several tensors that safetensors hold, and what their makers make of them -> ../packed/*.safetensors.

nf4.safetensors    plain.weight, nested.weight [24, 128] quantised by bitsandbytes (its own names beside them), without and with
                   double quantisation; plain.values, nested.values: its dequantisation in f32
nf4_wide.safetensors   wide.weight [33, 512], two groups of scales, with double quantisation; wide.values: rows 0, 31 and 32 dequantised
f8.safetensors     none, tensor, channel, blocks .weight in F8_E4M3 with no scale, one, one a row, one a block of 128 x 128;
                   e5m2.weight, f64.weight; *.values: the numbers by torch, in f32
nf4_llama/         a Llama of 2 layers as transformers saves one that bitsandbytes quantised on loading (config.json with its
                   quantization_config; layers' matrices NF4, double-quantised, in nf4_llama; the rest f32), without transformers'
                   own saving, which needs a card; expected.safetensors: ids, cu_seqlens, logits by transformers in double on the
                   matrices as bitsandbytes dequantises them

    PYTHONPATH=<site-packages with torch> python tests/golden/make/packed.py      (torch, transformers, bitsandbytes, safetensors)
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


def llama():
    import oracle
    from transformers import LlamaConfig, LlamaForCausalLM
    folder = OUT / "nf4_llama"
    folder.mkdir(exist_ok=True)
    config = LlamaConfig(vocab_size=40, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=64, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    m = LlamaForCausalLM(config).eval()
    g = torch.Generator().manual_seed(9)
    out = {}
    with torch.no_grad():
        for n, p in m.named_parameters():
            p.copy_((1 if "norm" in n else 0) + (0.1 if p.dim() < 2 else 0.2) * torch.randn(p.shape, generator=g))
            if "_proj" not in n:
                out[n] = p.detach().clone()
                continue
            q, state = F.quantize_4bit(p, blocksize=64, compress_statistics=True, quant_type="nf4", quant_storage=torch.uint8)
            out[n] = q
            out |= {f"{n}.{k}": v for k, v in state.as_dict(packed=True).items()}
            p.copy_(F.dequantize_4bit(q, state).float().reshape(p.shape))
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    c = config.to_dict() | {"architectures": ["LlamaForCausalLM"], "quantization_config": {
        "quant_method": "bitsandbytes", "_load_in_4bit": True, "_load_in_8bit": False, "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_storage": "uint8", "bnb_4bit_compute_dtype": "float32", "llm_int8_skip_modules": None}}
    oracle.write_json(str(folder / "config.json"), c)
    seqs = [torch.randint(3, 40, (n,), generator=g).tolist() for n in (9, 1, 5)]
    with torch.no_grad():
        exact = oracle.exact(m)
        logits = torch.cat([exact(input_ids=torch.tensor([q]), use_cache=False).logits[0] for q in seqs])
    cu = [0]
    for q in seqs:
        cu.append(cu[-1] + len(q))
    save_file({"ids": torch.tensor(sum(seqs, []), dtype=torch.int32), "cu_seqlens": torch.tensor(cu, dtype=torch.int32), "logits": logits.float().contiguous()},
              folder / "expected.safetensors")


def wide():
    out = {}
    nf4(out, "wide", torch.randn((33, 512), generator=torch.Generator().manual_seed(4)) * 0.02, True)
    out["wide.values"] = out["wide.values"][[0, 31, 32]]
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "nf4_wide.safetensors")


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
    llama()
    wide()


if __name__ == "__main__":
    main()
