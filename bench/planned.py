#!/usr/bin/env python3
"""Planned and measured memory of the examples: each is trained for a few steps with its data, evaluated on a few rows and saved, and its report says
what it took. One row an example: the whole, then the line that is furthest from its plan. Ends with 1 if anything took more than was planned.

  bench/planned.py                  all of examples/ whose model and data are in cache/ (tools/fetch.py gets them); the default device
  bench/planned.py sft macct-bible  these; --set KEY=VALUE as `cyclora train` has it: --set device=cpu
  bench/planned.py --steps 0        all of an example's steps: on a card passes are recorded as their lengths come
CYCLORA: our program (build/release/cyclora)."""
import argparse, glob, json, os, subprocess, sys, tempfile

CYCLORA = os.environ.get("CYCLORA", "build/release/cyclora")
SMOL = "cache/SmolLM2-135M-Instruct.Q4_1.gguf"
# What an example's first lines have its user make.
MADE = {
    "distill": [("model", "small.gguf", ["prune", SMOL, "--layers", "24", "--data", "cache/bible/b.jsonl", "--tokens", "8000", "-o"])],
    "qlora": [("model", "smollm2-bf16", ["convert", SMOL, "--type", "bf16"])],
    "long-context": [("data", "cache/bible/a.jsonl", None)],
    "transfer": [("data", "cache/intent-classes/train.jsonl", None), ("test.data", "cache/intent-classes/test.jsonl", None), ("init_from", "", None)],
}


def sets_of(name, folder, steps):
    """So many steps, few rows to evaluate on, and what was made for it."""
    sets = [f"max_steps={steps}"] * (steps > 0) + ["save_steps=0", f"output_dir={folder}/run"]
    text = open(f"examples/{name}.yaml").read()
    sets += [f"{part}.limit=16" for part in ("eval", "test") if f"\n{part}:" in text]
    for key, path, how in MADE.get(name, []):
        if how:
            path = f"{folder}/{path}"
            subprocess.run([CYCLORA] + how + [path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        sets.append(f"{key}={path}")
    return sets


def lines_of(plan):
    """Name, planned, measured; without what is there only while a run begins."""
    return [(line["name"], line["bytes"], line["measured"]) for line in plan["memory"] if line.get("measured")]


def furthest(plan):
    """Did anything take more than was planned? And the line that is furthest from its plan, in words, with all that are above theirs."""
    lines = lines_of(plan)
    more = [line for line in lines if line[2] > line[1]]
    name, want, have = max(lines, key=lambda line: abs(line[2] / line[1] - 1))
    return bool(more) or plan["peak_resident"] > plan["total"], (f"{name} {want / 1e6:.2f} / {have / 1e6:.2f}, {100 * have / want:.1f} %"
                                                                 + "".join(f"; ABOVE: {n} {p} / {m}" for n, p, m in more))


def main():
    args = argparse.ArgumentParser(usage=__doc__)
    args.add_argument("examples", nargs="*")
    args.add_argument("--set", action="append", default=[])
    args.add_argument("--steps", type=int, default=3)
    args = args.parse_args()
    names = args.examples or sorted(os.path.basename(path)[:-5] for path in glob.glob("examples/*.yaml"))
    above = 0
    print(f"{'example':24} {'planned MB':>11} {'measured MB':>12} {'share':>8}   the line that is furthest from its plan")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            command = [CYCLORA, "train", f"examples/{name}.yaml", "--quiet"]
            for one in sets_of(name, folder, args.steps) + args.set:
                command += ["--set", one]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                print(f"{name:24} not run: {(run.stderr.strip().splitlines() or ['?'])[-1][:150]}")
                above += run.returncode != 2
                continue
            plan = json.load(open(f"{folder}/run/report.json"))["plan"]
        total, took = plan["total"], plan["peak_resident"]
        more, line = furthest(plan)
        above += more
        print(f"{name:24} {total / 1e6:11.1f} {took / 1e6:12.1f} {100 * took / total:6.1f} %   {line}", flush=True)
    return above > 0


if __name__ == "__main__":
    sys.exit(main())
