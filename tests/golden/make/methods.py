"""Adapters of every method but plain LoRA on the tiny checkpoints of tiny_llama/ and families/, and what PEFT (plain PyTorch where PEFT
has no such method) says -> tests/golden/methods/.

Run:  python tests/golden/make/methods.py [case ...]     (torch, transformers, peft; needs tiny_llama/ and families/; deterministic)

<case>/adapter/                 as PEFT saves it, every trained number away from where it begins
<case>/fresh/                   where a fresh one begins, of methods that begin elsewhere than at the base (PiSSA, ...)
<case>/expected.safetensors     as tiny_llama's: a batch, logits, nll, loss, gradients, ten AdamW steps, greedy text. In double. Vectors are not decayed.

tests/model/test_methods.c has the same list of cases, with the base of each.
"""
import os
import sys

import families
import oracle
import tiny_llama
from oracle import f32, i32, torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftModel, get_peft_model

OUT = os.path.join(oracle.GOLDEN, "methods")
NORMS = ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm"]
CASES = {
    "ln": ("tiny_llama/tied_gqa", LNTuningConfig(task_type="CAUSAL_LM")),
    "ln_gemma2": ("families/gemma2", LNTuningConfig(task_type="CAUSAL_LM", target_modules=NORMS)),
    "ln_qwen3": ("families/qwen3", LNTuningConfig(task_type="CAUSAL_LM", target_modules=["q_norm", "k_norm", "input_layernorm"])),
    "ln_gpt2": ("families/gpt2", LNTuningConfig(task_type="CAUSAL_LM", target_modules=["ln_1", "ln_2", "ln_f"])),
    "bias_all": ("tiny_llama/bias", LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], bias="all")),
    "bias_own": ("families/gpt2", LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, target_modules=["c_fc", "mlp.c_proj"], bias="lora_only", fan_in_fan_out=True)),
    "ia3": ("tiny_llama/tied_gqa", IA3Config(task_type="CAUSAL_LM")),
    "ia3_gpt2": ("families/gpt2", IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn", "mlp.c_fc", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True)),
    "ia3_phi3": ("families/phi3", IA3Config(task_type="CAUSAL_LM", target_modules=["qkv_proj", "gate_up_proj", "o_proj", "down_proj"], feedforward_modules=["gate_up_proj", "down_proj"])),
    "bitfit": ("tiny_llama/bias", "bias"),
    "bitfit_qwen2": ("families/qwen2", "bias"),
    "lora_plus": ("tiny_llama/tied_gqa", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")),
    "dora": ("tiny_llama/tied_gqa", LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules="all-linear", rank_pattern={"v_proj": 3, "down_proj": 5}, task_type="CAUSAL_LM")),
    "dora_bias": ("tiny_llama/bias", LoraConfig(r=3, lora_alpha=5, use_dora=True, use_rslora=True, target_modules=["q_proj", "v_proj", "o_proj", "up_proj"], task_type="CAUSAL_LM")),
    "dora_gpt2": ("families/gpt2", LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")),
    "dora_plus": ("tiny_llama/bias", LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=["v_proj", "gate_proj"], bias="lora_only", task_type="CAUSAL_LM")),
}
RATIO = {"lora_plus": 4.0, "dora_plus": 4.0}  # of LoRA+: the learning rate of B and of vectors over that of A, as PEFT's create_loraplus_optimizer groups them


def trained(m):
    """{name in an adapter file: parameter}, in the model's order."""
    prefix = "" if isinstance(m, PeftModel) else "base_model.model."
    return {prefix + n.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"): p for n, p in m.named_parameters() if p.requires_grad}


def opened(base):
    return families.load(os.path.join(oracle.GOLDEN, base), None)


def fresh(base, config):
    m = opened(base)
    if config == "bias":
        for n, p in m.named_parameters():
            p.requires_grad_(n.endswith(".bias"))
        return m
    return get_peft_model(m, config)


def save(m, config, path, base):
    if config != "bias":
        oracle.save_adapter(m, path, base="tests/golden/" + base)
        return
    oracle.save(os.path.join(path, "adapter_model.safetensors"), {n: p.detach() for n, p in trained(m).items()})
    oracle.write_json(os.path.join(path, "adapter_config.json"), {"peft_type": "BITFIT", "base_model_name_or_path": "tests/golden/" + base, "task_type": "CAUSAL_LM", "target_modules": None})


def loaded(base, config, path):
    m = opened(base)
    if config != "bias":
        return PeftModel.from_pretrained(m, path, is_trainable=True)
    m = fresh(base, config)
    saved = oracle.load_file(os.path.join(path, "adapter_model.safetensors"))
    with torch.no_grad():
        for n, p in trained(m).items():
            p.copy_(saved[n])
    return m


def case(name, seed):
    base, config = CASES[name]
    d = os.path.join(OUT, name)
    seqs, labels, w, prompts = families.batch(seed)
    m = fresh(base, config)
    g = torch.Generator().manual_seed(100 * seed)
    with torch.no_grad():
        for n, p in trained(m).items():
            p.add_(torch.randn(p.shape, generator=g) * (0.1 if p.dim() == 1 or min(p.shape) == 1 or ".lora_B" in n else p.shape[-1] ** -0.5))
    ad = os.path.join(d, "adapter")
    save(m, config, ad, base)
    assert set(oracle.load_file(os.path.join(ad, "adapter_model.safetensors"))) == set(trained(m)), (set(oracle.load_file(os.path.join(ad, "adapter_model.safetensors"))) ^ set(trained(m)))
    tiny_llama.oracle.lora_params = trained
    tiny_llama.NEW = families.NEW
    m = loaded(base, config, ad).double()
    with families.double():
        gen = tiny_llama.generate(m, prompts)
        exact = tiny_llama.run(m, seqs, labels, w, RATIO.get(name, 1.0))
    noise = tiny_llama.far(exact, tiny_llama.run(loaded(base, config, ad), seqs, labels, w, RATIO.get(name, 1.0)))
    if name in RATIO:  # the product's own settings, which PEFT's file has no place for
        path = os.path.join(ad, "adapter_config.json")
        oracle.write_json(path, {**oracle.json.load(open(path)), "loraplus_lr_ratio": RATIO[name]})
    assert noise["logits"]["rel"] < 1e-5 and noise["grad"]["rel"] < 1e-4, noise
    common = {"ids": i32(sum(seqs, [])), "cu_seqlens": families.cu_of(seqs), "labels": i32(sum(labels, [])), "weights": torch.tensor(sum(w, []), dtype=torch.float32)}
    oracle.save(os.path.join(d, "expected.safetensors"), {**common, **{k: f32(v) for k, v in exact.items()}, **gen})
    print(name, "loss %.4f -> %.4f" % (exact["losses"][0], exact["losses"][9]), "min gap %.4f" % gen["gen.gap"].min(), {k: v["rel"] for k, v in noise.items()}, flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        case(name, 41 + sum(name.encode()) % 100)
