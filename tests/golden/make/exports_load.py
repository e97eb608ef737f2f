"""Do others read what cyclora exports? Not a fixture: a check to run by hand, its last result in tests/golden/README.md.

  python tests/golden/make/exports_load.py [--gguf cache/SmolLM2-135M-Instruct.Q4_1.gguf --hf cache/smollm2-hf]

For a tiny checkpoint of each kind (tied and untied heads, biases, wide heads), with adapters made by PEFT (plain, rsLoRA, ranks and
alphas by module), and for the GGUF file with an adapter whose numbers are drawn here:
  peft       PEFT loads the exported folder onto the base: logits equal those of the original folder
  hf         transformers loads the merged folder: logits equal PEFT's merge_and_unload() of the original
  gguf       GGUFReader of the `gguf` package reads the merged file: names, shapes, and numbers equal the merged tensors, with q and k
             permuted as llama.cpp's converter does
  gguf-lora  GGUFReader reads the adapter: alpha / rank * B A equals PEFT's delta of every module, rows permuted
  mlx        keys and shapes of adapters.safetensors, and scale * (A B) transposed equals the delta
The merged folder made from the GGUF base is held against the dequantised folder of bench/peers/convert.py merged by PEFT."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import numpy as np
import torch
from gguf import GGUFReader, dequantize
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, utils

utils.logging.disable_progress_bar()

GOLDEN = "tests/golden/tiny_llama"
good = True


def say(name, what, worst, limit):
    global good
    good &= worst <= limit
    print(f"{name:34s} {what:10s} greatest difference {worst:.2e} (limit {limit:.0e}): {'ok' if worst <= limit else 'WRONG'}", flush=True)


def base_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def cyclora(a, *args):
    r = subprocess.run([a.cyclora, *args, "--force", "--json"], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"cyclora {' '.join(args)}: {r.stderr}")
    return json.loads(r.stdout)


def permute(w, heads):
    """Rows as LlamaModel.permute of llama.cpp's converter orders them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_name(hf):
    if hf.startswith("model.layers."):
        _, _, layer, rest = hf.split(".", 3)
        module, kind = rest.rsplit(".", 1)
        return f"blk.{layer}.{NAMES[module]}.{kind}"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}[hf]


def in_gguf(name, w, config):
    heads = config.num_attention_heads if ".q_proj." in name or name.endswith("q_proj") else config.num_key_value_heads if ".k_proj." in name or name.endswith("k_proj") else 0
    return permute(w, heads) if heads else w


def relative(a, b):
    return float(np.abs(a - b).max() / (np.abs(b).max() + 1e-30))


def check(a, name, base, hf, adapter, ids, tmp, exact=2e-6):
    """base: what cyclora reads; hf: its Hugging Face form; adapter: a PEFT folder."""
    theirs = PeftModel.from_pretrained(base_of(hf), adapter).eval()
    want = logits(theirs, ids)
    spread = float(want.std())
    deltas = {n.replace("base_model.model.", ""): m.get_delta_weight("default").detach().numpy() for n, m in theirs.named_modules() if hasattr(m, "get_delta_weight") and "default" in m.lora_A}
    config = theirs.config
    cyclora(a, "export", adapter, "--model", base, "--to", "peft", "--out", f"{tmp}/peft")
    say(name, "peft", float((logits(PeftModel.from_pretrained(base_of(hf), f"{tmp}/peft").eval(), ids) - want).abs().max()) / spread, 1e-7)
    merged = theirs.merge_and_unload()
    weights = {n: t.numpy() for n, t in merged.state_dict().items() if not (n == "lm_head.weight" and config.tie_word_embeddings)}

    cyclora(a, "merge", "--model", base, "--adapter", adapter, "--out", f"{tmp}/merged", "--type", "f32", "--max-shard-size", "60KB" if base == hf else "100MB")
    say(name, "hf", float((logits(base_of(f"{tmp}/merged"), ids) - logits(merged, ids)).abs().max()) / spread, 2e-5)
    cyclora(a, "merge", "--model", base, "--adapter", adapter, "--out", f"{tmp}/merged.gguf", "--type", "f32")
    read = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(f"{tmp}/merged.gguf").tensors}
    assert set(read) == {gguf_name(n) for n in weights}, set(read) ^ {gguf_name(n) for n in weights}
    say(name, "gguf", max(relative(read[gguf_name(n)].reshape(w.shape), in_gguf(n, w, config)) for n, w in weights.items()), exact)

    cyclora(a, "export", adapter, "--model", base, "--to", "gguf-lora", "--out", f"{tmp}/lora.gguf")
    reader = GGUFReader(f"{tmp}/lora.gguf")
    alpha = reader.fields["adapter.lora.alpha"].contents()
    assert reader.fields["general.type"].contents() == "adapter" and reader.fields["adapter.type"].contents() == "lora"
    read = {t.name: t.data for t in reader.tensors}
    assert len(read) == 2 * len(deltas)
    worst = 0
    for n, delta in deltas.items():
        lora_a, lora_b = (read[f"{gguf_name(n + '.weight')}.lora_{x}"].astype(np.float64) for x in "ab")
        worst = max(worst, relative(alpha / lora_a.shape[0] * lora_b @ lora_a, in_gguf(n, delta, config)))
    say(name, "gguf-lora", worst, exact)

    cyclora(a, "export", adapter, "--model", base, "--to", "mlx", "--out", f"{tmp}/mlx")
    settings = json.load(open(f"{tmp}/mlx/adapter_config.json"))
    assert settings["fine_tune_type"] == "lora" and settings["num_layers"] == config.num_hidden_layers
    read, p = load_file(f"{tmp}/mlx/adapters.safetensors"), settings["lora_parameters"]
    assert set(read) == {f"{n}.lora_{x}" for n in deltas for x in "ab"}
    assert {n.split(".", 3)[3] for n in deltas} == set(p["keys"])
    worst = 0
    for n, delta in deltas.items():
        lora_a, lora_b = read[n + ".lora_a"].double().numpy(), read[n + ".lora_b"].double().numpy()
        assert lora_a.shape == (delta.shape[1], p["rank"]) and lora_b.shape == (p["rank"], delta.shape[0])
        worst = max(worst, relative(p["scale"] * (lora_a @ lora_b).T, delta))
    say(name, "mlx", worst, exact)


def made_adapter(hf, out, seed, **settings):
    """A PEFT adapter with both matrices drawn."""
    torch.manual_seed(seed)
    m = get_peft_model(base_of(hf), LoraConfig(task_type="CAUSAL_LM", bias="none", **settings))
    for n, p in m.named_parameters():
        if "lora_" in n:
            p.data = torch.randn_like(p) * (0.3 / p.shape[-1] ** 0.5 if "lora_A" in n else 0.05)
    m.save_pretrained(out)
    return out


def check_head(a, name, base, ids, tmp):
    """LoRA on lm_head: PEFT leaves a tied table shared (its own merge would change both), so its logits with the adapter on are the measure."""
    adapter = made_adapter(base, f"{tmp}/head", 4, r=3, lora_alpha=6, target_modules=["lm_head", "q_proj"])
    want = logits(PeftModel.from_pretrained(base_of(base), adapter).eval(), ids)
    for kind, out in ("hf", f"{tmp}/head-merged"), ("gguf", f"{tmp}/head-merged.gguf"):
        cyclora(a, "merge", "--model", base, "--adapter", adapter, "--out", out, "--type", "f32")
    m = base_of(f"{tmp}/head-merged")
    assert not m.config.tie_word_embeddings and m.lm_head.weight is not m.model.embed_tokens.weight
    say(name, "hf", float((logits(m, ids) - want).abs().max()) / float(want.std()), 2e-5)
    read = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(f"{tmp}/head-merged.gguf").tensors}
    state = {gguf_name(n): (n, t.detach().numpy()) for n, t in m.state_dict().items()}
    assert set(read) == set(state), set(read) ^ set(state)
    say(name, "gguf", max(relative(read[g].reshape(w.shape), in_gguf(n, w, m.config)) for g, (n, w) in state.items()), 2e-6)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--gguf", default="cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    ap.add_argument("--hf", default="cache/smollm2-hf")
    a = ap.parse_args()
    torch.set_num_threads(2)
    ids = [3, 17, 5, 40, 61, 8, 90, 22, 7, 7, 33, 1]
    with tempfile.TemporaryDirectory() as tmp:
        for case in "tied_gqa", "untied_mha", "bias", "head_dim16":
            base = f"{GOLDEN}/{case}"
            check(a, case, base, base, f"{base}/adapter_all_r4", ids, tmp)
            rs = made_adapter(base, f"{tmp}/rs", 1, r=6, lora_alpha=3, use_rslora=True, target_modules="all-linear")
            check(a, case + " rsLoRA", base, base, rs, ids, tmp)
            pattern = made_adapter(base, f"{tmp}/pattern", 2, r=4, lora_alpha=8, target_modules="all-linear", rank_pattern={"q_proj": 7, "layers.1.mlp.down_proj": 2}, alpha_pattern={"k_proj": 5, "^model.layers.0.mlp.up_proj": 1.5})
            check(a, case + " patterns", base, base, pattern, ids, tmp)
            check_head(a, case + " head", base, ids, tmp)
        if os.path.exists(a.gguf) and os.path.exists(a.hf):
            drawn = made_adapter(a.hf, f"{tmp}/drawn", 3, r=8, lora_alpha=8, target_modules="all-linear")
            text = "Say it like a pirate: Good evening, my dear friend.\n  Ahoy there, it's 12345 o'clock!"
            tok = AutoTokenizer.from_pretrained(a.hf)
            check(a, "SmolLM2 (GGUF base)", a.gguf, a.hf, drawn, tok(text).input_ids, tmp, exact=2e-5)
            back = AutoTokenizer.from_pretrained(f"{tmp}/merged")
            lines = open("tests/golden/tokenizer/lines.txt", encoding="utf-8", newline="\n").read().split("\n")[:4000]
            differ = sum(tok(x).input_ids != back(x).input_ids for x in lines)
            say("SmolLM2 (GGUF base)", "tokenizer", differ, 0)
            chat = [{"role": "user", "content": "Hi"}]
            say("SmolLM2 (GGUF base)", "template", float(tok.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) != back.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)), 0)
        else:
            print(f"SmolLM2: left out ({a.gguf} or {a.hf} is not there)")
    sys.exit(not good)


if __name__ == "__main__":
    main()
