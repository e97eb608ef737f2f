"""Random sequences of tags and what seqeval counts in them -> tests/golden/head_scores/spans.json; random numbers and what SciPy and scikit-learn
say of them -> tests/golden/head_scores/numbers.json. tests/unit/test_head_scores.c reads both.

Run:  python tests/golden/make/head_scores.py     (seqeval, scikit-learn, scipy; deterministic)
"""
import json
import os
import random
import warnings

import numpy as np
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

OUT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "head_scores")
warnings.filterwarnings("ignore")


def span_case(rng, names, sentences, agree):
    truth = [[rng.randrange(len(names)) for _ in range(rng.randrange(0, 12))] for _ in range(sentences)]
    said = [[t if rng.random() < agree else rng.randrange(len(names)) for t in s] for s in truth]
    y, p = ([[names[t] for t in s] for s in of] for of in (truth, said))
    right = sum(len(set(get_entities(a)) & set(get_entities(b))) for a, b in zip(y, p))
    return {"names": names, "truth": truth, "said": said, "spans": sum(len(get_entities(s)) for s in y), "right": right,
            "precision": precision_score(y, p, zero_division=0), "recall": recall_score(y, p, zero_division=0), "f1": f1_score(y, p, zero_division=0)}


def number_case(rng, n, step):
    truth = [round(rng.gauss(0, 2) / step) * step for _ in range(n)]
    said = [round((t + rng.gauss(0, 1)) / step) * step for t in truth]
    truth, said = np.array(truth, np.float32).astype(float), np.array(said, np.float32).astype(float)
    return {"truth": truth.tolist(), "said": said.tolist(), "rmse": root_mean_squared_error(truth, said), "mae": mean_absolute_error(truth, said),
            "pearson": pearsonr(truth, said)[0], "spearman": spearmanr(truth, said)[0]}


def main():
    rng = random.Random(7)
    bio, all_kinds = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], ["O", "B-X", "I-X", "E-X", "S-X", "B-Y-Z", "I-Y-Z", "E-Y-Z"]
    spans = [span_case(rng, names, n, agree) for names in (bio, all_kinds) for n, agree in ((1, 0.0), (20, 0.0), (20, 0.5), (20, 0.9), (20, 1.0))]
    numbers = [number_case(rng, n, step) for n, step in ((2, 0.001), (17, 1), (40, 0.5), (40, 0.001))]
    os.makedirs(OUT, exist_ok=True)
    for name, what in (("spans", spans), ("numbers", numbers)):
        with open(os.path.join(OUT, name + ".json"), "w") as f:
            f.write("[" + ",\n".join(json.dumps(c) for c in what) + "]\n")


if __name__ == "__main__":
    main()
