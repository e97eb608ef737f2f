#!/usr/bin/env python3
"""Start-up: seconds and peak RSS of fresh interpreters that import the stack and load the model with an adapter.

  python bench/peers/bench_startup.py --model DIR --reps 3"""
import subprocess
import sys
import common

ap = common.parser(__doc__)
ap.add_argument("--python", default=sys.executable)
ap.add_argument("--reps", type=int, default=3)
a = ap.parse_args()
HW = ";print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
LOAD = (f"import torch, transformers, peft;torch.set_num_threads({a.threads});from transformers import AutoModelForCausalLM as M, "
        f"AutoTokenizer as T;t=T.from_pretrained('{a.model}');m=M.from_pretrained('{a.model}',dtype=torch.float32);"
        "m=peft.get_peft_model(m,peft.LoraConfig(task_type='CAUSAL_LM',r=16,lora_alpha=32,target_modules='all-linear'))")
for name, code in [("python", "pass"), ("import torch", "import torch"), ("import torch, transformers, peft", "import torch, transformers, peft"),
                   ("import, load tokenizer and model, attach adapter", LOAD)]:
    ms, peak = [], 0
    for _ in range(a.reps):
        with common.Meter() as m:
            peak = int(subprocess.run([a.python, "-c", code + HW], capture_output=True, text=True, check=True).stdout.split()[-1])
        ms.append(m)
    common.emit(item="startup", what=name, threads=a.threads, **common.stats(ms), peak_mb=peak // 1024)
