"""Adapters made of adapters by PEFT's add_weighted_adapter and by torch's SVD -> tests/golden/arithmetic/, for `cyclora adapter`.

Run:  python tests/golden/make/arithmetic.py             (torch, transformers, peft; needs tiny_llama/; deterministic)
      python tests/golden/make/arithmetic.py --loads CYCLORA   by hand: PEFT loads what the program CYCLORA makes of the adapters, and its logits
                                                          must be those of PEFT's own combination

a/, b/           LoRA of rank 3 on some modules of tiny_llama/tied_gqa, some in both; b's is rank-stabilised
c/               the same with ranks and alphas by module, and a negative scale
expected.safetensors   WAY.MODULE.A and .B of every way that combines numbers; WAY.MODULE.product [out, in] of svd, cat and resize; resize.MODULE.sizes

Numbers are combined in f32, as PEFT does it; products are in double. DARE's random numbers are cyclora's philox, so the masks are one.
"""
import argparse
import os
import subprocess
import tempfile

import numpy as np
import oracle
from oracle import f32, torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.model import LoraModel
from peft.utils import merge_utils
from transformers import AutoModelForCausalLM

OUT = os.path.join(oracle.GOLDEN, "arithmetic")
BASE = "tests/golden/tiny_llama/tied_gqa"
ADAPTERS = {"a": LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], layers_to_transform=[0, 1]),
            "b": LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=2, use_rslora=True, target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 1]),
            "c": LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=-3, target_modules=["q_proj", "v_proj"], layers_to_transform=[0, 1], rank_pattern={"v_proj": 4}, alpha_pattern={r"1\.self_attn\.q_proj": 5})}
WEIGHTS, SEED, DENSITY = [0.7, -0.4], 11, 0.6
WAYS = {"linear": {}, "ties": {}, "ties_count": {"majority_sign_method": "frequency"}, "magnitude_prune": {}, "dare_linear": {}, "dare_ties": {}}
OF = {"svd": ["a", "c"], "cat": ["a", "c"]} | {way: ["a", "b"] for way in WAYS}


def philox(key, c0, c1, c2, c3):
    """src/base/philox.h, on arrays."""
    mask = np.uint64(0xFFFFFFFF)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in (c0, c1, c2, c3))
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & mask, (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0


def keeps(name, nth, shape):
    """Which numbers of a tensor DARE keeps: src/export/combine.c."""
    key = SEED ^ ((0x4441 * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF)
    h = 2166136261
    for c in name.encode():
        h = (h ^ c) * 16777619 & 0xFFFFFFFF
    n = int(np.prod(shape))
    r = philox(key, np.full(n, h), np.arange(n), np.zeros(n), np.full(n, nth))
    return torch.tensor(((r >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24) < np.float32(DENSITY)).reshape(shape))


def modules(model):
    return {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")}


def loaded(path=OUT):
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, os.path.join(path, "a"), adapter_name="a")
    for name in list(ADAPTERS)[1:]:
        model.load_adapter(os.path.join(path, name), name)
    return model


def combined(model, way):
    """PEFT's own, with DARE's masks from keeps()."""
    nth = {}
    for module, m in modules(model).items():
        have = [n for n in OF[way] if n in m.lora_A]
        for k, n in enumerate(have):
            for side, part in (("A", m.lora_A), ("B", m.lora_B)):
                nth[part[n].weight.data_ptr()] = (f"base_model.model.{module}.lora_{side}.weight", k)

    def random_pruning(tensor, density, rescale):
        return tensor * keeps(*nth[tensor.data_ptr()], tensor.shape) / density

    own, merge_utils.random_pruning = merge_utils.random_pruning, random_pruning
    model.base_model.add_weighted_adapter(OF[way], WEIGHTS, way, combination_type=way.removesuffix("_count"), density=None if way in ("linear", "svd", "cat") else DENSITY, **WAYS.get(way, {}))
    merge_utils.random_pruning = own
    return {name: (m.lora_A[way].weight, m.lora_B[way].weight) for name, m in modules(model).items() if any(n in m.lora_A for n in OF[way])}


def make():
    torch.manual_seed(5)
    for name, config in ADAPTERS.items():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), config)
        with torch.no_grad():
            for n, p in model.named_parameters():
                if "lora_" in n:
                    p.normal_(0, 0.3)
        model.base_model.peft_config["default"].base_model_name_or_path = BASE
        model.save_pretrained(os.path.join(OUT, name))
        os.unlink(os.path.join(OUT, name, "README.md"))
    out = {}
    for way in OF:
        for name, (a, b) in combined(loaded(), way).items():
            if way in WAYS:
                out[f"{way}.{name}.A"], out[f"{way}.{name}.B"] = f32(a), f32(b)
            else:
                out[f"{way}.{name}.product"] = f32(b.double() @ a.double())
    for name, m in modules(loaded()).items():
        if "c" not in m.lora_A:
            continue
        u, s, v = torch.linalg.svd(m.scaling["c"] * m.lora_B["c"].weight.double() @ m.lora_A["c"].weight.double(), full_matrices=False)
        out[f"resize.{name}.product"] = f32(u[:, :1] * s[:1] @ v[:1])
        out[f"resize.{name}.sizes"] = f32(s[:4])
    oracle.save(os.path.join(OUT, "expected.safetensors"), out)


def loads(program):
    ids = torch.arange(3, 35).reshape(1, -1)
    ways = {"svd": ["average", "--rank", "4"], "cat": ["average", "--type", "cat"], "linear": ["average", "--type", "linear"], "ties": ["ties"], "ties_count": ["ties", "--sign", "frequency"], "magnitude_prune": ["prune"],
            "dare_linear": ["dare", "--seed", str(SEED)], "dare_ties": ["dare", "--ties", "--seed", str(SEED)]}
    for way, args in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            density = [] if way in ("svd", "cat", "linear") else ["--density", str(DENSITY)]
            subprocess.run([program, "adapter", args[0], *[f"{OUT}/{n}" for n in OF[way]], *args[1:], *density, "--weights=" + ",".join(map(str, WEIGHTS)), "--out", folder, "--force"], check=True, capture_output=True)
            with torch.no_grad():
                ours = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), folder)(ids).logits
                model = loaded()
                combined(model, way)
                model.base_model.set_adapter(way)
                theirs = model(ids).logits
                model.base_model.disable_adapter_layers()
                bare = model(ids).logits
        print(f"{way:16} greatest difference of a logit {(ours - theirs).abs().max():.2e}; moved by {(theirs - bare).abs().max():.2f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--loads")
    a = p.parse_args()
    loads(a.loads) if a.loads else make()
