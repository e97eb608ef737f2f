"""Tiny random Llama checkpoints, PEFT LoRA adapters on them, and what PyTorch says about both -> tests/golden/tiny_llama/.

Run:  python tests/golden/make/tiny_llama.py            (torch, transformers, peft, safetensors; about a minute, deterministic)

<case>/config.json, model.safetensors      a Hugging Face checkpoint (untied_mha: the old config keys rope_theta and
                                           torch_dtype at top level; the others: transformers 5's rope_parameters, dtype)
<case>/adapter_<name>/                     a PEFT adapter, A and B both non-zero
<case>/expected_<name>.safetensors         the batch and the answers with that adapter
<case>/expected_base.safetensors           the same batch without adapter: logits, nll, loss, and greedy continuations

All answers are computed in double from the stored weights (bf16 and f16 cases: the stored values, widened), one sequence at
a time, and stored as f32. noise.json holds, per fixture, how far plain f32 PyTorch is from them: the scale for a tolerance.

Tensors of expected_<name> (N tokens, S sequences, V words; integers are int32):
  ids[N] cu_seqlens[S+1] pos[N] labels[N] weights[N]     labels[i] is the target AT position i (already shifted); the last
                                                          position of a sequence has label 0, weight 0
  logits[N,V] nll[N] (every position with a target, weight or not; 0 at last positions) loss[1] = sum w nll / sum w
  grad.<adapter tensor name>      d loss / d tensor, of the untouched adapter, before clipping
  after10.<adapter tensor name>   after ten AdamW steps on the same batch (lr 1e-2, wd 0.01, betas .9 .999, eps 1e-8,
                                  clip_grad_norm_ 1.0, get_linear_schedule_with_warmup(2, 10))
  losses[10] grad_norms[10] (before the clip) lrs[10] (used by that step)
  gen.prompts[..] gen.cu[4] gen.ids[3,12] gen.gap[3,12]   greedy continuations with the untouched adapter; gap: top-1 - top-2
"""
import argparse
import os
import shutil

import oracle
from oracle import f32, i32, torch
from peft import LoraConfig, get_peft_model, PeftModel
from transformers import LlamaConfig, LlamaForCausalLM, get_linear_schedule_with_warmup

OUT = os.path.join(oracle.GOLDEN, "tiny_llama")
CASES = {
    "tied_gqa": dict(seed=11, tie_word_embeddings=True, num_key_value_heads=2, theta=10000.0),
    "untied_mha": dict(seed=12, tie_word_embeddings=False, num_key_value_heads=4, theta=500.0),
    "bias": dict(seed=13, tie_word_embeddings=True, num_key_value_heads=2, theta=10000.0, attention_bias=True, mlp_bias=True),
    "head_dim16": dict(seed=14, tie_word_embeddings=False, num_key_value_heads=2, theta=500.0, head_dim=16),
    "bf16": dict(seed=15, tie_word_embeddings=True, num_key_value_heads=2, theta=10000.0, dtype=torch.bfloat16),
    "f16": dict(seed=16, tie_word_embeddings=True, num_key_value_heads=2, theta=10000.0, dtype=torch.float16),
}
ADAPTERS = {"all_r4": dict(r=4, lora_alpha=8, target_modules="all-linear"),
            "qv_r3": dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"])}
# Of one case alone: which modules are taken, and ranks and scales that differ between them.
MORE = {"mixed": dict(r=2, lora_alpha=6, use_rslora=True, target_modules="all-linear", exclude_modules=["k_proj", "layers.2.mlp.up_proj"],
                      rank_pattern={"down_proj": 5, r"layers\.0\.self_attn\.q_proj": 3}, alpha_pattern={"o_proj": 9, "q_proj": 4}),
        "layers": dict(r=4, lora_alpha=8, target_modules=["q_proj", "gate_proj", "down_proj"], layers_to_transform=[0, 2], layers_pattern="layers"),
        "regex": dict(r=3, lora_alpha=7, target_modules=r".*\.layers\.[01]\.(self_attn\.[qv]|mlp\.down)_proj")}
LENS, PROMPTS, NEW, V = (7, 1, 12, 5), (4, 1, 6), 12, 96


def make_base(name, seed, theta, dtype=torch.float32, **kw):
    g = torch.Generator().manual_seed(seed)
    cfg = LlamaConfig(vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                      rms_norm_eps=1e-5, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=None,
                      rope_parameters={"rope_type": "default", "rope_theta": theta}, **{"head_dim": 8, **kw})
    m = LlamaForCausalLM(cfg)
    with torch.no_grad():
        for n, p in m.named_parameters():
            z = torch.randn(p.shape, generator=g)
            p.copy_(1 + 0.1 * z if "norm" in n else 0.2 * z)
    m.to(dtype)
    d = os.path.join(OUT, name)
    shutil.rmtree(d, ignore_errors=True)
    m.save_pretrained(d)
    p = os.path.join(d, "generation_config.json")
    if os.path.exists(p):
        os.remove(p)
    c = oracle.json.load(open(os.path.join(d, "config.json")))
    assert c["rope_parameters"]["rope_theta"] == theta
    if name == "untied_mha":
        c["rope_theta"] = c.pop("rope_parameters")["rope_theta"]
        c["torch_dtype"] = c.pop("dtype")
        del c["head_dim"]
    oracle.write_json(os.path.join(d, "config.json"), c)
    return d


def load(d, double=True):
    m = LlamaForCausalLM.from_pretrained(d, dtype=torch.float32, attn_implementation="sdpa")
    m.config.use_cache = False
    return oracle.exact(m) if double else m


def batch(seed):
    g = torch.Generator().manual_seed(1000 + seed)
    seqs = [torch.randint(3, V, (n,), generator=g).tolist() for n in LENS]
    w = [[float(0 < i < n - 1) if s == 0 else float(i in (6, 9)) if s == 2 else float(i < n - 1) for i in range(n)]
         for s, n in enumerate(LENS)]
    labels = [q[1:] + [0] for q in seqs]
    prompts = [torch.randint(3, V, (n,), generator=g).tolist() for n in PROMPTS]
    return seqs, labels, w, prompts


def forward(m, seqs, labels):
    lg, nll = [], []
    for q, y in zip(seqs, labels):
        o = m(input_ids=torch.tensor([q]), use_cache=False).logits[0, -len(q):]  # without a method's virtual tokens
        e = torch.nn.functional.cross_entropy(o, torch.tensor(y), reduction="none")
        lg.append(o)
        nll.append(e * torch.tensor([1.0] * (len(q) - 1) + [0.0], dtype=e.dtype))
    return torch.cat(lg), torch.cat(nll)


def ten_steps(p, answer, ratio=1.0, term=None, stepped=None):
    """Of AdamW with linear decay on the parameters p, by name. answer(): what the first step is asked for too, "loss" (a scalar) among it; that, every
    gradient of the first step, p after the last, losses, norms, rates. ratio: of LoRA+. term(): what training adds to the loss (neither in losses nor in
    grad.*); stepped(i): what it does after step i."""
    vectors = [t for n, t in p.items() if t.dim() == 1 or "ia3_l" in n or "lora_E" in n]
    fast = [t for n, t in p.items() if "lora_B" in n]
    groups = [{"params": [t for t in p.values() if not any(t is v for v in vectors + fast)]}, {"params": fast, "lr": 1e-2 * ratio}, {"params": vectors, "weight_decay": 0.0, "lr": 1e-2 * ratio}]
    opt = torch.optim.AdamW([x for x in groups if x["params"]], lr=1e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    sch = get_linear_schedule_with_warmup(opt, 2, 10)
    out, losses, norms, lrs = {}, [], [], []
    for step in range(10):
        opt.zero_grad()
        said = answer()
        said["loss"].backward()
        if step == 0:
            out.update({k: v.detach()[None] if k == "loss" else v.detach() for k, v in said.items()})
            out.update({"grad." + n: t.grad.clone() for n, t in p.items()})
        if term:
            term().backward()
        losses.append(said["loss"].item())
        norms.append(float(torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0)))
        lrs.append(opt.param_groups[0]["lr"])
        opt.step()
        sch.step()
        if stepped:
            stepped(step)
    out.update({"after10." + n: t.detach().clone() for n, t in p.items()})
    for k, v in (("losses", losses), ("grad_norms", norms), ("lrs", lrs)):
        out[k] = torch.tensor(v, dtype=torch.float64)
    return out


def run(m, seqs, labels, w, ratio=1.0, term=None, stepped=None):
    """Everything about one adapter: a dictionary of tensors in the model's own precision. term(m), stepped(m, i): as in ten_steps."""
    wt = torch.tensor(sum(w, []), dtype=next(m.parameters()).dtype)

    def answer():
        lg, nll = forward(m, seqs, labels)
        return {"logits": lg, "nll": nll, "loss": (wt * nll).sum() / wt.sum()}

    return ten_steps(oracle.lora_params(m), answer, ratio, term and (lambda: term(m)), stepped and (lambda i: stepped(m, i)))


def generate(m, prompts):
    r = [oracle.greedy(m, p, NEW) for p in prompts]
    cu = [0]
    for p in prompts:
        cu.append(cu[-1] + len(p))
    return {"gen.prompts": i32(sum(prompts, [])), "gen.cu": i32(cu), "gen.ids": i32([a for a, _ in r]),
            "gen.gap": torch.tensor([b for _, b in r], dtype=torch.float32)}


def far(a, b):
    """Largest |a-b| relative to the tensor's largest value, over the tensors of one kind."""
    out = {}
    for k, v in a.items():
        kind = k.split(".")[0]
        e = float((v.double() - b[k].double()).abs().max() / v.double().abs().max().clamp_min(1e-30))
        if e >= out.get(kind, (0, ""))[0]:
            out[kind] = (e, k)
    return {k: {"rel": float(f"{e:.2e}"), "worst": n} for k, (e, n) in out.items()}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--more", action="store_true", help="only the adapters of MORE, on the base that is there")
    more = ap.parse_args().more
    os.makedirs(OUT, exist_ok=True)
    noise = oracle.json.load(open(os.path.join(OUT, "noise.json"))) if more else {}
    for name, kw in CASES.items():
        if more and name != "tied_gqa":
            continue
        d = os.path.join(OUT, name) if more else make_base(name, **kw)
        seqs, labels, w, prompts = batch(kw["seed"])
        cu = [0]
        for q in seqs:
            cu.append(cu[-1] + len(q))
        common = {"ids": i32(sum(seqs, [])), "cu_seqlens": i32(cu), "pos": i32(sum([list(range(len(q))) for q in seqs], [])),
                  "labels": i32(sum(labels, [])), "weights": torch.tensor(sum(w, []), dtype=torch.float32)}
        m = load(d)
        with torch.no_grad():
            lg, nll = forward(m, seqs, labels)
        wt = common["weights"].double()
        base = {**common, "logits": f32(lg), "nll": f32(nll), "loss": f32(((wt * nll).sum() / wt.sum())[None]),
                **generate(m, prompts)}
        if not more:
            oracle.save(os.path.join(d, "expected_base.safetensors"), base)
        adapters = {**ADAPTERS, **MORE} if name == "tied_gqa" else ADAPTERS
        for i, (an, ac) in enumerate(adapters.items()):
            if more and an in ADAPTERS:
                continue
            if an == "qv_r3" and name in ("bf16", "f16"):
                continue
            g = torch.Generator().manual_seed(100 * kw["seed"] + i)
            pm = get_peft_model(load(d, False), LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **ac))
            oracle.randomise_lora(pm, g)
            ad = os.path.join(d, "adapter_" + an)
            oracle.save_adapter(pm, ad, base=f"tests/golden/tiny_llama/{name}")
            pm = PeftModel.from_pretrained(load(d), ad, is_trainable=True).double()
            gen = generate(pm, prompts)
            exact = run(pm, seqs, labels, w)
            plain = run(PeftModel.from_pretrained(load(d, False), ad, is_trainable=True), seqs, labels, w)
            noise[f"{name}/{an}"] = n = far(exact, plain)
            assert n["logits"]["rel"] < 1e-5 and n["grad"]["rel"] < 1e-4, n  # the double model is the same model
            stored = set(oracle.load_file(os.path.join(ad, "adapter_model.safetensors")))
            assert stored == set(oracle.lora_params(pm)), "names"
            oracle.save(os.path.join(d, f"expected_{an}.safetensors"), {**common, **{k: f32(v) for k, v in exact.items()}, **gen})
            print(name, an, "loss %.4f -> %.4f" % (exact["losses"][0], exact["losses"][9]), "norms",
                  [round(float(x), 2) for x in exact["grad_norms"]], "min gap %.4f" % gen["gen.gap"].min(),
                  {k: v["rel"] for k, v in n.items()}, flush=True)
    oracle.write_json(os.path.join(OUT, "noise.json"), noise)


if __name__ == "__main__":
    main()
