#!/usr/bin/env python3
"""A cycle step (both halves), after cycleformers' CycleTrainer._cycle_step, on current PEFT: seconds, split, peak RSS.

  python bench/peers/bench_macct.py --model DIR --data DIR --steps 4
half A: adapter B generates greedily (KV cache, 30 new tokens, EOS suppressed) from 8 rows of cycle_B.ids.txt (32 ids, the last is
        the separator); adapter A trains on  synthetic(30) + separator | row's text(31) + EOS  with loss after the bar only;
half B: the same with the two swapped, on cycle_A.ids.txt.
--mode macct: one base, adapters A and B (r 16, alpha 32, all-linear), one AdamW each (lr 2e-4, no decay, no clipping).
--mode dmcct: two full fp32 models. Step 0 is a warm-up and is left out. Generation runs in eval(), unlike cycleformers' own."""
import common

ap = common.parser(__doc__)
ap.add_argument("--mode", choices=["macct", "dmcct"], default="macct")
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--new", type=int, default=30)
ap.add_argument("--steps", type=int, default=4)
ap.add_argument("--lr", type=float, default=2e-4)
ap.add_argument("--gc", action="store_true", help="gradient checkpointing")
a = ap.parse_args()
torch = common.torch_with(a.threads)
from transformers import AutoModelForCausalLM

torch.manual_seed(0)
load = lambda: AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
base = load()
eos = base.config.eos_token_id
if a.mode == "macct":
    from peft import get_peft_model
    m = get_peft_model(base, common.lora_config(), adapter_name="A")
    m.add_adapter("B", common.lora_config())
    models = {"A": m, "B": m}
else:
    models = {"A": base, "B": load()}
opt = {}
for s in "AB":
    if a.gc:
        models[s].gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        models[s].enable_input_require_grads()
    if a.mode == "macct":
        models[s].set_adapter(s)
    ps = [p for p in models[s].parameters() if p.requires_grad]
    opt[s] = torch.optim.AdamW(ps, lr=a.lr, weight_decay=0.0, fused=True)
data = {s: common.rows(a.data, f"cycle_{s}.ids.txt") for s in "AB"}


def half(train, batch):
    gen = "B" if train == "A" else "A"
    x = torch.tensor(batch)
    mg, mt = models[gen], models[train]
    with common.Meter() as t_gen:
        mg.eval()
        if a.mode == "macct":
            mg.set_adapter(gen)
        with torch.inference_mode():
            out = mg.generate(input_ids=x, attention_mask=torch.ones_like(x), max_new_tokens=a.new, min_new_tokens=a.new,
                              do_sample=False, use_cache=True, pad_token_id=eos)
    with common.Meter() as t_train:
        synth = out[:, x.shape[1]:].clone()
        y = torch.cat([synth, x[:, -1:], x[:, :-1], torch.full((len(batch), 1), eos)], 1)
        labels = y.clone()
        labels[:, :a.new + 1] = -100
        mt.train()
        if a.mode == "macct":
            mt.set_adapter(train)
        loss = mt(input_ids=y, attention_mask=torch.ones_like(y), labels=labels, use_cache=False).loss
        loss.backward()
        opt[train].step()
        opt[train].zero_grad(set_to_none=True)
    return t_gen.wall, t_train.wall, round(loss.item(), 4), y.shape[1]


ms, gen, tr, losses = [], [], [], []
for s in range(a.steps):
    with common.Meter() as m:
        ga, ta, la, width = half("A", common.take(data["B"], s * a.batch, a.batch))
        gb, tb, lb, _ = half("B", common.take(data["A"], s * a.batch, a.batch))
    losses.append((la, lb))
    if s or a.steps == 1:
        ms.append(m)
        gen.append(ga + gb)
        tr.append(ta + tb)
med = lambda v: round(sorted(v)[len(v) // 2], 3)
common.emit(item="cycle", mode=a.mode, gc=a.gc, batch=a.batch, source=len(data["A"][0]), new=a.new, train_row=width,
            threads=a.threads, **common.stats(ms, 2 * a.batch * (a.new + width)), generate_median_s=med(gen), generate_best_s=round(min(gen), 3),
            train_median_s=med(tr), train_best_s=round(min(tr), 3),
            gen_tok_s_best=round(2 * a.batch * a.new / min(gen), 1), peak_mb=common.peak_mb(), losses=losses)
