"""Fifty steps of full fine-tuning by PyTorch: the losses of tiny_llama/tied_gqa and families/gpt2, from the weights that methods/full* begin with
-> tests/golden/methods/curve.safetensors.

Run:  python tests/golden/make/curve.py     (torch, transformers, peft; needs methods.py's folders; deterministic)

NAME: losses [50], in f32 as PyTorch trains, and NAME.double. AdamW 3e-3, 0.9, 0.999, 1e-8, decay 0.01 of matrices alone, gradients clipped at 1.
tests/model/test_methods.c trains the same."""
import os

import families
import methods
import oracle
import tiny_llama
from oracle import f32, torch

STEPS = 50


def curve(name, double):
    base, config, seed = methods.CASES[name]
    seqs, labels, w, _ = families.batch(seed)
    m = methods.loaded(base, config, os.path.join(methods.OUT, name, "adapter"))
    m = m.double() if double else m
    wt = torch.tensor(sum(w, []), dtype=next(m.parameters()).dtype)
    p = methods.trained(m)
    groups = [{"params": [t for t in p.values() if t.dim() > 1], "weight_decay": 0.01}, {"params": [t for t in p.values() if t.dim() == 1], "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for _ in range(STEPS):
        opt.zero_grad()
        loss = (wt * tiny_llama.forward(m, seqs, labels)[1]).sum() / wt.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0)
        opt.step()
        losses.append(loss.detach())
    return torch.stack(losses)


out = {}
for name in ("full", "full_gpt2"):
    out[name] = f32(curve(name, False))
    with families.double():
        out[name + ".double"] = f32(curve(name, True))
    a, b = out[name], out[name + ".double"]
    print(name, "loss %.4f -> %.4f" % (a[0], a[-1]), "f32 from double: %.1e" % ((a - b).abs() / b).max())
oracle.save(os.path.join(methods.OUT, "curve.safetensors"), out)
