"""Several adapters on one base at once, as PEFT has them -> tests/golden/mix/.

Run:  python tests/golden/make/mix.py     (torch, transformers, peft; needs cipher/; deterministic)

base: tests/golden/cipher, in double.
chat/, style/    LoRA: ranks, scales and targets that differ; rsLoRA and a rank of its own for a module in one
ia3/, ia3_in/, norms/, prefix/, tokens/, vera/, adalora/, dora/, head/ (LoRA on lm_head)    other methods; saved/ a LoRA with a whole module beside it; whole/ a tensor in place of the base's (ours: PEFT has no such adapter)
expected.safetensors
  ids [T]; logits.WHAT [T, V]: base, chat, style; sum (both active); mixed (add_weighted_adapter, "cat", of WEIGHTS)
  row_ids [4, T]; rows [4, T, V] by adapter_names chat, __base__, style, chat in one batch
  prompt [P]; greedy.WHAT [NEW] of each; row_greedy [4, NEW] by generate(adapter_names=...)
  logits.METHOD of the other methods on a base that chat has been merged into: deltas first, then what scales or stands before them; logits.whole: chat on
  the base with that tensor; logits.ia3_in on style, whose gate and up are one group of which it scales one's input; logits.dora alone
biased/, plain/  two LoRAs for tests/golden/tiny_llama/bias, of which one has trained biases
  biased.ids [T]; logits.biased: both active
tests/model/test_mix.c reads all of it.
"""
import os
import sys

import oracle
from oracle import f32, i32, torch
from peft import AdaLoraConfig, IA3Config, LNTuningConfig, LoraConfig, PeftModel, PrefixTuningConfig, TrainableTokensConfig, VeraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

OUT = os.path.join(oracle.GOLDEN, "mix")
T, P, NEW, WEIGHTS = 12, 5, 8, [0.7, -0.4]
ROWS = ["chat", "__base__", "style", "chat"]
CONFIGS = {
    "chat": LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"]),
    "style": LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "k_proj", "up_proj", "down_proj"], rank_pattern={"up_proj": 2}),
    "saved": LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"], modules_to_save=["k_proj"]),
    "dora": LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, use_dora=True, target_modules=["q_proj", "down_proj"]),
    "ia3": IA3Config(task_type="CAUSAL_LM"),
    "norms": LNTuningConfig(task_type="CAUSAL_LM"),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "ia3_in": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "up_proj"], feedforward_modules=["up_proj"]),
    "tokens": TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[35, 3, 28]),
    "vera": VeraConfig(task_type="CAUSAL_LM", r=6, target_modules=["q_proj", "o_proj"], save_projection=True),
    "adalora": AdaLoraConfig(task_type="CAUSAL_LM", init_r=3, target_r=2, lora_alpha=6, total_step=10, target_modules=["q_proj", "down_proj"]),
    "head": LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["lm_head"]),
}
SEEDS = ["chat", "style", "dora", "ia3", "norms", "prefix", "ia3_in", "tokens", "vera", "adalora", "saved", "biased", "plain", "head"]
BIASED = {
    "biased": LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], bias="all"),
    "plain": LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "o_proj"]),
}
WHOLE = "model.layers.1.self_attn.v_proj.weight"  # the tensor that whole/ puts in place of the base's


def base(name="cipher"):
    return oracle.exact(AutoModelForCausalLM.from_pretrained(os.path.join(oracle.GOLDEN, name), dtype=torch.float32, attn_implementation="eager")).eval()


def trained(m):
    return {n: p for n, p in m.named_parameters() if p.requires_grad}


def make(configs, on):
    for name, config in configs.items():
        k = SEEDS.index(name)
        torch.manual_seed(k + 1)
        m = get_peft_model(base(on), config)
        g = torch.Generator().manual_seed(100 + k)
        with torch.no_grad():
            for n, p in trained(m).items():
                p.add_(torch.randn(p.shape, generator=g) * (0.2 if p.dim() == 1 or min(p.shape) == 1 or ".lora_B" in n else p.shape[-1] ** -0.5))
        oracle.save_adapter(m.float(), os.path.join(OUT, name), base="tests/golden/" + on)


def make_whole():
    w = base().get_parameter(WHOLE)
    w = w + 0.2 * torch.randn(w.shape, generator=torch.Generator().manual_seed(300))
    oracle.save(os.path.join(OUT, "whole", "adapter_model.safetensors"), {"base_model.model." + WHOLE: f32(w)})
    oracle.write_json(os.path.join(OUT, "whole", "adapter_config.json"),
                      {"base_model_name_or_path": "tests/golden/cipher", "task_type": "CAUSAL_LM", "peft_type": "FULL", "target_modules": ["v_proj"], "layers_to_transform": [1]})


def on_whole():
    m = base()
    with torch.no_grad():
        m.get_parameter(WHOLE).copy_(oracle.load_file(os.path.join(OUT, "whole", "adapter_model.safetensors"))["base_model.model." + WHOLE])
    return PeftModel.from_pretrained(m, folder("chat")).double().eval()


def folder(name):
    return os.path.join(OUT, name)


def both():
    m = PeftModel.from_pretrained(base(), folder("chat"), adapter_name="chat")
    m.load_adapter(folder("style"), adapter_name="style")
    m.add_weighted_adapter(["chat", "style"], WEIGHTS, "mixed", combination_type="cat")
    return m.double().eval()


def on_merged(name, under="chat"):
    merged = PeftModel.from_pretrained(base(), folder(under)).double().merge_and_unload()
    return PeftModel.from_pretrained(merged, folder(name)).double().eval()


def on_biased():
    m = PeftModel.from_pretrained(base("tiny_llama/bias"), folder("biased"), adapter_name="biased")
    m.load_adapter(folder("plain"), adapter_name="plain")
    m.base_model.set_adapter(["biased", "plain"])
    return m.double().eval()


def logits(m, ids, **kw):
    with torch.no_grad():
        return m(input_ids=torch.tensor([ids] if isinstance(ids[0], int) else ids), use_cache=False, **kw).logits[:, -T:]


def main():
    make(CONFIGS, "cipher")
    make(BIASED, "tiny_llama/bias")
    make_whole()
    g = torch.Generator().manual_seed(7)
    V = base().config.vocab_size
    ids = torch.randint(2, V, (T,), generator=g).tolist()
    rows = torch.randint(2, V, (4, T), generator=g).tolist()
    out = {"ids": i32(ids), "row_ids": i32(rows), "prompt": i32(ids[:P])}
    m = both()
    gaps = []

    def keep(what, m):
        out["logits." + what] = f32(logits(m, ids)[0])
        new, gap = oracle.greedy(m, ids[:P], NEW)
        out["greedy." + what] = i32(new)
        gaps.extend(gap)

    with m.disable_adapter():
        keep("base", m)
    for what, active in {"chat": ["chat"], "style": ["style"], "sum": ["chat", "style"], "mixed": ["mixed"]}.items():
        m.base_model.set_adapter(active)
        keep(what, m)
    m.base_model.set_adapter(["chat"])
    m.generation_config.eos_token_id = m.get_base_model().generation_config.eos_token_id = None
    out["rows"] = f32(logits(m, rows, adapter_names=ROWS))
    made = m.generate(input_ids=torch.tensor([r[:P] for r in rows]), attention_mask=torch.ones(4, P, dtype=torch.long), adapter_names=ROWS,
                      generation_config=GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=1))
    out["row_greedy"] = i32(made[:, P:].tolist())
    out["logits.whole"] = f32(logits(on_whole(), ids)[0])
    for name in ("ia3", "norms", "prefix", "tokens", "vera", "adalora", "saved", "head"):
        out["logits." + name] = f32(logits(on_merged(name), ids)[0])
    out["logits.ia3_in"] = f32(logits(on_merged("ia3_in", "style"), ids)[0])
    out["logits.dora"] = f32(logits(PeftModel.from_pretrained(base(), folder("dora")).double().eval(), ids)[0])
    some = torch.randint(2, base("tiny_llama/bias").config.vocab_size, (T,), generator=g).tolist()
    out["biased.ids"] = i32(some)
    moved = {k: round(float((v - out["logits.base"]).abs().max()), 3) for k, v in out.items() if k.startswith("logits.")}
    print("moved from the base:", moved, "least gap of a greedy token:", round(min(gaps), 5))
    assert all(v > 0.1 for k, v in moved.items() if k != "logits.base") and min(gaps) > 1e-3
    out["logits.biased"] = f32(logits(on_biased(), some)[0])
    oracle.save(os.path.join(OUT, "expected.safetensors"), out)


if __name__ == "__main__":
    sys.exit(main())
