#!/usr/bin/env python3
"""llama.cpp through llama-cpp-python on the GGUF itself: prompt processing and batch-1 greedy decode.

  python bench/peers/bench_llamacpp.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --data DIR
Its quantised products use 8-bit activations: not the same arithmetic as fp32 on dequantised weights.
llama-cpp-python 0.3.36 crashes in its AMX products here (segmentation fault in llama_decode on a 2-vCPU Sapphire Rapids guest), so
the "extra" weight layouts (AMX, repacked) are off unless --extra; without them it uses AVX-512 VNNI on the mapped Q4_1 blocks."""
import common

ap = common.parser(__doc__)
ap.add_argument("--gguf", default="cache/SmolLM2-135M-Instruct.Q4_1.gguf")
ap.add_argument("--new", type=int, default=64)
ap.add_argument("--reps", type=int, default=7)
ap.add_argument("--extra", action="store_true", help="allow AMX and repacked weight layouts")
a = ap.parse_args()
import llama_cpp
from llama_cpp import Llama

if not a.extra:  # Llama() does not pass this one on: change what the defaults function gives it
    defaults = llama_cpp.llama_model_default_params

    def plain():
        p = defaults()
        p.use_extra_bufts = False
        return p
    llama_cpp.llama_model_default_params = llama_cpp.llama_cpp.llama_model_default_params = plain

with common.Meter() as load:
    m = Llama(a.gguf, n_ctx=1024, n_batch=512, n_threads=a.threads, n_threads_batch=a.threads, verbose=False)
short, long = common.rows(a.data, "prompt_32.ids.txt")[0], common.rows(a.data, "sft_512.ids.txt")[0]
pp, ppl, tg, first = [], [], [], []
for _ in range(a.reps + 1):
    m.reset()
    with common.Meter() as t:
        m.eval(long)
    ppl.append(t)
    m.reset()
    with common.Meter() as t:
        m.eval(short)
    pp.append(t)
    out = []
    with common.Meter() as t:
        for _ in range(a.new):
            out.append(m.sample(temp=0.0))
            m.eval(out[-1:])
    tg.append(t)
base = dict(version=llama_cpp.__version__, threads=a.threads, extra=a.extra, load_s=round(load.wall, 2), peak_mb=common.peak_mb())
common.emit(item="llama.cpp prompt", tokens=len(long), **common.stats(ppl[1:], len(long)), **base)
common.emit(item="llama.cpp prompt", tokens=len(short), **common.stats(pp[1:], len(short)), **base)
common.emit(item="llama.cpp decode", batch=1, new=a.new, **common.stats(tg[1:], a.new), **base, first_row=out[:16],
            info=llama_cpp.llama_print_system_info().decode())
