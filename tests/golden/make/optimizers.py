"""Writes tests/golden/optim/expected.safetensors: a hundred steps of every optimizer but AdamW (adamw.py), the maps of 8-bit states, and
learning-rate schedules. For tests/ops/test_optim.c and tests/unit/test_schedule.c.

The trained tensors are SHAPES below; weights and gradients are hashes of (step, tensor, element), multiples of 2^-15, so that the test makes
the same ones. What is kept after 1 and after 100 steps, as NAME.1 and NAME.100: each fifth element of all tensors laid end to end.
  sgd, sgd_plain, sgd_nesterov   torch.optim.SGD, double
  adafactor, adafactor_relative  transformers' Adafactor, double (relative: scale_parameter and relative_step)
  lion_32bit                     the paper's algorithm 2, double, and bitsandbytes' Lion (f32) to compare with
  muon, muon_original            torch.optim.Muon for the matrices of layers with its Newton-Schulz iteration in double where it has bfloat16, which
                                 must come near; torch.optim.AdamW for the rest
  adamw_8bit                     bitsandbytes' AdamW8bit on the processor (of fewer than 4096 elements it keeps f32 itself), whose rounding to codes,
                                 a table that misses the nearest one now and then, is replaced by the nearest; it must come near as it is
  map.signed, map.unsigned       bitsandbytes.functional.create_dynamic_map
  schedule.NAME                  transformers' lambdas, steps 0 to 49 of 40
Needs torch, transformers, bitsandbytes. Run: python tests/golden/make/optimizers.py
"""
import math
import pathlib

import bitsandbytes
import bitsandbytes.backends.cpu.ops
import numpy as np
import torch
from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file
from transformers import optimization

torch.set_num_threads(1)
SHAPES = [(64, 72), (64, 72), (8, 20), (8, 20), (8, 20), (75, 61), (24, 8), (30, 8), (40,)]
LAYERS = range(7)  # those that lie in a layer: Muon's
STEPS, KEEP, LR, DECAY = 100, 5, 3e-3, 0.1


def numbers(step, tensor):
    shape = SHAPES[tensor]
    with np.errstate(over="ignore"):
        h = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(step * 40503 + tensor * 9176 + 1)
        h ^= h >> np.uint32(15)
        h *= np.uint32(2246822519)
        h ^= h >> np.uint32(13)
        h *= np.uint32(3266489917)
    x = ((h >> np.uint32(16)).astype(np.float64) - 32768) / 32768
    return torch.from_numpy(x.reshape(shape))


def gradient(step, tensor):
    return numbers(step, tensor) * 2.0 ** -(tensor % 4)


def run(make, dtype=torch.float64):
    """make(matrices of layers, other matrices, vectors) -> optimizers; returns what is kept."""
    p = [torch.nn.Parameter(numbers(0, i).to(dtype)) for i in range(len(SHAPES))]
    matrices = [x for i, x in enumerate(p) if i in LAYERS]
    others = [x for i, x in enumerate(p) if i not in LAYERS and x.dim() > 1]
    optimizers = make(matrices, others, [x for x in p if x.dim() == 1])
    kept = {}
    for step in range(1, STEPS + 1):
        for i, x in enumerate(p):
            x.grad = gradient(step, i).to(dtype)
        for o in optimizers:
            o.step()
        if step in (1, STEPS):
            kept[step] = torch.cat([x.detach().flatten() for x in p])[::KEEP].float().contiguous()
    return kept


def groups(matrices, others, vectors):
    return [{"params": matrices + others, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                towards = torch.sign(0.9 * m + 0.1 * p.grad)
                p.mul_(1 - g["lr"] * g["weight_decay"]).sub_(g["lr"] * towards)
                m.mul_(0.99).add_(0.01 * p.grad)


def newton_schulz(grad, coefficients, steps, eps):
    """torch.optim._muon's, without the rounding to bfloat16."""
    a, b, c = coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


def muon(adjust):
    def make(matrices, others, vectors):
        return [torch.optim.Muon(matrices, lr=LR, weight_decay=DECAY, momentum=0.95, adjust_lr_fn=adjust),
                torch.optim.AdamW([{"params": others, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}], lr=LR, betas=(0.9, 0.99))]
    theirs = run(make, torch.float32)
    module = torch.optim._muon
    rounded, module._zeropower_via_newtonschulz = module._zeropower_via_newtonschulz, newton_schulz
    exact = run(make)
    module._zeropower_via_newtonschulz = rounded
    near(f"muon {adjust}", theirs, exact)
    return exact


def near(what, theirs, ours):
    start = torch.cat([numbers(0, i).flatten() for i in range(len(SHAPES))])[::KEEP].float()
    off = max(((theirs[s] - ours[s]).norm() / (ours[s] - start).norm()).item() for s in theirs)
    assert off < 0.03, (what, off)
    print(f"{what}: the library as it is lies off by {off:.2g} of the way")


def nearest_code(x, code, absmax_out, out, blocksize):
    blocks = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % blocksize)).view(-1, blocksize)
    absmax = blocks.abs().max(1, keepdim=True).values
    codes = torch.searchsorted((code[1:] + code[:-1]) / 2, blocks / absmax)
    out.copy_(codes.flatten()[:x.numel()].view(x.shape))
    absmax_out.copy_(absmax.flatten())


def adamw_8bit():
    make = lambda *p: [bitsandbytes.optim.AdamW8bit(groups(*p), lr=LR, betas=(0.9, 0.99))]
    theirs = run(make, torch.float32)
    bitsandbytes.backends.cpu.ops._quant_blockwise_fp32_direct = nearest_code
    exact = run(make, torch.float32)
    near("adamw_8bit", theirs, exact)
    return exact


def schedules():
    o, parts = optimization, {}
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made = {
        "constant_with_warmup": o.get_constant_schedule_with_warmup(dummy, 5),
        "linear": o.get_linear_schedule_with_warmup(dummy, 5, 40),
        "cosine": o.get_cosine_schedule_with_warmup(dummy, 5, 40),
        "cosine_with_min_lr": o.get_cosine_with_min_lr_schedule_with_warmup(dummy, 5, 40, min_lr_rate=0.1),
        "inverse_sqrt": o.get_inverse_sqrt_schedule(dummy, 5),
        "inverse_sqrt_cold": o.get_inverse_sqrt_schedule(dummy, 0),
        "wsd": o.get_wsd_schedule(dummy, 5, 10, 40, min_lr_ratio=0.1),
        "wsd_linear": o.get_wsd_schedule(dummy, 5, 10, 40, decay_type="linear"),
        "wsd_1-sqrt": o.get_wsd_schedule(dummy, 0, 10, 40, decay_type="1-sqrt", min_lr_ratio=0.2),
    }
    for name, s in made.items():
        parts["schedule." + name] = torch.tensor([s.lr_lambdas[0](i) for i in range(50)], dtype=torch.float64).float()
    return parts


def main():
    from transformers.optimization import Adafactor
    sgd = lambda **k: lambda *p: [torch.optim.SGD(groups(*p), lr=LR, **k)]
    adafactor = lambda **k: lambda *p: [Adafactor(groups(*p), **k)]
    kept = {
        "sgd": run(sgd(momentum=0.9)), "sgd_plain": run(sgd()), "sgd_nesterov": run(sgd(momentum=0.9, nesterov=True)),
        "adafactor": run(adafactor(lr=LR, scale_parameter=False, relative_step=False)),
        "adafactor_relative": run(adafactor(scale_parameter=True, relative_step=True)),
        "lion_32bit": run(lambda *p: [Lion(groups(*p), dict(lr=LR))]),
        "muon": muon("match_rms_adamw"), "muon_original": muon("original"),
        "adamw_8bit": adamw_8bit(),
    }
    theirs = run(lambda *p: [bitsandbytes.optim.Lion(groups(*p), lr=LR, betas=(0.9, 0.99))], torch.float32)
    print("lion: bitsandbytes is off by", max((theirs[s] - kept["lion_32bit"][s]).abs().max().item() for s in theirs))
    parts = {f"{name}.{step}": x for name, steps in kept.items() for step, x in steps.items()}
    parts |= {"map.signed": create_dynamic_map(True), "map.unsigned": create_dynamic_map(False)} | schedules()
    out = pathlib.Path(__file__).parents[1] / "optim"
    out.mkdir(exist_ok=True)
    save_file(parts, out / "expected.safetensors")


if __name__ == "__main__":
    main()
