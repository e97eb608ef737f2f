"""Is a head on a frozen base as good as scikit-learn's logistic regression on the same rows? Not a fixture: a check to run by hand, its last
result in docs/methods.md.

  python tests/golden/make/logistic.py [--model M] [--data cache/intent-classes/train.jsonl] [--held-out 1200] [--threads N]

(scikit-learn, safetensors.) cyclora trains the head (method none) on all but the held-out rows of the data and keeps the base's rows of every
text, which are what `cyclora embed --pooling last --raw` writes; LogisticRegression is fitted to the same rows with several strengths of its
penalty. The accuracies on the held-out rows, of its best and of the head, must be within half a point of each other, or the head's the higher.
"""
import argparse
import glob
import json
import random
import subprocess
import sys
import tempfile

from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

PENALTIES = (0.01, 0.1, 1.0)  # C; beyond it the solver takes very long
POINTS = 0.5


def cyclora(a, *args):
    return subprocess.run([a.cyclora, *args], check=True, capture_output=True, text=True).stdout


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--model", default="cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    ap.add_argument("--data", default="cache/intent-classes/train.jsonl")
    ap.add_argument("--held-out", type=int, default=1200)
    ap.add_argument("--threads", default="0")
    a = ap.parse_args()
    rows = [json.loads(line) for line in open(a.data)]
    random.Random(1).shuffle(rows)
    held, learnt = rows[:a.held_out], rows[a.held_out:]
    names = sorted({r["label"] for r in learnt})
    held = [r for r in held if r["label"] in names]
    with tempfile.TemporaryDirectory() as tmp:
        for name, part in (("learnt", learnt), ("held", held)):
            with open(f"{tmp}/{name}.jsonl", "w") as f:
                f.writelines(json.dumps(r) + "\n" for r in part)
        with open(f"{tmp}/run.yaml", "w") as f:
            f.write(f"objective: classification\nmodel: {a.model}\ndata: {tmp}/learnt.jsonl\neval: {{data: {tmp}/held.jsonl}}\noutput_dir: {tmp}/run\nmethod: none\nmax_length: 64\nmax_steps: 3000\n"
                    f"per_device_train_batch_size: 32\nlearning_rate: 3e-3\nlr_scheduler_type: linear\nlogging_steps: 1000\nthreads: {a.threads}\n")
        cyclora(a, "train", f"{tmp}/run.yaml", "--quiet")
        head = 100 * json.load(open(f"{tmp}/run/report.json"))["evals"][-1]["sides"][0]["accuracy"]
        print(f"cyclora's head: {head:.2f} %", flush=True)
        x = load_file(glob.glob(f"{tmp}/run/features/*.safetensors")[0])["features"]
    y = [names.index(r["label"]) for r in learnt + held]
    n = len(learnt)
    best = 0
    for c in PENALTIES:
        score = 100 * LogisticRegression(C=c, max_iter=3000).fit(x[:n], y[:n]).score(x[n:], y[n:])
        best = max(best, score)
        print(f"LogisticRegression, C {c}: {score:.2f} %", flush=True)
    good = head >= best - POINTS
    print(f"{n} rows learnt, {len(held)} held out: {'ok' if good else 'WORSE'}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
