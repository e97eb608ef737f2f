"""A tiny Llama that learns from a wider one, in PyTorch, double -> tests/golden/distill/.

Run:  python tests/golden/make/distill.py            (torch, transformers, peft, safetensors; seconds, deterministic)

teacher/, student/, wide/   Hugging Face checkpoints of different width and depth (wide: as wide as the student); the student has the 48 ids of
                            tests/golden/cipher's tokenizer, the others 56 rows, of which the last 8 are no token
adapter/                    a PEFT LoRA on the student, A and B both non-zero
rows.jsonl                  prompts and completions of letters: an id each, and an EOS (0) behind the completion
expected.safetensors        for each <case> of CASES: <case>.loss[3] = loss, cross-entropy, distance (means over supervised tokens), and
                            <case>.grad.<tensor> = d loss / d tensor: of the adapter's file, or (full) of the student's
                            base.kl[1]: KL(teacher || student with adapter), temperature 1
                            top.ids, top.logp: the teacher's best 5 of each supervised position

loss = (1 - a) ce + a T^2 D(teacher, student at temperature T), a = 0.5, T = 2; of `hidden` a (T^2 D + 0.7 mean (x - x_t)^2). D as
generalized_jsd_loss of TRL's GKDTrainer has it, with beta 0 KL(t||s), beta 1 KL(s||t). Of k remembered ids the others are one outcome
more: log of what the k leave, and the logsumexp of the student's other logits.
"""
import json
import os
import shutil

import oracle
from oracle import f32, i32, torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

OUT = os.path.join(oracle.GOLDEN, "distill")
V, T, ALPHA, HIDDEN, EOS = 48, 2.0, 0.5, 0.7, 0
VOCAB = json.load(open(os.path.join(oracle.GOLDEN, "cipher", "tokenizer.json")))["model"]["vocab"]
ROWS = [("abc", "GAH"), ("tqrs", "BCDEF"), ("a", "P"), ("hgfedc", "AAKL"), ("mnop", "EDC"), ("kk", "JIHGFEDC")]
# name: beta, ids that are remembered (0: all), all of the student is trained
# "hidden" learns from `wide`, and its rows too
CASES = {"forward_kl": (0, 0, False), "reverse_kl": (1, 0, False), "jsd": (0.3, 0, False), "forward_kl_top": (0, 5, False),
         "reverse_kl_top": (1, 5, False), "jsd_top": (0.3, 5, False), "full": (0.3, 0, True), "hidden": (0, 0, False)}


def make(name, seed, vocab, width, layers, heads, tied):
    g = torch.Generator().manual_seed(seed)
    cfg = LlamaConfig(vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=heads,
                      num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, max_position_embeddings=64, bos_token_id=None, eos_token_id=EOS,
                      pad_token_id=None, tie_word_embeddings=tied, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    m = LlamaForCausalLM(cfg)
    with torch.no_grad():
        for n, p in m.named_parameters():
            z = torch.randn(p.shape, generator=g)
            p.copy_(1 + 0.1 * z if "norm" in n else 0.3 * z)
    d = os.path.join(OUT, name)
    m.save_pretrained(d)
    os.remove(os.path.join(d, "generation_config.json"))
    return d


def places(model):
    """Logits at the supervised positions of all rows, one row at a time, the ids that come next, and the rows behind the last norm."""
    z, y, x = [], [], []
    for prompt, answer in ROWS:
        ids = [VOCAB[c] for c in prompt + answer] + [EOS]
        out = model(torch.tensor([ids]), output_hidden_states=True)
        z.append(out.logits[0, len(prompt) - 1:-1, :V])
        x.append(out.hidden_states[-1][0, len(prompt) - 1:-1])
        y += ids[len(prompt):]
    return torch.cat(z), torch.tensor(y), torch.cat(x)


def distance(z, q, beta):
    s, t = torch.log_softmax(z / T, -1), torch.log_softmax(q / T, -1)
    if beta == 0:
        return (t.exp() * (t - s)).sum(-1).mean()
    if beta == 1:
        return (s.exp() * (s - t)).sum(-1).mean()
    m = torch.logsumexp(torch.stack([t + torch.tensor(beta).double().log(), s + torch.tensor(1 - beta).double().log()]), 0)
    return (beta * (t.exp() * (t - m)).sum(-1) + (1 - beta) * (s.exp() * (s - m)).sum(-1)).mean()


def remembered(z, logp, k):
    best, ids = logp.topk(k, -1)
    rest = torch.log(torch.clamp(1 - best.exp().sum(-1, keepdim=True), min=2.0 ** -24))
    others = z.masked_fill(torch.zeros_like(z).scatter(-1, ids, 1).bool(), float("-inf"))
    return torch.cat([z.gather(-1, ids), torch.logsumexp(others, -1, keepdim=True)], -1), torch.cat([best, rest], -1)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    teacher, student = make("teacher", 31, 56, 48, 2, 6, False), make("student", 32, V, 32, 2, 4, True)
    with open(os.path.join(OUT, "rows.jsonl"), "w") as f:
        f.writelines(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in ROWS)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    m = get_peft_model(LlamaForCausalLM.from_pretrained(student, dtype=torch.float32), lora)
    oracle.randomise_lora(m, torch.Generator().manual_seed(33))
    oracle.save_adapter(m, os.path.join(OUT, "adapter"))
    wide = make("wide", 34, 56, 32, 1, 4, False)
    with torch.no_grad():
        q, _, _ = places(oracle.exact(LlamaForCausalLM.from_pretrained(teacher, dtype=torch.float32)))
        q_wide, _, x_wide = places(oracle.exact(LlamaForCausalLM.from_pretrained(wide, dtype=torch.float32)))
    logp = torch.log_softmax(q, -1)
    out = {}
    for name, (beta, k, full) in CASES.items():
        base = oracle.exact(LlamaForCausalLM.from_pretrained(student, dtype=torch.float32))
        m = base if full else PeftModel.from_pretrained(base, os.path.join(OUT, "adapter"), is_trainable=True).double()
        z, y, x = places(m)
        a, b = remembered(z, logp, k) if k else (z, q_wide if name == "hidden" else q)
        ce, kd = torch.nn.functional.cross_entropy(z, y), T * T * distance(a, b, beta)
        if name == "hidden":
            kd = kd + HIDDEN * (x - x_wide).pow(2).mean()
        loss = (1 - ALPHA) * ce + ALPHA * kd
        loss.backward()
        out[name + ".loss"] = f32(torch.stack([loss, ce, kd]))
        whole = {"base_model.model." + n: p for n, p in m.named_parameters() if "embed_tokens" in n or "1.mlp.down" in n}
        params = whole if full else oracle.lora_params(m)
        for n, p in params.items():
            out[f"{name}.grad.{n}"] = f32(p.grad)
        if name == "forward_kl":
            out["base.kl"] = f32((logp.exp() * (logp - torch.log_softmax(z, -1))).sum(-1).mean().reshape(1))
    best, ids = logp.topk(5, -1)
    out["top.ids"], out["top.logp"] = i32(ids.tolist()), f32(best)
    oracle.save(os.path.join(OUT, "expected.safetensors"), out)


main()
