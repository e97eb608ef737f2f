"""Does cyclora compute with each stored type what its definition says? Not a fixture: a check to run by hand, its last result in
tests/golden/README.md.

  python tests/golden/make/formats.py [--cyclora build/release/cyclora] [--keep DIR]      (numpy, gguf, safetensors; torch and
                                                                                         bitsandbytes for the NF4 folder)

A tiny Llama (width 256, ffn 512, 2 layers, 4 heads of 64 on 2) is written once per GGUF type with every matrix in it, and once with
the same matrices in F32 as the package gguf dequantises them. `cyclora eval --text` must give each token the same likelihood
to 2e-4, and five sft steps must lower the loss to the same value (1e-3). Types that the package cannot write are random blocks.
The same for a Hugging Face folder in bitsandbytes' NF4 (double-quantised) and one in F8_E4M3 with a scale a row.
"""
import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

from blocks import HALVES, blocks

C, F, L, H, K, D = 256, 512, 2, 4, 2, 64
CIPHER = Path("tests/golden/cipher")
TEXT = "the quick brown fox, 12 of them, jumps over a lazy dog; and then again."
QUANTS = list(HALVES)
CAN_WRITE = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}


def bytes_to_unicode():
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    extra = [b for b in range(256) if b not in bs]
    return [chr(b) if b in bs else chr(256 + extra.index(b)) for b in range(256)]


def matrices(V):
    names = {"token_embd": (V, C)}
    for i in range(L):
        names |= {f"blk.{i}.attn_q": (H * D, C), f"blk.{i}.attn_k": (K * D, C), f"blk.{i}.attn_v": (K * D, C), f"blk.{i}.attn_output": (C, H * D),
                  f"blk.{i}.ffn_gate": (F, C), f"blk.{i}.ffn_up": (F, C), f"blk.{i}.ffn_down": (C, F)}
    return names


def quantised(name, shape, rng):
    """Bytes of a matrix whose weights have a deviation of 0.06."""
    if name in CAN_WRITE:
        q = gguf.quants.quantize((0.06 * rng.standard_normal(shape)).astype(np.float32), gguf.GGMLQuantizationType[name])
        return q.reshape(shape[0], -1)
    b, weights = blocks(name, shape[0] * shape[1] // gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0], rng)
    y = gguf.quants.dequantize(b, gguf.GGMLQuantizationType[name])
    for at in HALVES[name]:
        d = b[:, at:at + 2].copy().view("<f2").astype(np.float32) * (0.06 / y.std())
        b[:, at:at + 2] = d.astype("<f2").view(np.uint8)
    return b.reshape(shape[0], -1)


def write_gguf(path, data, types):
    V = 259
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(L), w.add_context_length(256), w.add_embedding_length(C), w.add_feed_forward_length(F), w.add_head_count(H), w.add_head_count_kv(K)
    w.add_layer_norm_rms_eps(1e-5), w.add_rope_dimension_count(D), w.add_vocab_size(V)
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("gpt-2")
    w.add_token_list(bytes_to_unicode() + ["<s>", "</s>", "th"]), w.add_token_types([1] * 256 + [3, 3, 1]), w.add_token_merges(["t h"])
    w.add_bos_token_id(256), w.add_eos_token_id(257), w.add_add_bos_token(False)
    for name, x in data.items():
        if types is None or x.ndim == 1:
            w.add_tensor(name, x.astype(np.float32))
        else:
            w.add_tensor(name, x, raw_dtype=gguf.GGMLQuantizationType[types])
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def gguf_pair(folder, name, seed):
    rng = np.random.default_rng(seed)
    q, f = {}, {}
    for n, shape in matrices(259).items():
        if name in ("F16", "BF16"):
            x = (0.06 * rng.standard_normal(shape)).astype(np.float32)
            t = gguf.GGMLQuantizationType[name]
            q[n + ".weight"] = gguf.quants.quantize(x, t)
        else:
            t = gguf.GGMLQuantizationType[name]
            q[n + ".weight"] = quantised(name, shape, rng)
        f[n + ".weight"] = gguf.quants.dequantize(q[n + ".weight"], t).reshape(shape)
    norms = ["output_norm"] + [f"blk.{i}.{n}" for i in range(L) for n in ("attn_norm", "ffn_norm")]
    for n in norms:
        q[n + ".weight"] = f[n + ".weight"] = (1 + 0.1 * rng.standard_normal(C)).astype(np.float32)
    a, b = str(folder / f"{name}.gguf"), str(folder / f"{name}-f32.gguf")
    write_gguf(a, q, name)
    write_gguf(b, f, None)
    return a, b


def hf_folder(path, tensors):
    path.mkdir()
    for n in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CIPHER / n, path / n)
    V = tensors["model.embed_tokens.weight"].shape[0]
    (path / "config.json").write_text(json.dumps(dict(
        architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=V, hidden_size=C, intermediate_size=F, num_hidden_layers=L, num_attention_heads=H,
        num_key_value_heads=K, head_dim=D, rms_norm_eps=1e-5, max_position_embeddings=256, rope_theta=10000.0, tie_word_embeddings=True, bos_token_id=0,
        eos_token_id=0, hidden_act="silu")))
    return path


def hf_pair(folder, kind):
    import torch
    from safetensors.torch import save_file as save_torch
    V = load_file(CIPHER / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    g = torch.Generator().manual_seed(5)
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    q, f = {}, {}
    for n, shape in matrices(V).items():
        x = 0.06 * torch.randn(shape, generator=g)
        parts = n.split(".")
        hf = "model.embed_tokens.weight" if len(parts) == 1 else f"model.layers.{parts[1]}.{names[parts[2]]}.weight"
        if len(parts) == 1:
            q[hf] = x.to(torch.bfloat16)
            f[hf] = q[hf].float()
        elif kind == "nf4":
            import bitsandbytes.functional as B
            q[hf], state = B.quantize_4bit(x, blocksize=64, compress_statistics=True, quant_type="nf4", quant_storage=torch.uint8)
            q |= {f"{hf}.{k}": v for k, v in state.as_dict(packed=True).items()}
            f[hf] = B.dequantize_4bit(q[hf], state).float().reshape(shape)
        else:
            s = x.abs().amax(1, keepdim=True) / 448
            q[hf] = (x / s).to(torch.float8_e4m3fn)
            q[hf + "_scale"] = s
            f[hf] = q[hf].float() * s
    for n in ["model.norm"] + [f"model.layers.{i}.{n}" for i in range(L) for n in ("input_layernorm", "post_attention_layernorm")]:
        q[n + ".weight"] = f[n + ".weight"] = 1 + 0.1 * torch.randn(C, generator=g)
    a, b = hf_folder(folder / kind, q), hf_folder(folder / f"{kind}-f32", f)
    save_torch({k: v.contiguous() for k, v in q.items()}, a / "model.safetensors")
    save_torch({k: v.contiguous() for k, v in f.items()}, b / "model.safetensors")
    return str(a), str(b)


def run(*args):
    r = subprocess.run(args, capture_output=True, text=True)
    if r.returncode:
        raise SystemExit(f"{' '.join(args)}:\n{r.stderr}")
    return r.stdout


def train(exe, model, out):
    (out / "d.jsonl").write_text("".join(json.dumps({"prompt": f"say {i}: ", "completion": TEXT[i:i + 20]}) + "\n" for i in range(8)))
    (out / "c.yaml").write_text(f"objective: sft\nmodel: {model}\ndata: {out}/d.jsonl\noutput_dir: {out}/run\nmax_steps: 5\nmax_length: 64\nlearning_rate: 0.01\n"
                                "per_device_train_batch_size: 4\nlogging_steps: 1\nlora: {r: 8, lora_alpha: 16, target_modules: all-linear}\n")
    shutil.rmtree(out / "run", ignore_errors=True)
    run(exe, "train", str(out / "c.yaml"), "--quiet")
    return [json.loads(line)["loss"] for line in (out / "run" / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]


def compare(exe, name, a, b, out):
    (out / "t.txt").write_text(TEXT)
    x, y = (np.array(json.loads(run(exe, "eval", "--model", m, "--text", str(out / "t.txt"), "--json"))["nll"]) for m in (a, b))
    p, q = train(exe, a, out), train(exe, b, out)
    worst = np.abs(x - y).max()
    ok = worst <= 2e-4 and len(p) == len(q) and np.abs(np.array(p) - np.array(q)).max() <= 1e-3 and p[-1] < p[0]
    print(f"| {name} | {x.mean():.5f} | {worst:.1e} | {p[0]:.4f} to {p[-1]:.4f} | {np.abs(np.array(p) - np.array(q)).max():.1e} |{'' if ok else ' FAILED'}", flush=True)
    return ok


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--keep")
    a = ap.parse_args()
    folder = Path(a.keep or tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    ok = True
    for i, name in enumerate(["F16", "BF16"] + QUANTS):
        ok &= compare(a.cyclora, name, *gguf_pair(folder, name, i), folder)
    try:
        import bitsandbytes, torch  # noqa: F401, E401
        for kind in ("nf4", "f8_e4m3"):
            shutil.rmtree(folder / kind, ignore_errors=True), shutil.rmtree(folder / f"{kind}-f32", ignore_errors=True)
            ok &= compare(a.cyclora, kind, *hf_pair(folder, kind), folder)
    except ImportError as e:
        print(f"NF4 and F8 left out: {e}")
    if not a.keep:
        shutil.rmtree(folder)
    raise SystemExit(not ok)


if __name__ == "__main__":
    main()
