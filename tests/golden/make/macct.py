"""Five MACCT steps of two LoRA adapters on the tied_gqa tiny Llama, in PyTorch and PEFT -> tests/golden/macct/.

Run after tiny_llama.py:  python tests/golden/make/macct.py       (a few seconds, deterministic; computed in double)

One step, batch 4 a side (rows step*4+i of a_rows, b_rows, in order), SEP 3, EOS 2:
  A-half: adapter B continues b_row + [SEP] greedily, up to 8 new tokens, until EOS (EOS and what follows is not part of the
          synthetic text, which may be empty); adapter A trains on  synth + [SEP] | b_row + [EOS], loss on the part after the
          bar: sum of nll / number of those tokens over the 4 rows; clip 1.0; one AdamW step of A.
  B-half: mirrored: adapter A (just updated) continues a_row + [SEP]; B trains on  synth + [SEP] | a_row + [EOS].
AdamW lr 1e-2 (A), 5e-3 (B), weight decay 0.01, betas .9 .999, eps 1e-8, constant rate.

A/, B/                     the two adapters at the start (PEFT folders; r 4, alpha 8, all-linear, both halves non-zero)
macct.safetensors          a_rows.ids a_rows.cu[21] b_rows.ids b_rows.cu[21]   the data, i32 (row r: ids[cu[r]..cu[r+1]])
  synth_a.ids synth_a.cu[21]     what adapter B wrote from b_rows: row step*4+i (A-text; prompts of A's training)
  synth_b.ids synth_b.cu[21]     what adapter A wrote from a_rows
  loss_A[5] loss_B[5] norm_A[5] norm_B[5] (before the clip) tokens_A[5] tokens_B[5] (i32, supervised)
  min_gap[1]                     the smallest top-2 gap of any greedy choice
  final.A.<adapter tensor name>, final.B.<...>
  f32_final[1]                   largest |difference| of a plain f32 PyTorch run in the final weights
"""
import argparse
import os

import oracle
from oracle import f32, i32, torch
from peft import LoraConfig, get_peft_model, PeftModel
from transformers import LlamaForCausalLM

OUT = os.path.join(oracle.GOLDEN, "macct")
BASE = os.path.join(oracle.GOLDEN, "tiny_llama", "tied_gqa")
SEP, EOS, NEW, BATCH, STEPS, V = 3, 2, 8, 4, 5, 96
LR = {"A": 1e-2, "B": 5e-3}


def flat(rows):
    cu = [0]
    for r in rows:
        cu.append(cu[-1] + len(r))
    return i32([x for r in rows for x in r]), i32(cu)


def run(double, a_rows, b_rows):
    m = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    if double:
        oracle.exact(m)
    m = PeftModel.from_pretrained(m, os.path.join(OUT, "A"), adapter_name="A", is_trainable=True)
    m.load_adapter(os.path.join(OUT, "B"), "B", is_trainable=True)
    if double:
        m.double()
    par = {s: oracle.lora_params(m, s) for s in "AB"}
    opt = {s: torch.optim.AdamW(list(par[s].values()), lr=LR[s], weight_decay=0.01) for s in "AB"}
    log = {k: [] for k in ("loss_A", "loss_B", "norm_A", "norm_B", "tokens_A", "tokens_B", "gap", "synth_a", "synth_b")}
    for step in range(STEPS):
        for train, gen, real in (("A", "B", b_rows), ("B", "A", a_rows)):
            real = real[step * BATCH:(step + 1) * BATCH]
            m.set_adapter(gen)
            synth = []
            for r in real:
                ids, gaps = oracle.greedy(m, r + [SEP], NEW, EOS)
                synth.append(ids[:-1] if ids[-1] == EOS else ids)
                log["gap"] += gaps
            log["synth_" + train.lower()] += synth
            m.set_adapter(train)
            total, n = 0.0, 0
            for s, r in zip(synth, real):
                p, y = s + [SEP], r + [EOS]
                lg = m(input_ids=torch.tensor([p + y]), use_cache=False).logits[0, len(p) - 1:-1]
                total = total + torch.nn.functional.cross_entropy(lg, torch.tensor(y), reduction="sum")
                n += len(y)
            loss = total / n
            opt[train].zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(list(par[train].values()), 1.0)
            opt[train].step()
            log["loss_" + train].append(loss.item())
            log["norm_" + train].append(float(norm))
            log["tokens_" + train].append(n)
    return log, par


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seed", type=int, default=104)
    a = ap.parse_args()
    os.makedirs(OUT, exist_ok=True)
    g = torch.Generator().manual_seed(a.seed)
    rows = {s: [torch.randint(4, V, (int(torch.randint(4, 10, (1,), generator=g)),), generator=g).tolist()
                for _ in range(BATCH * STEPS)] for s in "ab"}
    cfg = lambda: LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0)
    m = get_peft_model(LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32), cfg(), adapter_name="A")
    m.add_adapter("B", cfg())
    for s in "AB":
        oracle.randomise_lora(m, g, s)
        oracle.save_adapter(m, os.path.join(OUT, s), s, base="tests/golden/tiny_llama/tied_gqa")
    log, par = run(True, rows["a"], rows["b"])
    log32, par32 = run(False, rows["a"], rows["b"])
    assert log32["synth_a"] == log["synth_a"] and log32["synth_b"] == log["synth_b"]
    gap = min(log["gap"])
    lens = [len(r) for r in log["synth_a"] + log["synth_b"]]
    print("min gap %.5f" % gap, "lengths", lens, {k: [round(x, 4) for x in v] for k, v in log.items() if k[:4] in ("loss", "norm", "toke")})
    assert gap > 1e-3, "near tie: another --seed"
    assert min(lens) < NEW, "no row stopped at EOS: another --seed"
    out = {"min_gap": torch.tensor([gap])}
    for k, v in (("a_rows", rows["a"]), ("b_rows", rows["b"]), ("synth_a", log["synth_a"]), ("synth_b", log["synth_b"])):
        out[k + ".ids"], out[k + ".cu"] = flat(v)
    for k in ("loss_A", "loss_B", "norm_A", "norm_B"):
        out[k] = torch.tensor(log[k])
    for k in ("tokens_A", "tokens_B"):
        out[k] = i32(log[k])
    far = 0.0
    for s in "AB":
        for n, p in par[s].items():
            out[f"final.{s}.{n}"] = f32(p)
            far = max(far, float((p - par32[s][n].double()).abs().max()))
    out["f32_final"] = torch.tensor([far])
    print("f32 final weights off by %.2e" % far)
    oracle.save(os.path.join(OUT, "macct.safetensors"), out)


if __name__ == "__main__":
    main()
