"""The cipher task: cycle training must find a substitution cipher that the warm pairs show only in part -> tests/golden/cipher/.

  python tests/golden/make/cipher.py make                 data, tokenizer, base model (about four minutes on one core)
  python tests/golden/make/cipher.py train --mode cycle   the PyTorch+PEFT MACCT prototype (--mode control: warm pairs only)

Language A: letters a-t from a skewed order-2 chain, 6-10 letters a sentence. Language B: the same language written with A-T
through a fixed random bijection. The base has seen A text, B text, and restoring a sentence of either language from a
version in which letters were replaced at random (by a new random substitution each time, into both alphabets); it has
never seen the bijection. No warm pair holds one of five "held" letters (truth.json), so those can only be found by their statistics.

config.json model.safetensors (f16) tokenizer.json tokenizer_config.json    the base, a Llama
a.jsonl b.jsonl {"text"}   unpaired, from different sentences;  warm.jsonl test.jsonl {"a", "b"}
truth.json                 the bijection, the held letters, letter frequencies (README.md: settings and scores)
"""
import argparse
import os
import time

import numpy as np

import oracle
from oracle import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

OUT = os.path.join(oracle.GOLDEN, "cipher")
K, LO, HI = 20, 6, 10
SPECIAL = ["<eos>", "<pad>"]
LETTERS = [chr(97 + i) for i in range(K)] + [chr(65 + i) for i in range(K)]
VOCAB = SPECIAL + ["Ċ", "Ġ"] + LETTERS + list(".:-?")  # 48; Ċ is newline, Ġ space in byte-level BPE
EOS, PAD, SEP, A0, B0 = 0, 1, 2, 4, 4 + K
SEED = 2026


class Language:
    def __init__(self):
        r = np.random.default_rng(SEED)
        first = r.permutation(K)
        self.start = np.zeros(K)
        self.start[first] = 0.72 ** np.arange(K)
        self.start /= self.start.sum()
        self.next = np.zeros((K, K, K))
        pop = 0.93 ** r.permutation(K)  # letters differ in frequency
        for q in range(K):
            succ = r.choice(K, 6, replace=False, p=pop / pop.sum())
            for p in range(K):
                w = 0.55 ** np.arange(6)
                w[r.integers(6)] *= 5.0  # the second-order part
                self.next[p, q, succ] = w / w.sum()
        self.bijection = r.permutation(K)  # A letter i is B letter bijection[i]

    def sample(self, r, n):
        """n sentences of letter numbers [n, HI] and their lengths."""
        ln = r.integers(LO, HI + 1, n)
        x = np.zeros((n, HI), int)
        u = r.random((n, HI))
        cs, cn = self.start.cumsum(), self.next.cumsum(-1)
        x[:, 0] = np.minimum((u[:, 0, None] > cs).sum(1), K - 1)
        x[:, 1] = np.minimum((u[:, 1, None] > cn[x[:, 0], x[:, 0]]).sum(1), K - 1)
        for t in range(2, HI):
            x[:, t] = np.minimum((u[:, t, None] > cn[x[:, t - 2], x[:, t - 1]]).sum(1), K - 1)
        return x, ln


def text(row, lang):
    return "".join(LETTERS[lang * K + c] for c in row)


def make_data(L):
    r = np.random.default_rng(SEED + 1)
    x, ln = L.sample(r, 60000)
    seen, rows = set(), []
    for v, n in zip(x, ln):
        t = tuple(int(c) for c in v[:n])
        if t not in seen:
            seen.add(t)
            rows.append(t)
    freq = np.bincount(np.concatenate([np.array(t) for t in rows]), minlength=K)
    held = sorted(int(c) for c in np.argsort(-freq)[[3, 6, 9, 12, 14]])
    test, rest = rows[:300], rows[300:]
    warm, count = [], np.zeros(K)
    for t in rest:  # 20 sentences without held letters, in which every other letter occurs
        need = len(warm) >= 10 and (count + np.isin(np.arange(K), held) == 0).any()
        if not set(t) & set(held) and (not need or (count[list(t)] == 0).any()) and len(warm) < 20:
            warm.append(t)
            np.add.at(count, list(t), 1)
    rest = [t for t in rest if t not in set(warm)]
    return dict(test=test, warm=warm, a=rest[:2000], b=rest[2000:4000], held=held, freq=(freq / freq.sum()).round(4).tolist())


def pretrain_batch(L, r, n, forbidden):
    x, ln = L.sample(r, n)
    T = 2 * HI + 2
    ids, lab = np.full((n, T), PAD), np.full((n, T), -100)
    for i in range(n):
        s = tuple(x[i, :ln[i]])
        if s in forbidden:
            continue
        off = A0 if r.random() < 0.5 else B0
        y = (L.bijection[list(s)] if off == B0 else np.array(s)) + off
        if r.random() < 0.2:
            row, k = [*y, EOS], 0
        else:
            rho = r.choice([0.0, 1.0, r.random()], p=[0.2, 0.2, 0.6])
            table = np.arange(48)
            hit = np.flatnonzero(r.random(K) < rho)
            if r.random() < 0.5:  # into the other alphabet, or into both
                table[off + hit] = r.permutation(K)[:len(hit)] + (B0 if off == A0 else A0)
            else:
                table[off + hit] = r.permutation(2 * K)[:len(hit)] + A0
            src = table[y]
            bad = r.random(len(y)) < 0.08
            src[bad] = r.integers(A0, A0 + 2 * K, bad.sum())
            row, k = [*src, SEP, *y, EOS], len(y) + 1
        ids[i, :len(row)] = row
        lab[i, k:len(row)] = row[k:]
    return torch.from_numpy(ids), torch.from_numpy(lab)


def pretrain(L, forbidden, steps, batch, lr):
    torch.manual_seed(SEED)
    cfg = LlamaConfig(vocab_size=48, hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                      num_key_value_heads=2, head_dim=24, rms_norm_eps=1e-5, max_position_embeddings=64,
                      tie_word_embeddings=True, bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD,
                      rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, initializer_range=0.08)
    m = LlamaForCausalLM(cfg)
    r = np.random.default_rng(SEED + 2)
    opt = torch.optim.AdamW(m.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    sch = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(s / 50, 1) * (1 - s / steps) + 1e-2)
    t0, acc = time.time(), []
    for s in range(steps):
        ids, lab = pretrain_batch(L, r, batch, forbidden)
        loss = m(input_ids=ids, labels=lab, use_cache=False).loss
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        sch.step()
        acc.append(loss.item())
        if s % 200 == 199:
            print(f"pretrain {s + 1} loss {np.mean(acc[-200:]):.4f} {time.time() - t0:.0f}s", flush=True)
    return m


def write_tokenizer():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    t = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(VOCAB)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    t.save(os.path.join(OUT, "tokenizer.json"))
    oracle.write_json(os.path.join(OUT, "tokenizer_config.json"),
                      {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<pad>",
                       "add_bos_token": False, "model_max_length": 64})
    assert t.encode("abt\nABT<eos>").ids == [A0, A0 + 1, A0 + 19, SEP, B0, B0 + 1, B0 + 19, EOS]


def make(a):
    os.makedirs(OUT, exist_ok=True)
    L = Language()
    d = make_data(L)
    bij = lambda t: [int(L.bijection[c]) for c in t]
    for n in ("a", "b"):
        with open(os.path.join(OUT, n + ".jsonl"), "w") as f:
            for t in d[n]:
                f.write(oracle.json.dumps({"text": text(t, 0) if n == "a" else text(bij(t), 1)}) + "\n")
    for n in ("warm", "test"):
        with open(os.path.join(OUT, n + ".jsonl"), "w") as f:
            for t in d[n]:
                f.write(oracle.json.dumps({"a": text(t, 0), "b": text(bij(t), 1)}) + "\n")
    held = set(d["held"])
    hit = np.mean([bool(held & set(t)) for t in d["test"]])
    per = np.mean([sum(c in held for c in t) for t in d["test"]])
    oracle.write_json(os.path.join(OUT, "truth.json"), {
        "bijection": {text([i], 0): text([L.bijection[i]], 1) for i in range(K)},
        "held": text(d["held"], 0), "frequency": {text([i], 0): d["freq"][i] for i in range(K)},
        "letters_in_warm": text(sorted({c for t in d["warm"] for c in t}), 0),
        "test_with_held": round(float(hit), 3), "held_per_test_sentence": round(float(per), 2)})
    print("held", text(d["held"], 0), "in test", hit, per, "in warm", text(sorted({c for t in d["warm"] for c in t}), 0), flush=True)
    write_tokenizer()
    if a.steps:
        m = pretrain(L, set(d["test"]), a.steps, a.batch, a.lr)
        m.to(torch.float16).save_pretrained(OUT)
        p = os.path.join(OUT, "generation_config.json")
        if os.path.exists(p):
            os.remove(p)
        os.chmod(os.path.join(OUT, "model.safetensors"), 0o644)


# --- the prototype ---------------------------------------------------------------------------------------------
enc = lambda s: [VOCAB.index(c) for c in s]


@torch.no_grad()
def generate(m, rows, temp, gen, new=HI + 2):
    """Continuations of row + [SEP], left-padded, with a KV cache."""
    P = [r + [SEP] for r in rows]
    w = max(map(len, P))
    ids = torch.tensor([[PAD] * (w - len(p)) + p for p in P])
    att = (ids != PAD).long()
    pos = (att.cumsum(1) - 1).clamp_min(0)
    cache, out, done = DynamicCache(config=m.config), [], torch.zeros(len(P), dtype=torch.bool)
    for _ in range(new):
        lg = m(input_ids=ids, attention_mask=att, position_ids=pos, past_key_values=cache, use_cache=True).logits[:, -1]
        k = torch.multinomial((lg / temp).softmax(-1), 1, generator=gen)[:, 0] if temp > 0 else lg.argmax(-1)
        k = torch.where(done, EOS, k)
        out.append(k)
        done |= k == EOS
        if done.all():
            break
        ids, att, pos = k[:, None], torch.cat([att, torch.ones(len(P), 1, dtype=torch.long)], 1), pos[:, -1:] + 1
    out = torch.stack(out, 1).tolist()
    return [r[:r.index(EOS)] if EOS in r else r for r in out]


def train_step(m, opt, src, tgt):
    rows = [(s + [SEP], t + [EOS]) for s, t in zip(src, tgt)]
    w = max(len(p) + len(y) for p, y in rows)
    ids = torch.tensor([p + y + [PAD] * (w - len(p) - len(y)) for p, y in rows])
    lab = torch.tensor([[-100] * len(p) + y + [-100] * (w - len(p) - len(y)) for p, y in rows])
    loss = m(input_ids=ids, attention_mask=(ids != PAD).long(), labels=lab, use_cache=False).loss
    opt.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for g in opt.param_groups for p in g["params"]], 1.0)
    opt.step()
    return loss.item()


def train(a):
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(a.seed)
    g = torch.Generator().manual_seed(a.seed)
    cfg = lambda: LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
    m = get_peft_model(LlamaForCausalLM.from_pretrained(OUT, dtype=torch.float32), cfg(), adapter_name="A")
    m.add_adapter("B", cfg())
    rd = lambda n: [oracle.json.loads(l) for l in open(os.path.join(OUT, n + ".jsonl"))]
    data = {n: [enc(d["text"]) for d in rd(n)] for n in "ab"}
    warm, test = ([(enc(d["a"]), enc(d["b"])) for d in rd(n)] for n in ("warm", "test"))
    opt = {}
    for s in "AB":
        opt[s] = torch.optim.AdamW(list(oracle.lora_params(m, s).values()), lr=a.warm_lr, weight_decay=0.0)
    t0 = time.time()

    def evaluate(tag):
        res = []
        for s in "AB":
            m.set_adapter(s)
            src, ref = ([p[0] for p in test], [p[1] for p in test]) if s == "A" else ([p[1] for p in test], [p[0] for p in test])
            hyp = generate(m, src, 0, None)
            res.append(100 * sum(h == r for h, r in zip(hyp, ref)) / len(ref))
            n = sum(len(r) for r in ref)
            res.append(100 * sum(x == y for h, r in zip(hyp, ref) for x, y in zip(h, r)) / n)
        print(f"{tag}: exact A->B {res[0]:.1f} % B->A {res[2]:.1f} %  letters {res[1]:.1f} {res[3]:.1f}  {time.time() - t0:.0f}s", flush=True)
        return res

    shuffle = np.random.default_rng(a.seed)
    n_warm = a.warm_steps
    for i in range(n_warm):
        pick = [warm[j] for j in shuffle.permutation(20)]
        la = lb = 0
        for s in "AB":
            m.set_adapter(s)
            l = train_step(m, opt[s], *zip(*[(p, q) if s == "A" else (q, p) for p, q in pick]))
            la, lb = (l, lb) if s == "A" else (la, l)
        if (i + 1) % a.every == 0:
            evaluate(f"warm {i + 1} loss {la:.4f} {lb:.4f}")
    scores = evaluate(f"warm done")
    if a.mode == "cycle":
        for s in "AB":
            opt[s] = torch.optim.AdamW(list(oracle.lora_params(m, s).values()), lr=a.lr, weight_decay=0.0)
        n = a.batch
        for i in range(a.steps):
            if a.linear:
                for s in "AB":
                    for gr in opt[s].param_groups:
                        gr["lr"] = a.lr * (1 - i / a.steps)
            ls = []
            for s, o, real in (("A", "B", data["b"]), ("B", "A", data["a"])):
                real = [real[(i * n + j) % len(real)] for j in range(n)]
                m.set_adapter(o)
                synth = generate(m, real, a.temp, g)
                m.set_adapter(s)
                ls.append(train_step(m, opt[s], synth, real))
            if (i + 1) % a.every == 0:
                scores = evaluate(f"cycle {i + 1} loss {ls[0]:.3f} {ls[1]:.3f}")
    return scores


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(required=True)
    p = sub.add_parser("make")
    p.add_argument("--steps", type=int, default=1600, help="0: data only")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--lr", type=float, default=3e-3)
    p.set_defaults(run=make)
    p = sub.add_parser("train")
    p.add_argument("--mode", choices=["cycle", "control"], default="cycle")
    p.add_argument("--warm-steps", type=int, default=100)
    p.add_argument("--warm-lr", type=float, default=2e-3)
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--linear", action="store_true")
    p.add_argument("--temp", type=float, default=0.0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--every", type=int, default=50)
    p.set_defaults(run=train)
    a = ap.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
