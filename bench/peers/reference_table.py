#!/usr/bin/env python3
"""The tables of bench/reference.sh out of its folder: scores of each arm after so many cycles, then seconds a step and peak memory."""
import glob
import json
import os
import re
import statistics
import sys

out = sys.argv[1]
ARMS = {"reference": "step-*.json", "settings": "checkpoint-*.json", "ours": "checkpoint-*.json"}


def read(path):
    with open(path) as f:
        return json.load(f)


def cycles_of(path):
    return int(re.search(r"(\d+)\.json$", path)[1])


def scores(name, seed, path):
    e = read(path)
    ab, ba = e["sides"]
    trip = e["round_trip"]
    print(f"| {name} | {seed} | {ab['bleu']:.1f} / {ab['chrf']:.1f} | {ba['bleu']:.1f} / {ba['chrf']:.1f} | {trip['chrf']:.1f} / {trip['exact']:.0f} % "
          f"| {ab['loss']:.3f} / {ba['loss']:.3f} |")


def steps_of(folder):
    """Seconds of each cycle and the peak in MB, as the program that ran them noted both."""
    if os.path.exists(os.path.join(folder, "steps.json")):
        theirs = read(os.path.join(folder, "steps.json"))
        return [s["seconds"] for s in theirs["steps"]], theirs["peak_mb"]
    with open(os.path.join(folder, "metrics.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    return [m["seconds"] for m in lines if "generate_seconds" in m], round(read(os.path.join(folder, "report.json"))["plan"]["peak_resident"] / 1e6)


def costs(name, seed, folder):
    seconds, peak = steps_of(folder)
    with open(folder + ".log.cpu") as f:
        cpu = sum(float(v) for v in f.read().split())
    print(f"| {name} | {seed} | {statistics.median(seconds):.2f} | {cpu / len(seconds):.2f} | {peak} |")


seeds = sorted(glob.glob(os.path.join(out, "seed-*")))
print("| arm, cycles | seed | A→B BLEU / chrF | B→A BLEU / chrF | A→B→A chrF / exact | held-out loss |\n|---|---|---|---|---|---|")
for at in seeds:
    seed = at.rsplit("-", 1)[1]
    for path in glob.glob(os.path.join(at, "warm", "checkpoint-*.json")):
        scores("warm start", seed, path)
    for arm, pattern in ARMS.items():
        for path in sorted(glob.glob(os.path.join(at, arm, pattern)), key=cycles_of):
            scores(f"{arm}, {cycles_of(path)}", seed, path)
print("\n| arm | seed | s a step (median) | processor s a step, start and end included | peak MB |\n|---|---|---|---|---|")
for at in seeds:
    for arm in ARMS:
        if any(os.path.exists(os.path.join(at, arm, name)) for name in ("steps.json", "report.json")):
            costs(arm, at.rsplit("-", 1)[1], os.path.join(at, arm))
