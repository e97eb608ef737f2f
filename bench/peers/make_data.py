#!/usr/bin/env python3
"""Deterministic benchmark data from Debian's licence texts, as token ids that every engine reads alike.

  python bench/peers/make_data.py --model DIR --data DIR
Writes into --data:
  corpus.txt, corpus.ids.json         the text (white space collapsed) and all its ids
  sft_128.ids.txt, sft_512.ids.txt    the corpus cut into rows of 128 / 512 ids; batch k of size b is rows k*b .. k*b+b-1
  prompt_32.ids.txt                   the same in rows of 32: prompts for generation
  cycle_A.jsonl, cycle_B.jsonl        {"text"}: texts of exactly 31 tokens, 32 with the separator "\\n\\n"
  cycle_A.ids.txt, cycle_B.ids.txt    the same as rows of 32 ids, the separator included as the last id
An .ids.txt file holds one row a line, ids separated by single spaces."""
import json
import os
import common

ap = common.parser(__doc__)
ap.add_argument("--src", default="/usr/share/common-licenses/")
ap.add_argument("--names", default="GPL-3,Apache-2.0,LGPL-2.1,GFDL-1.3,MPL-2.0,Artistic")
ap.add_argument("--n", type=int, default=400, help="texts a side, at most")
a = ap.parse_args()
from transformers import AutoTokenizer

os.makedirs(a.data, exist_ok=True)
text = "\n".join(" ".join(open(a.src + n).read().split()) for n in a.names.split(","))
tok = AutoTokenizer.from_pretrained(a.model)
enc = lambda s: tok(s, add_special_tokens=False)["input_ids"]
ids = enc(text)
SEP, L = "\n\n", 32 - len(enc("\n\n"))
path = lambda n: os.path.join(a.data, n)


def write_rows(name, rows):
    with open(path(name), "w") as f:
        f.writelines(" ".join(map(str, r)) + "\n" for r in rows)


open(path("corpus.txt"), "w").write(text)
json.dump(ids, open(path("corpus.ids.json"), "w"))
for n, name in ((128, "sft_128"), (512, "sft_512"), (32, "prompt_32")):
    write_rows(name + ".ids.txt", [ids[i:i + n] for i in range(0, len(ids) - n + 1, n)])
out = []
for i in range(0, len(ids) - L, L):
    t = tok.decode(ids[i:i + L]).strip()
    e = enc(t + SEP)
    if len(e) == 32 and "\n" not in t and e[:L] == enc(t):
        out.append((t, e))
h = len(out) // 2
for side, part in (("A", out[:h]), ("B", out[h:])):
    part = part[:a.n]
    with open(path(f"cycle_{side}.jsonl"), "w") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t, _ in part)
    write_rows(f"cycle_{side}.ids.txt", [e for _, e in part])
common.emit(item="data", corpus_tokens=len(ids), texts_a_side=min(h, a.n), sep_ids=enc(SEP), data=a.data)
