"""Is a head on a frozen base scikit-learn's logistic regression on the same rows? Not a fixture: a check to run by hand, its last result in
docs/methods.md.

  python tests/golden/make/logistic.py [--model cache/minilm] [--data cache/intent-classes/train.jsonl] [--held-out 1200] [--cyclora build/release/cyclora]

(scikit-learn, safetensors.) cyclora trains the head (method none) on all but the held-out rows of the data, and keeps the base's rows of every text; of
an encoder with a pooler what the head reads is tanh(W row + b) of them, made here again.

The objective of LogisticRegression(C) is the mean loss and |W|^2 / (2 C n), intercepts free; a head of a decoder has no intercept, so fit_intercept is
what the head has. The same here: all n rows in each step, weight_decay 1 / (C n) and adam_epsilon 1, beside which the root of AdamW's second moment
is nothing, so that a step is lr (m + weight_decay W): gradient descent with momentum beta1 on exactly that objective. Its rate follows from the greatest
curvature, at most half the greatest eigenvalue of X^T X / n (softmax): half of what momentum bears.

For each C the accuracies on the held-out rows must be within half a point of each other. The recipe of everyday (small batches, a falling rate, no penalty)
is the last line, to be within half a point of scikit-learn's best or above it.
"""
import argparse
import glob
import json
import random
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

POINTS, BETA = 0.5, 0.995


class Runs:
    """Runs of cyclora on one split; the base's rows are made by the first."""

    def __init__(self, a, tmp):
        self.a, self.tmp = a, tmp
        with open(f"{tmp}/run.yaml", "w") as f:
            f.write(f"objective: classification\nmodel: {a.model}\ndata: {tmp}/learnt.jsonl\neval: {{data: {tmp}/held.jsonl}}\nmethod: none\nmax_length: 64\n"
                    f"save_steps: 0\nlogging_steps: 1000\nthreads: {a.threads}\nfeatures: {{cache: {tmp}/features}}\n")

    def __call__(self, name, **settings):
        """Accuracy in percent on what is held out, and the head's tensors."""
        out = f"{self.tmp}/{name}"
        sets = [x for k, v in {"output_dir": out, **settings}.items() for x in ("--set", f"{k}={v}")]
        subprocess.run([self.a.cyclora, "train", f"{self.tmp}/run.yaml", "--quiet", *sets], check=True, capture_output=True, text=True)
        head = load_file(f"{out}/adapter/adapter_model.safetensors")
        return 100 * json.load(open(f"{out}/report.json"))["evals"][-1]["sides"][0]["accuracy"], head

    def rows(self):
        """What the head reads, in double."""
        x = load_file(glob.glob(f"{self.tmp}/features/*.safetensors")[0])["features"].astype(np.float64)
        files = glob.glob(f"{self.a.model}/model.safetensors")
        base = load_file(files[0]) if files else {}
        pooler = next((k[:-len("weight")] for k in base if k.endswith("pooler.dense.weight")), None)
        return x if pooler is None else np.tanh(x @ base[pooler + "weight"].T.astype(np.float64) + base[pooler + "bias"])


def objective(c, x, y, w, b):
    z = x @ w.T + b
    z -= z.max(1, keepdims=True)
    return (np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]).mean() + (w ** 2).sum() / (2 * c * len(y))


def split(a, tmp):
    rows = [json.loads(line) for line in open(a.data)]
    random.Random(1).shuffle(rows)
    held, learnt = rows[:a.held_out], rows[a.held_out:]
    names = sorted({r["label"] for r in learnt})
    held = [r for r in held if r["label"] in names]
    for name, part in (("learnt", learnt), ("held", held)):
        with open(f"{tmp}/{name}.jsonl", "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in part)
    return len(learnt), np.array([names.index(r["label"]) for r in learnt + held])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--model", default="cache/minilm")
    ap.add_argument("--data", default="cache/intent-classes/train.jsonl")
    ap.add_argument("--held-out", type=int, default=1200)
    ap.add_argument("--penalties", default="1,10,100", help="C of each")
    ap.add_argument("--steps", type=int, default=4000)
    ap.add_argument("--rate", default="3e-2", help="of the recipe of everyday")
    ap.add_argument("--threads", default="0")
    a = ap.parse_args()
    bad, best = 0, 0
    with tempfile.TemporaryDirectory() as tmp:
        n, y = split(a, tmp)
        run = Runs(a, tmp)
        everyday, head = run("everyday", per_device_train_batch_size=32, max_steps=3000, learning_rate=a.rate, lr_scheduler_type="linear")
        x, biased = run.rows(), any(k.endswith("bias") for k in head)
        rate = 2 * (1 + BETA) / (1 - BETA) / np.linalg.eigvalsh(x[:n].T @ x[:n] / n)[-1]
        print(f"{n} rows learnt, {len(y) - n} held out, {x.shape[1]} features, intercept: {biased}, rate {rate:.3g}", flush=True)
        for c in map(float, a.penalties.split(",")):
            there = LogisticRegression(C=c, max_iter=10000, tol=1e-6, fit_intercept=biased).fit(x[:n], y[:n])
            score = 100 * there.score(x[n:], y[n:])
            ours, head = run(f"C{c}", per_device_train_batch_size=n, max_steps=a.steps, learning_rate=rate, lr_scheduler_type="constant", adam_beta1=BETA, adam_epsilon=1,
                             weight_decay=1 / (c * n), max_grad_norm=0)
            w = next(v for k, v in head.items() if k.endswith("weight"))
            b = next((v for k, v in head.items() if k.endswith("bias")), 0)
            print(f"C {c:g}: scikit-learn {score:.2f} % (objective {objective(c, x[:n], y[:n], there.coef_, there.intercept_):.5f}), "
                  f"cyclora {ours:.2f} % ({objective(c, x[:n], y[:n], w, b):.5f})", flush=True)
            bad |= abs(ours - score) > POINTS
            best = max(best, score)
    bad |= everyday < best - POINTS
    print(f"everyday, rate {a.rate}: cyclora {everyday:.2f} %, scikit-learn's best {best:.2f} %: {'DIFFERENT' if bad else 'ok'}")
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
