#!/usr/bin/env python3
"""tests/golden/near/pairs.json: pairs of texts, the Jaccard similarity of their sets of shingles by Python's sets, and what datasketch's MinHash of
128 permutations makes of it. Needs datasketch (PyPI)."""
import json, pathlib, random, unicodedata
from datasketch import MinHash

words = ("and the of in a Lord said unto him they went down to river city men came house king day all his people made great before "
         "Straße ÄRGER ﬁne Ｗｉｄｅ naïve été 東京 は雨 мир").split()
rng = random.Random(7)


def normal(text):
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def shingles(text, n=5):
    t = normal(text)
    return {t[i : i + n] for i in range(max(1, len(t) - n + 1))}


def changed(text, times):
    w = text.split(" ")
    for _ in range(times):
        w[rng.randrange(len(w))] = rng.choice(words)
    return "  ".join(w).upper() if rng.random() < 0.2 else " ".join(w)


rows = []
for i in range(40):
    a = " ".join(rng.choice(words) for _ in range(rng.choice([3, 12, 40, 120])))
    b = changed(a, i % 8 * len(a.split()) // 20)
    x, y = shingles(a), shingles(b)
    ms = []
    for s in (x, y):
        m = MinHash(num_perm=128, seed=1)
        for g in s:
            m.update(g.encode())
        ms.append(m)
    rows.append({"a": a, "b": b, "jaccard": len(x & y) / len(x | y), "datasketch": ms[0].jaccard(ms[1])})
out = pathlib.Path(__file__).parents[1] / "near"
out.mkdir(exist_ok=True)
(out / "pairs.json").write_text("[" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "]\n")
