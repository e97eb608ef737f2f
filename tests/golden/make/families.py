"""Tiny random checkpoints of every model family but plain Llama, a PEFT LoRA adapter on each, and what transformers and PEFT say
about them -> tests/golden/families/<case>/.

Run:  python tests/golden/make/families.py [CASE ...]     (torch, transformers, peft, safetensors, gguf; a minute, deterministic)

config.json, model.safetensors   a Hugging Face checkpoint. A case whose name ends in _v4 has the configuration keys of
                                 transformers 4 (rope_theta, rope_scaling, rope_local_base_freq, torch_dtype)
model.gguf                       the same weights under llama.cpp's names: rows of q and k interleaved (Llama's kind), norm
                                 weights with Gemma's 1 added, Conv1D transposed
adapter/                         a PEFT adapter on all linear layers, A and B both non-zero
expected.safetensors             a batch, and with the adapter (integers are int32; N tokens, S sequences, V words):
  ids[N] cu_seqlens[S+1] labels[N] weights[N]   labels[i] is the target AT position i (already shifted)
  logits[N,V] nll[N] loss[1]                    loss = sum w nll / sum w
  grad.<adapter tensor>, grad_norm[1]           of the loss, before clipping
  after1.<adapter tensor>                       after one AdamW step (lr 1e-2, wd 0.01, betas .9 .999, eps 1e-8, clip 1.0)
  gen.prompts gen.cu gen.ids gen.gap            greedy continuations; gap: top-1 - top-2

Sizes are small and switches are set to values that matter (windows of 4, soft-caps near the values they cap, RoPE scalings at
contexts of a dozen tokens). Answers are computed in double, as `double` below says; each is compared with plain f32 PyTorch.
"""
import argparse
import contextlib
import copy
import os
import shutil

import gguf
import numpy as np
import oracle
from oracle import f32, i32, torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

OUT = os.path.join(oracle.GOLDEN, "families")
V, LENS, PROMPTS, NEW = 40, (7, 1, 12, 3), (4, 1, 6), 8
COMMON = dict(vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)
HEAD = dict(head_dim=8)
NARROW = dict(hidden_size=32, num_hidden_layers=2)  # where head_dim is always C / H
PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
LONG = {"rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0], "original_max_position_embeddings": 32,
        "partial_rotary_factor": 0.5}
CASES = {
    "llama_linear": ("llama", dict(rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}, **HEAD)),
    "llama_3_v4": ("llama", dict(rope_parameters={"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
                                                  "high_freq_factor": 4.0, "original_max_position_embeddings": 32}, **HEAD)),
    "llama_yarn": ("llama", dict(rope_parameters={"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
                                                  "original_max_position_embeddings": 16, "beta_fast": 2.0}, **HEAD)),
    "mistral_v4": ("mistral", dict(sliding_window=4, rope_parameters=PLAIN, **HEAD)),
    "mistral_full": ("mistral", dict(sliding_window=None, rope_parameters=PLAIN, tie_word_embeddings=True, **HEAD)),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True, rope_parameters=PLAIN, **NARROW)),
    "qwen2_window_v4": ("qwen2", dict(use_sliding_window=True, sliding_window=4, max_window_layers=1, rope_parameters=PLAIN, **NARROW)),
    "qwen3": ("qwen3", dict(tie_word_embeddings=True, rope_parameters=PLAIN, **HEAD)),
    "qwen3_bias": ("qwen3", dict(attention_bias=True, use_sliding_window=True, sliding_window=5, max_window_layers=2, rope_parameters=PLAIN, **HEAD)),
    "smollm3": ("smollm3", dict(rope_parameters=PLAIN, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=1)),
    "smollm3_window_v4": ("smollm3", dict(no_rope_layers=[0, 1], use_sliding_window=True, sliding_window=4, attention_bias=True, mlp_bias=True,
                                          rope_parameters=PLAIN, tie_word_embeddings=False, **NARROW)),
    "phi3": ("phi3", dict(sliding_window=4, rope_parameters=PLAIN, **NARROW)),
    "phi3_long_v4": ("phi3", dict(rope_parameters=LONG, tie_word_embeddings=True, original_max_position_embeddings=32, **NARROW)),
    "gemma2": ("gemma2", dict(sliding_window=4, query_pre_attn_scalar=8, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, rope_parameters=PLAIN, **HEAD)),
    "gemma3": ("gemma3_text", dict(sliding_window=4, query_pre_attn_scalar=8, rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}, "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}},
        num_hidden_layers=7, **HEAD)),
    "gemma3_v4": ("gemma3_text", dict(sliding_window=4, query_pre_attn_scalar=13, final_logit_softcapping=3.0, rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}, "full_attention": {"rope_type": "default", "rope_theta": 5000.0}},
        sliding_window_pattern=2, **HEAD)),
    "gpt2": ("gpt2", None),
}
GPT2 = dict(vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=24, bos_token_id=1, eos_token_id=2)


# --- double ---------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def double():
    """transformers computes norms, softmaxes and rotary angles in f32 whatever the model's type is. Here what asks for f32 gets
    double, so that what is stored is the right answer and not one of many f32 answers."""
    to, flt, soft = torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax

    def wide(x):
        return torch.float64 if x is torch.float32 else x

    torch.Tensor.to = lambda self, *a, **k: to(self, *[wide(x) for x in a], **{n: wide(x) for n, x in k.items()})
    torch.Tensor.float = lambda self: self.double()
    torch.nn.functional.softmax = lambda x, *a, **k: soft(x, *a, **{n: wide(v) for n, v in k.items()})
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax = to, flt, soft


# --- checkpoints ------------------------------------------------------------------------------------------------------------
def v4(c):
    """The keys that transformers 4 wrote."""
    c["torch_dtype"] = c.pop("dtype")
    p = c.pop("rope_parameters")
    if "full_attention" in p:
        c["rope_local_base_freq"] = p["sliding_attention"]["rope_theta"]
        p = p["full_attention"]
        c["sliding_window_pattern"] = c.pop("layer_types").index("full_attention") + 1
    c["rope_theta"] = p.pop("rope_theta")
    if "partial_rotary_factor" in p:
        c["partial_rotary_factor"] = p.pop("partial_rotary_factor")
    if c["model_type"] == "phi3":
        p.pop("original_max_position_embeddings", None)
    if p["rope_type"] != "default":
        c["rope_scaling"] = {"type": p["rope_type"], **p}
        if c["model_type"] == "phi3":
            del c["rope_scaling"]["rope_type"]
    c.pop("layer_types", None)


def make_base(name, kind, kw, seed):
    cfg = AutoConfig.for_model(kind, **copy.deepcopy(GPT2 if kind == "gpt2" else {**COMMON, **kw}))  # transformers adds keys to what it is given
    m = AutoModelForCausalLM.from_config(cfg, dtype=torch.float32)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for n, p in m.named_parameters():
            z = torch.randn(p.shape, generator=g)
            one = 0.0 if kind.startswith("gemma") else 1.0
            p.copy_(one + 0.1 * z if ("norm" in n or "ln_" in n) and "bias" not in n else (0.3 if p.dim() > 1 else 0.1) * z)
    d = os.path.join(OUT, name)
    shutil.rmtree(d, ignore_errors=True)
    m.save_pretrained(d)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(d, "generation_config.json"))
    c = oracle.json.load(open(os.path.join(d, "config.json")))
    if name.endswith("_v4"):
        v4(c)
    oracle.write_json(os.path.join(d, "config.json"), c)
    return d


def load(d, kind):
    m = AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32, attn_implementation="eager")
    m.config.use_cache = False
    return m.eval()


# --- GGUF -------------------------------------------------------------------------------------------------------------------
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm",
         "post_feedforward_layernorm": "post_ffw_norm", "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
         "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
ARCH = {"mistral": "llama", "gemma3_text": "gemma3"}


def gguf_name(module, kind):
    parts = module.split(".")
    layer = next((i for i, p in enumerate(parts) if p.isdigit()), None)
    if layer is None:
        return NAMES[module]
    short = ".".join(parts[layer + 1:])
    if kind.startswith("gemma") and short == "post_attention_layernorm":
        return f"blk.{parts[layer]}.post_attention_norm"
    return f"blk.{parts[layer]}.{NAMES[short]}"


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(d, kind, m):
    c, arch = m.config, ARCH.get(kind, kind)
    w = gguf.GGUFWriter(os.path.join(d, "model.gguf"), arch)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_head_count(c.num_attention_heads)
    if kind == "gpt2":
        w.add_feed_forward_length(4 * c.n_embd)
        w.add_layer_norm_eps(c.layer_norm_epsilon)
    else:
        head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        rope = c.rope_parameters
        local = rope.get("sliding_attention")
        rope = rope.get("full_attention", rope)
        w.add_feed_forward_length(c.intermediate_size)
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
        w.add_head_count_kv(c.num_key_value_heads)
        w.add_key_length(head)
        w.add_value_length(head)
        w.add_rope_freq_base(rope["rope_theta"])
        w.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1)))
        if local:
            w.add_float32("gemma3.rope.freq_base_swa", local["rope_theta"])
        if kind in ("gemma2", "gemma3_text", "phi3", "mistral") and c.sliding_window:
            w.add_sliding_window(c.sliding_window)
        if kind == "gemma2":
            w.add_attn_logit_softcapping(c.attn_logit_softcapping)
            w.add_final_logit_softcapping(c.final_logit_softcapping)
        if rope["rope_type"] in ("linear", "yarn"):
            w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            w.add_rope_scaling_factor(rope["factor"])
            if rope["rope_type"] == "yarn":
                w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
                w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        if rope["rope_type"] == "llama3":
            inv, _ = m.model.rotary_emb.compute_default_rope_parameters(c)
            w.add_tensor("rope_freqs.weight", (inv / m.model.rotary_emb.inv_freq).numpy().astype(np.float32))
        if rope["rope_type"] == "longrope":
            w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            w.add_rope_scaling_attn_factors(m.model.rotary_emb.attention_scaling)
            for which in ("short", "long"):
                w.add_tensor(f"rope_factors_{which}.weight", np.array(rope[which + "_factor"], np.float32))
    tied = c.tie_word_embeddings
    for n, t in m.state_dict().items():
        module, _, suffix = n.rpartition(".")
        if tied and module == "lm_head":
            continue
        a = t.detach().numpy().astype(np.float32)
        if arch in ("llama", "smollm3") and ("q_proj" in n or "k_proj" in n):
            a = permute(a, c.num_attention_heads if "q_proj" in n else c.num_key_value_heads)
        if kind.startswith("gemma") and "norm" in n:
            a = a + 1
        if kind == "gpt2" and suffix == "weight" and (".attn.c" in n or ".mlp.c" in n):
            a = a.T
        w.add_tensor(f"{gguf_name(module, kind)}.{suffix}", np.ascontiguousarray(a))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


T5 = {"t5": dict(feed_forward_proj="relu", relative_attention_max_distance=128), "t5_gated_v4": dict(feed_forward_proj="gated-gelu", relative_attention_max_distance=20, tie_word_embeddings=False)}
T5_NAMES = {"SelfAttention": "attn", "EncDecAttention": "cross_attn"}


def t5_gguf(module):
    if module == "shared":
        return "token_embd"
    if module == "lm_head":
        return "output"
    stack = "enc" if module.startswith("encoder") else "dec"
    if "final" in module:
        return stack + ".output_norm"
    p = module.split(".")
    l, i, rest = p[2], int(p[4]), p[5:]
    ffn = i == (1 if stack == "enc" else 2)
    if rest[0] == "layer_norm":
        part = "ffn_norm" if ffn else "attn_norm" if i == 0 else "cross_attn_norm"
    elif ffn:
        part = {"wi": "ffn_up", "wi_0": "ffn_gate", "wi_1": "ffn_up", "wo": "ffn_down"}[rest[1]]
    else:
        part = "attn_rel_b" if rest[1] == "relative_attention_bias" else f"{T5_NAMES[rest[0]]}_{rest[1]}"
    return f"{stack}.blk.{l}.{part}"


class Untied(T5ForConditionalGeneration):
    """v1.1 has a head of its own."""
    _tied_weights_keys = {k: v for k, v in T5ForConditionalGeneration._tied_weights_keys.items() if "lm_head" not in k}


def t5(name, kw, seed):
    """t5*/: an encoder-decoder. ids, labels, weights, logits ... are the decoder's; src_ids[M] src_cu[S+1] the encoder's; gen.prompts are
    the encoder's too. buckets[2,1201]: of relative positions -600..600, both ways and causal, for 32 buckets up to 128."""
    d = os.path.join(OUT, name)
    cls = Untied if kw.get("tie_word_embeddings") is False else T5ForConditionalGeneration
    cfg = T5Config(vocab_size=V, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=3, num_heads=2, relative_attention_num_buckets=8,
                   decoder_start_token_id=0, dropout_rate=0.0, **kw)
    m = cls(cfg)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for n, p in m.named_parameters():
            z = torch.randn(p.shape, generator=g)
            p.copy_(1 + 0.1 * z if "norm" in n else z if "bias" in n or "shared" in n else 0.3 * z)
    shutil.rmtree(d, ignore_errors=True)
    m.save_pretrained(d)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(d, "generation_config.json"))
    c = oracle.json.load(open(os.path.join(d, "config.json")))
    if name.endswith("_v4"):
        c["torch_dtype"] = c.pop("dtype")
        c["tie_word_embeddings"] = kw["tie_word_embeddings"]
        del c["scale_decoder_outputs"]
    c["architectures"] = ["T5ForConditionalGeneration"]
    oracle.write_json(os.path.join(d, "config.json"), c)

    def fresh():
        x = cls.from_pretrained(d, dtype=torch.float32, attn_implementation="eager")
        x.config.use_cache = False
        return x.eval()

    w = gguf.GGUFWriter(os.path.join(d, "model.gguf"), "t5")
    w.add_context_length(64)
    w.add_embedding_length(16)
    w.add_feed_forward_length(24)
    w.add_block_count(2)
    w.add_uint32("t5.decoder_block_count", 3)
    w.add_head_count(2)
    w.add_key_length(8)
    w.add_value_length(8)
    w.add_layer_norm_rms_eps(cfg.layer_norm_epsilon)
    w.add_relative_attn_buckets_count(8)
    w.add_decoder_start_token_id(0)
    base = fresh()
    for n, t in base.state_dict().items():
        module, _, _ = n.rpartition(".")
        if "embed_tokens" in n or (module == "lm_head" and cls is not Untied):
            continue
        w.add_tensor(t5_gguf(module) + ".weight", np.ascontiguousarray(t.detach().numpy()))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    seqs, _, wts, prompts = batch(seed)
    src = [torch.randint(3, V, (n,), generator=g).tolist() + [1] for n in (12, 3, 1, 6)]
    seqs = [[0] + q for q in seqs]
    wts = [[1.0 if i < len(q) - 1 else 0.0 for i in range(len(q))] for q in seqs]
    labels = [q[1:] + [0] for q in seqs]
    pm = get_peft_model(fresh(), LoraConfig(task_type="SEQ_2_SEQ_LM", lora_dropout=0.0, bias="none", r=2, lora_alpha=3, target_modules="all-linear"))
    oracle.randomise_lora(pm, torch.Generator().manual_seed(100 * seed))
    ad = os.path.join(d, "adapter")
    oracle.save_adapter(pm, ad, base=f"tests/golden/families/{name}")

    def logits(m):
        return torch.cat([m(input_ids=torch.tensor([s]), decoder_input_ids=torch.tensor([q]), use_cache=False).logits[0] for s, q in zip(src, seqs)])

    def greedy(m, p):
        ids, out, gaps = [0], [], []
        with torch.no_grad():
            for _ in range(NEW):
                z = m(input_ids=torch.tensor([p]), decoder_input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
                top = z.topk(2).values
                gaps.append(float(top[0] - top[1]))
                out.append(int(z.argmax()))
                ids.append(out[-1])
        return out, gaps

    m = PeftModel.from_pretrained(fresh().double(), ad, is_trainable=True).double()
    with double():
        gen = [greedy(m, p) for p in prompts]
        exact = answers(m, logits, labels, wts)
    plain = answers(PeftModel.from_pretrained(fresh(), ad, is_trainable=True), logits, labels, wts)
    noise = far(exact, plain)
    assert noise["logits"] < 1e-5 and noise["grad"] < 1e-4, noise
    gap = torch.tensor([b for _, b in gen], dtype=torch.float32)
    oracle.save(os.path.join(d, "expected.safetensors"),
                {"ids": i32(sum(seqs, [])), "cu_seqlens": cu_of(seqs), "labels": i32(sum(labels, [])), "weights": torch.tensor(sum(wts, []), dtype=torch.float32),
                 "buckets": torch.stack([T5Attention._relative_position_bucket(torch.arange(-600, 601), both, 32, 128).int() for both in (True, False)]),
                 "src_ids": i32(sum(src, [])), "src_cu": cu_of(src), **{k: f32(v) for k, v in exact.items()},
                 "gen.prompts": i32(sum(prompts, [])), "gen.cu": cu_of(prompts), "gen.ids": i32([a for a, _ in gen]), "gen.gap": gap})
    print(f"{name:18} loss {float(exact['loss']):.4f} norm {float(exact['grad_norm']):.3f} min gap {float(gap.min()):.4f} f32 noise {noise}", flush=True)


BERT = {"embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd", "embeddings.token_type_embeddings": "token_types",
        "embeddings.LayerNorm": "token_embd_norm", "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up", "output.dense": "ffn_down",
        "output.LayerNorm": "layer_output_norm"}


def bert(seed):
    """bert/: an encoder, no adapter. expected.safetensors: ids, cu_seqlens, features[N,C] (last_hidden_state of each sequence alone)."""
    d = os.path.join(OUT, "bert")
    m = BertModel(BertConfig(vocab_size=V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=16, hidden_act="gelu"))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for n, p in m.named_parameters():
            p.copy_((1.0 if "LayerNorm.weight" in n else 0.0) + (0.3 if p.dim() > 1 else 0.1) * torch.randn(p.shape, generator=g))
    shutil.rmtree(d, ignore_errors=True)
    m.save_pretrained(d)
    w = gguf.GGUFWriter(os.path.join(d, "model.gguf"), "bert")
    w.add_context_length(16)
    w.add_embedding_length(16)
    w.add_block_count(2)
    w.add_head_count(2)
    w.add_feed_forward_length(24)
    w.add_layer_norm_eps(m.config.layer_norm_eps)
    for n, t in m.state_dict().items():
        module, _, suffix = n.rpartition(".")
        if n.startswith("pooler") or suffix not in ("weight", "bias"):
            continue
        parts = module.split(".")
        name = BERT[module] if parts[0] != "encoder" else f"blk.{parts[2]}.{BERT['.'.join(parts[3:])]}"
        w.add_tensor(f"{name}.{suffix}", np.ascontiguousarray(t.detach().numpy()))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    seqs = batch(seed)[0]
    m = m.double().eval()
    with double(), torch.no_grad():
        rows = torch.cat([m(input_ids=torch.tensor([q])).last_hidden_state[0] for q in seqs])
    oracle.save(os.path.join(d, "expected.safetensors"), {"ids": i32(sum(seqs, [])), "cu_seqlens": cu_of(seqs), "features": f32(rows)})


# --- answers ----------------------------------------------------------------------------------------------------------------
def batch(seed):
    g = torch.Generator().manual_seed(1000 + seed)
    seqs = [torch.randint(3, V, (n,), generator=g).tolist() for n in LENS]
    w = [[float(0 < i < n - 1) if s == 0 else float(i in (5, 9)) if s == 2 else float(i < n - 1) for i in range(n)] for s, n in enumerate(LENS)]
    labels = [q[1:] + [0] for q in seqs]
    prompts = [torch.randint(3, V, (n,), generator=g).tolist() for n in PROMPTS]
    return seqs, labels, w, prompts


def cu_of(seqs):
    return i32(np.cumsum([0] + [len(q) for q in seqs]).tolist())


def encoder_decoder(maker, seed, seqs):
    """T5: what the encoder reads, and the decoder's rows; forward of `maker` (tiny_llama) then runs both."""
    g = torch.Generator().manual_seed(seed)
    src = [torch.randint(3, V, (n,), generator=g).tolist() + [1] for n in (12, 3, 1, 6)]
    seqs = [[0] + q for q in seqs]

    def forward(m, seqs, labels):
        lg = [m(input_ids=torch.tensor([s]), decoder_input_ids=torch.tensor([q]), use_cache=False).logits[0] for s, q in zip(src, seqs)]
        nll = [torch.nn.functional.cross_entropy(z, torch.tensor(y), reduction="none") * torch.tensor([1.0] * (len(y) - 1) + [0.0], dtype=z.dtype) for z, y in zip(lg, labels)]
        return torch.cat(lg), torch.cat(nll)

    maker.forward = forward
    extra = {"src_ids": i32(sum(src, [])), "src_cu": cu_of(src)}
    return seqs, [q[1:] + [0] for q in seqs], [[float(i < len(q) - 1) for i in range(len(q))] for q in seqs], extra


def answers(m, logits, labels, w):
    wt = torch.tensor(sum(w, []), dtype=next(m.parameters()).dtype)
    lg = logits(m)
    nll = torch.nn.functional.cross_entropy(lg, torch.tensor(sum(labels, [])), reduction="none")
    loss = (wt * nll).sum() / wt.sum()
    p = oracle.lora_params(m)
    opt = torch.optim.AdamW(list(p.values()), lr=1e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    loss.backward()
    out = {"logits": lg.detach(), "nll": nll.detach(), "loss": loss.detach()[None], **{"grad." + n: t.grad.clone() for n, t in p.items()}}
    out["grad_norm"] = torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0).detach()[None]
    opt.step()
    out.update({"after1." + n: t.detach().clone() for n, t in p.items()})
    return out


def far(a, b):
    out = {}
    for k, v in a.items():
        kind = k.split(".")[0]
        e = float((v.double() - b[k].double()).abs().max() / v.double().abs().max().clamp_min(1e-30))
        out[kind] = max(out.get(kind, 0), e)
    return {k: float(f"{e:.1e}") for k, e in out.items()}


def case(name, kind, kw, seed):
    d = make_base(name, kind, kw, seed)
    seqs, labels, w, prompts = batch(seed)
    pm = get_peft_model(load(d, kind), LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", r=2, lora_alpha=3, target_modules="all-linear",
                                                  fan_in_fan_out=kind == "gpt2"))
    oracle.randomise_lora(pm, torch.Generator().manual_seed(100 * seed))
    ad = os.path.join(d, "adapter")
    oracle.save_adapter(pm, ad, base=f"tests/golden/families/{name}")
    write_gguf(d, kind, load(d, kind))

    def logits(m):
        return torch.cat([m(input_ids=torch.tensor([q]), use_cache=False).logits[0] for q in seqs])

    m = PeftModel.from_pretrained(load(d, kind).double(), ad, is_trainable=True).double()
    with double():
        gen = [oracle.greedy(m, p, NEW) for p in prompts]
        exact = answers(m, logits, labels, w)
    plain = answers(PeftModel.from_pretrained(load(d, kind), ad, is_trainable=True), logits, labels, w)
    noise = far(exact, plain)
    assert noise["logits"] < 1e-5 and noise["grad"] < 1e-4, noise
    gap = torch.tensor([b for _, b in gen], dtype=torch.float32)
    oracle.save(os.path.join(d, "expected.safetensors"),
                {"ids": i32(sum(seqs, [])), "cu_seqlens": cu_of(seqs), "labels": i32(sum(labels, [])), "weights": torch.tensor(sum(w, []), dtype=torch.float32),
                 **{k: f32(v) for k, v in exact.items()}, "gen.prompts": i32(sum(prompts, [])), "gen.cu": cu_of(prompts), "gen.ids": i32([a for a, _ in gen]), "gen.gap": gap})
    print(f"{name:18} loss {float(exact['loss']):.4f} norm {float(exact['grad_norm']):.3f} min gap {float(gap.min()):.4f} f32 noise {noise}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("case", nargs="*")
    a = ap.parse_args()
    for i, (name, (kind, kw)) in enumerate(CASES.items()):
        if not a.case or name in a.case:
            case(name, kind, kw, 21 + i)
    if not a.case or "bert" in a.case:
        bert(91)
    for i, (name, kw) in enumerate(T5.items()):
        if not a.case or name in a.case:
            t5(name, kw, 95 + i)


if __name__ == "__main__":
    main()
