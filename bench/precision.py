#!/usr/bin/env python3
"""What a type of numbers costs on this machine: memory and tokens a second of a LoRA step (r 16, all linear layers) and of decoding, with random
weights of a shape, weights and computation in that type: float32, on a card TF32 products of it, float16, bfloat16, and e4m3 where a card has it.

  bench/precision.py                         135m on the card if there is one, else on the processor
  bench/precision.py --shapes 135m,8b        more; --types float32,bfloat16; --cpu; --step sft:4x2048:block --decode decode:8
BENCH_CARD: our binary (build/release/bench_card). Prints the table as docs/memory.md has it. A type that is refused is a line that says why.
"""
import argparse, json, os, subprocess, sys

TYPES = {"cpu": ["float32", "bfloat16", "float16"], "cuda": ["float32", "tf32", "bfloat16", "float16", "fp8"]}
ITEMS = {"cpu": ("sft:4x64:selective", "decode:8:32"), "cuda": ("sft:4x2048:block", "decode:8:512")}


def card():
    try:
        out = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
        return out.stdout.splitlines()[0] if out.returncode == 0 and out.stdout.strip() else None
    except OSError:
        return None


def measure(binary, device, kind, shape, item):
    """A process of its own for each figure: its memory is that item's."""
    command = [binary] + (["--cpu"] if device == "cpu" else []) + ["--type", kind, f"bench/shapes/{shape}.json", item]
    run = subprocess.run(command, capture_output=True, text=True)
    for line in run.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:]), ""
    said = [line for line in run.stderr.splitlines() if line.startswith("bench_card: ")]
    return None, said[-1][12:] if said else f"exit status {run.returncode}"


def main():
    args = argparse.ArgumentParser(usage=__doc__)
    args.add_argument("--shapes", default="135m")
    args.add_argument("--types")
    args.add_argument("--cpu", action="store_true")
    args.add_argument("--step")
    args.add_argument("--decode")
    a = args.parse_args()
    name = None if a.cpu else card()
    device = "cuda" if name else "cpu"
    binary = os.environ.get("BENCH_CARD", "build/release/bench_card")
    step, decode = a.step or ITEMS[device][0], a.decode or ITEMS[device][1]
    print(f"{name or 'processor, %d cores' % os.cpu_count()}; {step}, {decode}\n")
    print("| shape | type | step: GB planned | GB taken | tokens/s | decode: GB planned | GB taken | tokens/s |\n|---|---|---|---|---|---|---|---|")
    for shape in a.shapes.split(","):
        for kind in a.types.split(",") if a.types else TYPES[device]:
            cells = []
            for item in (step, decode):
                r, why = measure(binary, device, kind, shape, item)
                cells += [f"{r['planned_gb']:.2f}", f"{r['taken_gb']:.2f}", f"{r['tok_s']:.0f}"] if r else [why, "", ""]
            print(f"| {shape} | {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    sys.exit(main())
