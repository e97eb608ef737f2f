#!/usr/bin/env python3
"""MACCT as its first Python implementation does it, on current PEFT: what our cycles are compared with (bench/reference.sh).

  python bench/peers/reference_macct.py --warm RUN/checkpoint-N --a A.jsonl --b B.jsonl --steps 24 --every 8 --out DIR

Written anew from a description of what that implementation does. A micro-batch is one cycle for each adapter: B writes A-text of real B-text,
A learns (written A-text, real B-text); then the mirror image. What it does differently from ours is kept, since it is the subject:
  - the model that generates is the model that trains, and is left in training mode: LoRA dropout is on while texts are written;
  - generation is greedy and ends after 30 tokens;
  - prompts are the text and "\\n\\n", and what was written is stripped of the characters of that separator;
  - a text that was written is decoded and tokenised again with what follows it; where the answer begins is found by tokenising the prompt alone;
  - the loss is the mean over a micro-batch's tokens, and a step's gradient the mean of these means;
  - no shuffle, an epoch ends with the shorter side, no clipping, the allocator is emptied after each step, EOS is the padding.
Adapters go on from those in --warm (PEFT folders A and B) and are written as such to OUT/step-N, for `cyclora eval` to score: both are judged
by the same program. OUT/steps.json has the seconds of each step and the peak memory."""
import gc
import json
import os

import common

ap = common.parser(__doc__)
ap.add_argument("--warm", required=True)
ap.add_argument("--a", required=True)
ap.add_argument("--b", required=True)
ap.add_argument("--out", required=True)
ap.add_argument("--steps", type=int, default=24)
ap.add_argument("--every", type=int, default=8)
ap.add_argument("--batch", type=int, default=4, help="rows a side in a micro-batch")
ap.add_argument("--accumulate", type=int, default=2)
ap.add_argument("--new", type=int, default=30)
ap.add_argument("--lr", type=float, default=3e-4)
ap.add_argument("--seed", type=int, default=1)
ap.add_argument("--device", default="cpu")
ap.add_argument("--dtype", default="float32", help="of the base; adapters are float32")
a = ap.parse_args()
torch = common.torch_with(a.threads)
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.manual_seed(a.seed)
SEP = "\n\n"
tok = AutoTokenizer.from_pretrained(a.model)
tok.pad_token = tok.eos_token
base = AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.dtype))
model = PeftModel.from_pretrained(base, os.path.join(a.warm, "A"), adapter_name="A", is_trainable=True)
model.load_adapter(os.path.join(a.warm, "B"), adapter_name="B", is_trainable=True)
model.to(a.device)
texts = {s: [json.loads(line)["text"] for line in open(path)] for s, path in (("A", a.a), ("B", a.b))}
epoch = min(len(v) for v in texts.values()) // a.batch * a.batch


def use(side):
    """PEFT's set_adapter makes the other adapter's numbers frozen: each has its optimizer over its own."""
    model.set_adapter(side)
    model.train()


optimizer = {}
for side in "AB":
    use(side)
    optimizer[side] = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=a.lr, weight_decay=0.0)


def padded(strings, side):
    tok.padding_side = side
    return tok(strings, return_tensors="pt", padding=True, add_special_tokens=False).to(a.device)


def write(side, batch):
    """What an adapter makes of texts, in training mode as everything else."""
    use(side)
    x = padded([text + SEP for text in batch], "left")
    with torch.no_grad():
        y = model.generate(**x, max_new_tokens=a.new, do_sample=False, use_cache=True, pad_token_id=tok.eos_token_id)
    return tok.batch_decode(y[:, x.input_ids.shape[1]:], skip_special_tokens=True)


def learn(side, prompts, answers):
    """The gradient of a micro-batch, divided by how many there are in a step."""
    use(side)
    prompts = [text.strip(SEP) + SEP for text in prompts]
    x = padded([prompt + answer + tok.eos_token for prompt, answer in zip(prompts, answers)], "right")
    labels = x.input_ids.masked_fill(x.attention_mask == 0, -100)
    for row, prompt in zip(labels, prompts):
        row[:len(tok.encode(prompt, add_special_tokens=False))] = -100
    loss = model(**x, labels=labels, use_cache=False).loss
    (loss / a.accumulate).backward()
    return loss.item()


def update(side):
    optimizer[side].step()
    optimizer[side].zero_grad()
    gc.collect()
    if a.device == "cuda":
        torch.cuda.empty_cache()


def step(at):
    losses = {}
    for micro in range(a.accumulate):
        first = (at * a.accumulate + micro) * a.batch % epoch
        real = {s: texts[s][first:first + a.batch] for s in "AB"}
        for learner, writer in (("A", "B"), ("B", "A")):
            losses[learner] = learn(learner, write(writer, real[writer]), real[writer])
            if micro + 1 == a.accumulate:
                update(learner)
    return losses


meters, log = [], []
for k in range(1, a.steps + 1):
    with common.Meter() as m:
        losses = step(k - 1)
    meters.append(m)
    log.append({"step": k, "seconds": round(m.wall, 3), "cpu_seconds": round(m.cpu, 3), **{f"loss_{s}": round(v, 4) for s, v in losses.items()}})
    print(json.dumps(log[-1]), flush=True)
    if k % a.every == 0 or k == a.steps:
        model.save_pretrained(os.path.join(a.out, f"step-{k}"), selected_adapters=["A", "B"])
peak = common.peak_mb() if a.device == "cpu" else round(torch.cuda.max_memory_reserved() / 2**20)
with open(os.path.join(a.out, "steps.json"), "w") as f:
    json.dump({"steps": log, "peak_mb": peak}, f)
common.emit(item="reference_macct", device=a.device, threads=a.threads, peak_mb=peak, losses=losses, **common.stats(meters))
