"""Writes tests/golden/losses/expected.safetensors: what PyTorch makes of the losses of op head_loss, in double, with gradients to the rows and to the
output matrix. For tests/ops/test_losses.c.

One set of rows (some without weight), labels and matrices, and a teacher's; logits under a soft-cap where a case has one. A case is a row of `terms`: smoothing,
z, share, beta, temperature, cap, teacher_cap, and k: the ids that are remembered of the teacher (0: its logits; -1: no teacher). As NAME.INDEX: sums (the weighted
loss), dx, dw; `nll` of the first case.
  smoothing   torch.nn.functional.cross_entropy(label_smoothing=...)
  distances   torch.nn.functional.kl_div as TRL's GKDTrainer.generalized_jsd_loss puts it together (beta 0, 1 and between), written anew, times
              temperature^2; of remembered ids the same function over k + 1 outcomes

whole.safetensors: the batch of tiny_llama/tied_gqa/expected_all_r4, loss and gradients of that adapter (as there) with smoothing, z-loss and NEFTune's noise at once, by
transformers and PEFT; the noise is the program's own (base/philox.h, op noise), seed and step as the test has them.
Needs torch, transformers, peft, safetensors. Run: python tests/golden/make/losses.py
"""
import math
import os
import pathlib

import numpy as np
import oracle
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

N, C, D, V, U = 9, 16, 24, 37, 41
#         smoothing, z, share, beta, temperature, cap, teacher_cap, k
CASES = [(0, 0, 0, 0, 1, 0, 0, -1), (0.1, 0, 0, 0, 1, 0, 0, -1), (0, 1e-2, 0, 0, 1, 3, 0, -1), (0.2, 1e-3, 0, 0, 1, 2, 0, -1),
         (0, 0, 1, 0, 1, 0, 0, 0), (0, 0, 0.5, 0, 2, 0, 0, 0), (0, 0, 0.5, 1, 2, 0, 0, 0), (0, 0, 0.5, 0.5, 2, 0, 0, 0),
         (0.1, 1e-3, 0.7, 0.1, 1.5, 3, 2, 0), (0, 0, 1, 1, 0.8, 0, 5, 0), (0, 0, 0.5, 0, 2, 0, 0, 8), (0, 0, 1, 1, 1, 0, 0, 8),
         (0.1, 1e-3, 0.6, 0.3, 1.5, 3, 0, 3), (0, 0, 0.5, 0, 2, 0, 0, V), (0, 0, 0.5, 0.9, 3, 0, 0, V)]


def cap(z, c):
    return c * torch.tanh(z / c) if c else z


def distance(student, teacher, beta, temperature):
    """Row by row. The arguments are logits of the same outcomes."""
    s, t = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
    kl = lambda of, by: F.kl_div(by, of, reduction="none", log_target=True).sum(-1)
    if beta in (0, 1):
        return kl(t, s) if beta == 0 else kl(s, t)
    m = torch.logsumexp(torch.stack([s + math.log(1 - beta), t + math.log(beta)]), 0)
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


def outcomes(student, ids, logp):
    """The remembered ids and, where there are others, those together."""
    y = student.gather(-1, ids)
    if ids.shape[-1] == V:
        return y, logp
    others = student.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([y, others], -1), torch.cat([logp, (1 - logp.exp().sum(-1, keepdim=True)).log()], -1)


SMOOTHING, Z, ALPHA, SEED, STEP, NEFTUNE = 0.1, 1e-2, 5.0, 1, 0, 8
M32, M64 = 0xFFFFFFFF, (1 << 64) - 1


def philox(key, c):
    k = [key & M32, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & M32, p0 >> 32 ^ c[3] ^ k[1], p0 & M32]
        k = [k[0] + 0x9E3779B9 & M32, k[1] + 0xBB67AE85 & M32]
    return c


def noise(sample, n, width):
    key = SEED ^ (NEFTUNE * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03 & M64)
    bits = [[b for c in range(0, width, 4) for b in philox(key, [STEP, sample, i, c >> 2])] for i in range(n)]
    return torch.tensor((np.array(bits) >> 8) * 2.0 ** -24 * 2 - 1) * ALPHA / math.sqrt(n * width)


def whole():
    here = pathlib.Path(oracle.GOLDEN) / "tiny_llama/tied_gqa"
    batch = {k: v for k, v in load_file(here / "expected_all_r4.safetensors").items() if k in ("ids", "cu_seqlens", "pos", "labels", "weights")}
    model = oracle.exact(PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(here, dtype=torch.float32), str(here / "adapter_all_r4"), is_trainable=True))
    total, cu, weights = 0, batch["cu_seqlens"].tolist(), batch["weights"].double()
    for s, (a, b) in enumerate(zip(cu, cu[1:])):
        x = model.get_input_embeddings()(batch["ids"][None, a:b].long())
        z = model(inputs_embeds=x + noise(s, b - a, x.shape[-1]), use_cache=False).logits[0]
        loss = F.cross_entropy(z, batch["labels"][a:b].long(), label_smoothing=SMOOTHING, reduction="none") + Z * z.logsumexp(-1) ** 2
        total = total + (weights[a:b] * loss).sum()
    loss = total / weights.sum()
    loss.backward()
    grads = {f"grad.{n}": p.grad.float() for n, p in oracle.lora_params(model).items()}
    oracle.save(os.path.join(oracle.GOLDEN, "losses/whole.safetensors"), {**batch, **grads, "loss": loss.detach().reshape(1).float()})


def main():
    g = torch.Generator().manual_seed(5)
    given = {"x": torch.randn(N, C, generator=g), "w": torch.randn(V, C, generator=g) / 2, "teacher_x": torch.randn(N, D, generator=g),
             "teacher_w": torch.randn(U, D, generator=g) / 2, "weight": torch.rand(N, generator=g) * (torch.arange(N) % 3 != 1)}
    label = torch.randint(V, (N,), generator=g)
    teacher = (given["teacher_x"].double() @ given["teacher_w"].double().T)[:, :V]
    out = {**given, "label": label.int(), "terms": torch.tensor(CASES, dtype=torch.float32)}
    weight = given["weight"].double()
    for k in sorted({c[-1] for c in CASES if c[-1] > 0}):
        best = torch.log_softmax(teacher, -1).topk(k)
        out[f"ids.{k}"], out[f"logp.{k}"] = best.indices.int(), best.values.float()
    for i, row in enumerate(out["terms"].double().tolist()):
        smoothing, z, share, beta, temperature, own_cap, teacher_cap, k = row
        k = int(k)
        x, w = (given[n].double().requires_grad_() for n in ("x", "w"))
        y = cap(x @ w.T, own_cap)
        loss = (1 - share) * F.cross_entropy(y, label, label_smoothing=smoothing, reduction="none") + z * y.logsumexp(-1) ** 2
        if k >= 0:
            sides = outcomes(y, out[f"ids.{k}"].long(), out[f"logp.{k}"].double()) if k else (y, cap(teacher, teacher_cap))
            loss = loss + share * temperature ** 2 * distance(*sides, beta, temperature)
        total = (weight * loss).sum()
        dx, dw = torch.autograd.grad(total, (x, w))
        out |= {f"sum.{i}": total.reshape(1).detach().float(), f"dx.{i}": dx.float(), f"dw.{i}": dw.float()}
    out["nll"] = (F.cross_entropy(given["x"].double() @ given["w"].double().T, label, reduction="none") * (weight != 0)).float()
    here = pathlib.Path(__file__).parent.parent / "losses"
    here.mkdir(exist_ok=True)
    oracle.save(str(here / "expected.safetensors"), out)
    whole()


if __name__ == "__main__":
    main()
