#!/usr/bin/env python3
"""transformers generate(): greedy, KV cache, fp32, EOS suppressed, prompts of 32 tokens, 64 new. One RESULT line a batch size.

  python bench/peers/bench_generate.py --model DIR --data DIR --batches 1,8 [--lora]
Prompts are the first rows of prompt_32.ids.txt. --lora: with a LoRA adapter (r 16, all-linear) attached, unmerged, as in cycle
training. tok_s counts new tokens over the whole call; decode_tok_s_median leaves out the prefill (a 1-token call); peak_mb is
the process's so far, so run one batch size a process to have it per batch."""
import statistics
import common

ap = common.parser(__doc__)
ap.add_argument("--batches", default="1,8")
ap.add_argument("--new", type=int, default=64)
ap.add_argument("--reps", type=int, default=3)
ap.add_argument("--lora", action="store_true")
a = ap.parse_args()
torch = common.torch_with(a.threads)
from transformers import AutoModelForCausalLM

torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
eos = model.config.eos_token_id
if a.lora:
    from peft import get_peft_model
    model = get_peft_model(model, common.lora_config()).eval()
data = common.rows(a.data, "prompt_32.ids.txt")
for b in [int(v) for v in a.batches.split(",")]:
    x = torch.tensor(common.take(data, 0, b))
    kw = dict(input_ids=x, attention_mask=torch.ones_like(x), do_sample=False, use_cache=True, pad_token_id=eos)
    full, one = [], []
    with torch.inference_mode():
        model.generate(**kw, max_new_tokens=4, min_new_tokens=4)
        for _ in range(a.reps):
            with common.Meter() as m:
                out = model.generate(**kw, max_new_tokens=a.new, min_new_tokens=a.new)
            full.append(m)
            with common.Meter() as m:
                model.generate(**kw, max_new_tokens=1, min_new_tokens=1)
            one.append(m)
    assert out.shape == (b, x.shape[1] + a.new)
    dec = statistics.median(m.wall for m in full) - statistics.median(m.wall for m in one)
    common.emit(item="generate", lora=a.lora, batch=b, prompt=x.shape[1], new=a.new, threads=a.threads,
                **common.stats(full, b * a.new), prefill_s=round(statistics.median(m.wall for m in one), 4),
                decode_tok_s_median=round(b * (a.new - 1) / dec, 1), peak_mb=common.peak_mb(),
                first_row=out[0, x.shape[1]:].tolist()[:16])
