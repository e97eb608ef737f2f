"""RoPE's frequencies as transformers makes them, for each way of stretching them -> tests/golden/rope/tables.json.

Run:  python tests/golden/make/rope.py     (torch, transformers; seconds, deterministic)

A list of cases: config (a config.json), length (of the longest sequence, 0: not said), inv_freq and scale (of sine and cosine) by
ROPE_INIT_FUNCTIONS of transformers, f32. asked: the same table comes of asking the plain config (its rope_scaling taken out,
max_position_embeddings the original context) for rope_scaling; a case without has no such words. ntk is not among transformers' types: it is
the default one with the base that dynamic would have where factor * length / context - (factor - 1) is the factor.
"""
import json
import os

import numpy as np
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

OUT = os.path.join(os.path.dirname(__file__), "..", "rope")
SHAPE = {"model_type": "llama", "vocab_size": 40, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
         "rms_norm_eps": 1e-6, "hidden_act": "silu"}
rng = np.random.default_rng(7)
SHORT = [round(float(x), 3) for x in 1 + 0.2 * rng.random(48)]
LONG = [round(float(x), 3) for x in np.sort(1 + 30 * rng.random(48))]
TYPES = {
    "default": dict(theta=10000.0, head=64, context=2048),
    "linear": dict(theta=10000.0, head=64, context=2048, factor=4.0),
    "linear partial": dict(theta=10000.0, head=64, context=2048, factor=2.5, partial_rotary_factor=0.5),
    "ntk": dict(theta=10000.0, head=128, context=2048, factor=4.0),
    "dynamic short": dict(theta=10000.0, head=128, context=2048, factor=2.0, length=1024),
    "dynamic at its context": dict(theta=10000.0, head=128, context=2048, factor=2.0, length=2048),
    "dynamic": dict(theta=10000.0, head=128, context=2048, factor=2.0, length=5000),
    "dynamic far": dict(theta=500000.0, head=64, context=4096, factor=8.0, length=131072, partial_rotary_factor=0.5),
    "yarn": dict(theta=1000000.0, head=128, context=32768, factor=4.0),
    "yarn betas": dict(theta=10000.0, head=64, context=4096, factor=16.0, beta_fast=24.0, beta_slow=2.0),
    "yarn unrounded": dict(theta=150000.0, head=64, context=4096, factor=32.0, truncate=False),
    "yarn mscale": dict(theta=10000.0, head=64, context=4096, factor=40.0, mscale=1.0, mscale_all_dim=0.7),
    "yarn attention": dict(theta=10000.0, head=64, context=2048, factor=8.0, attention_factor=1.3),
    "llama3": dict(theta=500000.0, head=128, context=8192, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0),
    "llama3 small": dict(theta=500000.0, head=64, context=8192, factor=32.0, low_freq_factor=1.5, high_freq_factor=6.0),
    "longrope short": dict(theta=10000.0, head=96, context=4096, factor=32.0, short_factor=SHORT, long_factor=LONG, length=4096),
    "longrope long": dict(theta=10000.0, head=96, context=4096, factor=32.0, short_factor=SHORT, long_factor=LONG, length=4097),
    "longrope attention": dict(theta=10000.0, head=96, context=4096, factor=32.0, short_factor=SHORT, long_factor=LONG, length=100000, attention_factor=1.19),
}


def case(name, c):
    kind, words = name.split()[0], dict(c)
    theta, head, context, length = words.pop("theta"), words.pop("head"), words.pop("context"), words.pop("length", 0)
    partial = words.pop("partial_rotary_factor", 1.0)
    original = {} if kind in ("default", "linear", "ntk", "dynamic") else {"original_max_position_embeddings": context}
    stretched = int(context * words.get("factor", 1)) if original else context
    scaling = {"rope_type": kind, **words, **original}
    config = {**SHAPE, "hidden_size": head, "head_dim": head, "max_position_embeddings": stretched, "rope_theta": theta, "partial_rotary_factor": partial}
    dims = int(head * partial)
    theirs = {**scaling, "rope_theta": theta, "partial_rotary_factor": partial}
    if kind == "ntk":
        theirs = {"rope_type": "default", "rope_theta": theta * words["factor"] ** (dims / (dims - 2)), "partial_rotary_factor": partial}
    cfg = LlamaConfig(**{k: v for k, v in config.items() if k not in ("rope_theta", "partial_rotary_factor", "model_type")}, rope_parameters=theirs)
    make = ROPE_INIT_FUNCTIONS.get(theirs["rope_type"])
    inv, scale = make(cfg, "cpu", seq_len=length or None) if make else LlamaRotaryEmbedding.compute_default_rope_parameters(cfg)
    out = {"name": name, "config": config, "context": context, "length": length, "scale": float(scale), "inv_freq": [float(f"{float(x):.9g}") for x in inv]}
    assert len(inv) == dims // 2
    if kind != "default":
        out["scaling"] = scaling
    return out


os.makedirs(OUT, exist_ok=True)
with open(os.path.join(OUT, "tables.json"), "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(case(n, c)) for n, c in TYPES.items()) + "\n]\n")
