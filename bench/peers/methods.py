#!/usr/bin/env python3
"""A training step of each method, ours beside PEFT's (plain torch where PEFT has no such method), in one run: what bench/methods.sh runs.

  python bench/peers/methods.py [--device cpu|cuda] [--methods NAME,...] [--shape 135m] [--item sft:8x128:none] [--rounds N] [--json FILE]

The same shape with random weights, the same rows and settings on both sides: r 16, alpha 32, all linear layers; 20 virtual tokens; AdamW; f32 adapters.
Each figure is of a fresh process; the engines take turns, and the best round counts on both sides. On a card the base is bf16 under autocast, ours
bf16; on a processor the peer's is f32 and ours Q4_1, decoded as it is read (--base TYPE: another). bitfit runs on the shape with biases in all its
linear layers. Ours is $BENCH_CARD or build/release/bench_card; $PEER_LD_LIBRARY_PATH as in gpu/side_by_side.py.
Memory is what the driver says is gone from a card (and what torch's allocator handed out at most), of a processor the process at most."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OURS = {  # a method's name here and in gpu/peer.py: our settings
    "lora": [], "dora": ["lora.use_dora=true"], "ia3": ["method=ia3"], "bitfit": ["method=bitfit"], "ln_tuning": ["method=ln_tuning"],
    "prompt_tuning": ["method=prompt_tuning"], "prefix_tuning": ["method=prefix_tuning"], "p_tuning": ["method=p_tuning"], "full": ["method=full"]}


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    ap.add_argument("--methods", default=",".join(OURS))
    ap.add_argument("--shape", default="135m", help="a name in bench/shapes, or a file")
    ap.add_argument("--item", help="sft:ROWSxLENGTH:LEVEL; sft:8x128:none on a card, sft:2x128:none on a processor")
    ap.add_argument("--base", default="q4_1", help="ours on a processor: how the matrices are stored")
    ap.add_argument("--rounds", type=int, default=1)
    ap.add_argument("--limit", type=float, default=240, help="seconds a process")
    ap.add_argument("--json", help="also write the RESULT lines there")
    a = ap.parse_args()
    a.item = a.item or ("sft:8x128:none" if a.device == "cuda" else "sft:2x128:none")
    a.shape = a.shape if a.shape.endswith(".json") else os.path.join(ROOT, "bench/shapes", a.shape + ".json")
    unknown = [m for m in a.methods.split(",") if m not in OURS]
    if unknown:
        ap.error(f"unknown method {unknown[0]}; there are {', '.join(OURS)}")
    return a


def result(command, limit, env=None):
    """The RESULT of one process, or {"error"}."""
    try:
        p = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=limit, env=env)
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {limit:.0f} s"}
    except OSError as e:
        return {"error": f"{e.strerror}: {os.path.basename(command[0])}"}
    found = [json.loads(l[7:]) for l in p.stdout.splitlines() if l.startswith("RESULT ")]
    words = [l for l in p.stderr.splitlines() if l.strip()]
    return found[-1] if found else {"error": words[-1][:160] if words else f"exit status {p.returncode}"}


def ours(a, method, shape):
    binary = os.environ.get("BENCH_CARD") or os.path.join(ROOT, "build/release/bench_card")
    flags = ["--cpu", "--base", a.base] if a.device == "cpu" else []
    return result([binary, *flags, *[w for s in OURS[method] for w in ("--set", s)], shape, a.item], a.limit)


def peer(a, method, shape):
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    if "PEER_LD_LIBRARY_PATH" in env:
        env["LD_LIBRARY_PATH"] = env["PEER_LD_LIBRARY_PATH"]
    if a.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    engine = ("peft" if a.device == "cuda" else "peft+f32") + ":" + method
    return result([sys.executable, os.path.join(HERE, "gpu/peer.py"), engine, shape, a.item], a.limit, env)


def better(x, y):
    return y if not x or "error" in x or ("error" not in y and y["ms_median"] < x["ms_median"]) else x


def with_biases(shape, folder):
    config = dict(json.load(open(shape)), attention_bias=True, mlp_bias=True)
    path = os.path.join(folder, os.path.basename(shape))
    with open(path, "w") as f:
        json.dump(config, f)
    return path


def count(n):
    return f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n / 1e3:.1f} k"


def row(method, o, p):
    cells = [method]
    cells += [count(o["trained"]), f"{o['ms_median']:.1f}"] if "error" not in o else ["", o["error"]]
    cells.append(f"{p['ms_median']:.1f}" if "error" not in p else p["error"])
    whole = "error" not in o and "error" not in p
    cells.append(f"{p['ms_median'] / o['ms_median']:.2f}" if whole else "")
    cells.append(f"{o['taken_gb']:.2f} ({o['planned_gb']:.2f})" if "error" not in o else "")
    cells.append(f"{p['taken_gb']:.2f}" + (f" ({p['peak_gb']:.2f})" if p.get("peak_gb") else "") if "error" not in p else "")
    if whole and o["trained"] != p.get("trained", o["trained"]):
        cells[1] += f" (theirs {count(p['trained'])})"
    return "| " + " | ".join(cells) + " |"


def main():
    a = arguments()
    lines = []
    print(f"{os.path.basename(a.shape)[:-5]} {a.item}, {a.device}: a step, ms\n")
    print("| method | trained | cyclora | peer | its time ÷ ours | our memory, GB (planned) | its memory, GB |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for method in a.methods.split(","):
            shape = with_biases(a.shape, folder) if method == "bitfit" else a.shape
            o = p = None
            for _ in range(a.rounds):
                o, p = better(o, ours(a, method, shape)), better(p, peer(a, method, shape))
            print(row(method, o, p), flush=True)
            lines += [dict(o, engine="cyclora", method=method), dict(p, engine="peer", method=method)]
    if a.json:
        with open(a.json, "w") as f:
            f.writelines(json.dumps(l) + "\n" for l in lines)


if __name__ == "__main__":
    main()
