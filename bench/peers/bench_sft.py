#!/usr/bin/env python3
"""A LoRA (PEFT) or full fine-tuning step: seconds a step, tokens a second, peak RSS, losses. One configuration a process.

  python bench/peers/bench_sft.py --model DIR --data DIR --batch 8 --seq 128 --steps 7
r 16, alpha 32, all-linear, dropout 0, fp32, fused AdamW, weight decay 0, no clipping; step k trains on rows k*batch.. of
sft_<seq>.ids.txt. The first step is a warm-up and is left out of the statistics (losses include it). Loss: transformers' own,
mean over batch*(seq-1) targets. B = 0 at the start, so the first loss is the base model's: the other engine must show the same."""
import common

ap = common.parser(__doc__)
ap.add_argument("--mode", choices=["lora", "full"], default="lora")
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--seq", type=int, default=128)
ap.add_argument("--gc", action="store_true", help="gradient checkpointing")
ap.add_argument("--compile", action="store_true")
ap.add_argument("--steps", type=int, default=7)
ap.add_argument("--lr", type=float, default=2e-4)
a = ap.parse_args()
torch = common.torch_with(a.threads)
from transformers import AutoModelForCausalLM

torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="sdpa")
model.config.use_cache = False
if a.mode == "lora":
    from peft import get_peft_model
    model = get_peft_model(model, common.lora_config())
if a.gc:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if a.mode == "lora":
        model.enable_input_require_grads()
model.train()
params = [p for p in model.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=a.lr, weight_decay=0.0, fused=True)
loaded = common.status_mb("VmRSS")
data = common.rows(a.data, f"sft_{a.seq}.ids.txt")
if a.compile:
    model = torch.compile(model)
ms, losses = [], []
for s in range(a.steps):
    x = torch.tensor(common.take(data, s * a.batch, a.batch))
    with common.Meter() as m:
        loss = model(input_ids=x, labels=x).loss
        loss.backward()
        opt.step()
        opt.zero_grad(set_to_none=True)
    ms.append(m)
    losses.append(round(loss.item(), 5))
common.emit(item="sft", mode=a.mode, batch=a.batch, seq=a.seq, gc=a.gc, compile=a.compile, threads=a.threads,
            trainable=sum(p.numel() for p in params), **common.stats(ms[1:] or ms, a.batch * a.seq),
            first_step_s=round(ms[0].wall, 2), loaded_mb=loaded, peak_mb=common.peak_mb(), losses=losses)
