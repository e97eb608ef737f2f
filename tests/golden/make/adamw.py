"""Writes tests/ops/adamw_fixture.h: 100 steps of torch.optim.AdamW on 5 numbers, for tests/ops/test_flat.c.

Gradients are a formula of (step, element) exact in float32, so the test makes the same ones. The scale of the gradients
differs by element over eight orders of magnitude (v's square root meets eps), and one element's gradient is zero
throughout: only the decay moves it. Run: python tests/golden/make/adamw.py
"""
import pathlib

import torch

HYPER = dict(lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
START = [1.0, -0.5, 0.25, 2.0, 0.75]
SCALE = [1.0, 2.0**-7, 2.0**-24, 2.0**4, 0.0]


def gradient(step, i):
    """A multiple of 1/64 in [-1, 1), times a power of two: exact."""
    return ((step * 37 + i * 11) % 128 - 64) / 64 * SCALE[i]


def main():
    p = torch.nn.Parameter(torch.tensor(START))
    opt = torch.optim.AdamW([p], **HYPER)
    rows = []
    for step in range(1, 101):
        p.grad = torch.tensor([gradient(step, i) for i in range(len(START))])
        opt.step()
        if step in (1, 2, 10, 100):
            s = opt.state[p]
            rows += [(step, x.clone()) for x in (p.detach(), s["exp_avg"], s["exp_avg_sq"])]
    out = pathlib.Path(__file__).parents[2] / "ops" / "adamw_fixture.h"
    body = "\n".join(
        f"    {{{step}, {{{', '.join(float(v).hex() + 'f' for v in x)}}}}}," for step, x in rows)
    out.write_text(
        f"/* Made by tests/golden/make/adamw.py with torch {torch.__version__.split('+')[0]}: weights, m and v after steps. */\n"
        f"static const struct {{\n    int step;\n    float x[{len(START)}];\n}} adamw_golden[] = {{\n{body}\n}};\n")


if __name__ == "__main__":
    main()
