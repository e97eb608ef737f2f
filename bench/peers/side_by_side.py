#!/usr/bin/env python3
"""Ours and the peers in one run, in turn, and the ratios: what `make bench` prints.

  python bench/peers/side_by_side.py --gguf FILE --model HF_DIR --data DIR [--rounds 2] [llamacpp]
Every figure is of a fresh process; per item the engines alternate and the best of the rounds counts on both sides."""
import argparse
import json
import os
import re
import subprocess
import sys
import time

ap = argparse.ArgumentParser(description=__doc__)
ap.add_argument("what", nargs="?", default="peft", choices=["peft", "llamacpp"])
ap.add_argument("--gguf", required=True)
ap.add_argument("--model", required=True)
ap.add_argument("--data", required=True)
ap.add_argument("--build", default="build/release")
ap.add_argument("--rounds", type=int, default=2)
ap.add_argument("--json", help="also write all RESULT lines to this file")
a = ap.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
lines = []


def results(cmd):
    p = subprocess.run(cmd, capture_output=True, text=True)
    found = [json.loads(l[7:]) for l in p.stdout.splitlines() if l.startswith("RESULT ")]
    if p.returncode or not found:
        sys.exit(f"{' '.join(cmd)}\n{p.stdout[-2000:]}{p.stderr[-2000:]}")
    lines.extend(found)
    return found[-1]


def ours(*args):
    return results([f"{a.build}/bench_cyclora", a.gguf, a.data, *map(str, args)])


def peer(script, *args):
    return results([sys.executable, f"{here}/{script}", "--model", a.model, "--data", a.data, *map(str, args)])


def start_up():
    """Seconds from the start of `cyclora train` to its first step: model, data and plan ready."""
    out = f"{a.data}/startup-run"
    rows = f"{a.data}/startup.jsonl"
    with open(rows, "w") as f:
        for i in range(64):
            f.write(json.dumps({"prompt": f"Question {i}: what is {i} plus {i}?", "completion": f" {2 * i}."}) + "\n")
    cfg = f"{a.data}/startup.yaml"
    open(cfg, "w").write(f"model: {a.gguf}\nobjective: sft\ndata: {rows}\noutput_dir: {out}\nmax_steps: 1\n")
    t = time.perf_counter()
    p = subprocess.Popen([f"{a.build}/cyclora", "train", cfg, "--overwrite", "--json"], stdout=subprocess.PIPE, text=True)
    first = p.stdout.readline()
    t = time.perf_counter() - t
    p.communicate()
    assert '"start"' in first, first
    return {"best_s": t, "peak_mb": 0}


def better(x, y):
    return y if x is None or y["best_s"] < x["best_s"] else x


def both(f, g):
    x = y = None
    for _ in range(a.rounds):
        x, y = better(x, f()), better(y, g())
    return x, y


cpu = next(re.sub(r".*: ", "", l).strip() for l in open("/proc/cpuinfo") if l.startswith("model name"))
print(f"{cpu}, {os.cpu_count()} processors; best of {a.rounds} rounds, engines in turn\n")
top = results([f"{a.build}/bench_gemm", "--peak"])
print(f"measured ceilings, {top['threads']} threads, {top['isa']}: {top['gflops']:.0f} GFLOP/s f32, reads {top['gb_s']:.0f} GB/s\n")


def share(o):
    """Of what this machine reached in the same run: arithmetic, and for decoding the weights' bytes."""
    of = [f"{100 * o[k] / top[t]:.0f} % of {name}" for k, t, name in (("gflops_best", "gflops", "f32"), ("gb_s_best", "gb_s", "reads")) if k in o]
    return ", ".join(of)


if a.what == "llamacpp":
    o, p = both(lambda: ours("generate", 1, 4), lambda: results([sys.executable, f"{here}/bench_llamacpp.py", "--gguf", a.gguf, "--data", a.data, "--model", a.model]))
    decode = max((l for l in lines if l.get("item") == "llama.cpp decode"), key=lambda l: l["tok_s_best"])
    print(f"batch-1 decoding, tokens/s: cyclora {o['decode_tok_s_best']:.0f} (with an adapter), llama.cpp {decode['tok_s_best']:.0f}: {o['decode_tok_s_best'] / decode['tok_s_best']:.2f}x")
else:
    rows = []
    for b, s in ((8, 128), (4, 512)):
        o, p = both(lambda: ours("sft", b, s, 5), lambda: peer("bench_sft.py", "--batch", b, "--seq", s, "--steps", 4))
        assert abs(o["losses"][0] - p["losses"][0]) < 2e-4, (o["losses"], p["losses"])
        rows.append((f"LoRA SFT step {b}x{s}", "tokens/s", o["tok_s_best"], p["tok_s_best"], o["peak_mb"], p["peak_mb"], share(o)))
    for b in (1, 8):
        o, p = both(lambda: ours("generate", b, 3), lambda: peer("bench_generate.py", "--batches", b, "--reps", 2))
        q = peer("bench_generate.py", "--batches", b, "--reps", 2, "--lora")
        rows.append((f"generation, batch {b} (peer without adapter)", "tokens/s", o["tok_s_best"], p["tok_s_best"], o["peak_mb"], p["peak_mb"], share(o)))
        rows.append((f"generation, batch {b} (both with adapter)", "tokens/s", o["tok_s_best"], q["tok_s_best"], o["peak_mb"], q["peak_mb"], share(o)))
        if top["int15"]:
            i = ours("generate", b, 3, "int15")
            rows.append(("    ... with activations: int15", "tokens/s", i["tok_s_best"], q["tok_s_best"], i["peak_mb"], q["peak_mb"], ""))
    o, p = both(lambda: ours("macct", 4), lambda: peer("bench_macct.py", "--steps", 3))
    rows.append(("MACCT step, 8 rows a side", "s", o["best_s"], p["best_s"], o["peak_mb"], p["peak_mb"], share(o)))
    if top["int15"]:
        i = ours("macct", 4, "int15")
        rows.append(("    ... with activations: int15", "s", i["best_s"], p["best_s"], i["peak_mb"], p["peak_mb"], ""))
    o, p = both(start_up, lambda: peer("bench_startup.py"))
    rows.append(("start to first step", "s", o["best_s"], p["best_s"], o["peak_mb"], p["peak_mb"], share(o)))
    print(f"{'':46}{'':>9} {'cyclora':>9} {'PEFT':>9} {'ratio':>7}   {'peak resident, MB':>18}   cyclora's share of the ceilings")
    for name, unit, x, y, mx, my, of in rows:
        print(f"{name:46}{unit:>9} {x:9.2f} {y:9.2f} {(y / x if unit == 's' else x / y):6.2f}x   {(str(mx) if mx else '-'):>8} {my:>9}   {of}")
if a.json:
    json.dump(lines, open(a.json, "w"), indent=1)
