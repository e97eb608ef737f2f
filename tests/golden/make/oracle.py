"""Shared by the oracle scripts of this folder (not itself a script): a Llama in true double precision, and small savers.

transformers computes parts of its Llama in f32 whatever the model's type is (RMSNorm, the rotary angles). exact(model)
replaces those two by the same formulas in double, so that what we store is the right answer to the last bit of f32 and
not one of many f32 answers. Each script also runs the untouched f32 model and checks that the two agree.
"""
import json
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
import transformers

transformers.utils.logging.disable_progress_bar()
GOLDEN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def exact(model):
    """The model in double, computing everything in double. In place."""
    import types
    model.double()
    for m in model.modules():
        name = type(m).__name__
        if name == "LlamaRMSNorm":
            m.forward = types.MethodType(_norm, m)
        elif name == "LlamaRotaryEmbedding":
            c = m.config
            d = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
            theta = c.rope_parameters["rope_theta"]
            inv = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)

            def rope(self, x, position_ids, inv=inv):
                ang = position_ids[..., None].double() * inv
                ang = torch.cat([ang, ang], -1)
                return ang.cos(), ang.sin()
            m.forward = types.MethodType(rope, m)
    return model


def lora_params(model, adapter="default"):
    """{name in an adapter file: parameter}, in the model's order."""
    out = {}
    for n, p in model.named_parameters():
        if ".lora_" in n and f".{adapter}." in n:
            out[n.replace(f".{adapter}.", ".")] = p
    return out


def randomise_lora(model, gen, adapter="default"):
    """A and B both non-zero: at B = 0 a wrong dA passes."""
    with torch.no_grad():
        for n, p in lora_params(model, adapter).items():
            std = 0.1 if "lora_B" in n else p.shape[1] ** -0.5
            p.copy_((torch.randn(p.shape, generator=gen, dtype=torch.float32) * std).to(p.dtype))


def f32(t):
    return t.detach().to(torch.float32).contiguous().clone()


def i32(v):
    return torch.tensor(v, dtype=torch.int32)


def save(path, tensors, meta=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=meta)
    os.chmod(path, 0o644)


def save_adapter(model, path, adapter="default", base="base"):
    """save_pretrained, made deterministic (a set's order) and without the README."""
    tmp = path + ".tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(tmp, selected_adapters=[adapter])
    src = tmp if adapter == "default" else os.path.join(tmp, adapter)
    os.makedirs(path)
    shutil.copy(os.path.join(src, "adapter_model.safetensors"), path)
    c = json.load(open(os.path.join(src, "adapter_config.json")))
    if isinstance(c.get("target_modules"), list):
        c["target_modules"] = sorted(c["target_modules"])
    c["base_model_name_or_path"] = base
    write_json(os.path.join(path, "adapter_config.json"), c)
    shutil.rmtree(tmp)


def write_json(path, obj, **kw):
    with open(path, "w") as f:
        json.dump(obj, f, indent=2, sort_keys=True, **kw)
        f.write("\n")


def greedy(model, prompt, n, eos=None):
    """Greedy continuation without a cache; (ids, top-2 logit gaps). Stops after eos (kept as the last id)."""
    ids, out, gaps = list(prompt), [], []
    with torch.no_grad():
        for _ in range(n):
            lg = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            top = lg.topk(2).values
            k = int(lg.argmax())
            gaps.append(float(top[0] - top[1]))
            out.append(k)
            ids.append(k)
            if k == eos:
                break
    return out, gaps
