#!/usr/bin/env python3
"""What tools/passkey.sh trains and asks: a random tiny Llama, and texts with a key in them that is to be said again at the end.

  passkey.py make OUT L     OUT/base (a Hugging Face folder: random weights, the cipher fixture's tokenizer, a context of L) and, of
                            {"prompt", "completion"} rows, OUT/train.jsonl of up to L tokens, OUT/tune.jsonl of up to 4 L, OUT/test-L.jsonl and
                            OUT/test-4L.jsonl of exactly so many
  passkey.py score GENERATED TEST   of `cyclora generate --json` on a test file: how many keys are right, by the quarter of the text that they stand in

A text is letters a-t at random with ":" and four capitals somewhere; it ends with ":" and is to be gone on with by the four capitals."""
import json
import os
import random
import struct
import sys

C, LAYERS, HEADS, FFN, V, KEY = 64, 2, 4, 128, 48, 4
SMALL, LARGE = "abcdefghijklmnopqrst", "ABCDEFGHIJKLMNOPQRST"


def row(rng, tokens):
    """A text of so many tokens, the answer and its end among them."""
    fill = tokens - 2 * KEY - 3
    at = rng.randrange(fill + 1)
    text = "".join(rng.choice(SMALL) for _ in range(fill))
    key = "".join(rng.sample(LARGE, KEY))
    return {"prompt": f"{text[:at]}:{key}{text[at:]}:", "completion": key, "place": at / max(fill, 1)}


def rows(path, rng, n, shortest, longest):
    with open(path, "w") as f:
        for _ in range(n):
            f.write(json.dumps(row(rng, rng.randint(shortest, longest))) + "\n")


def base(folder, length, fixture):
    os.makedirs(folder, exist_ok=True)
    config = json.load(open(os.path.join(fixture, "config.json")))
    config.update(hidden_size=C, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
                  head_dim=C // HEADS, max_position_embeddings=length, dtype="float32")
    json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        with open(os.path.join(fixture, name)) as a, open(os.path.join(folder, name), "w") as b:
            b.write(a.read())
    shapes = {"model.embed_tokens.weight": (V, C), "model.norm.weight": (C,)}
    for l in range(LAYERS):
        p = f"model.layers.{l}."
        shapes.update({p + f"self_attn.{x}_proj.weight": (C, C) for x in "qkvo"})
        shapes.update({p + "mlp.gate_proj.weight": (FFN, C), p + "mlp.up_proj.weight": (FFN, C), p + "mlp.down_proj.weight": (C, FFN),
                       p + "input_layernorm.weight": (C,), p + "post_attention_layernorm.weight": (C,)})
    rng, header, data = random.Random(1), {}, b""
    for name, shape in shapes.items():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        numbers = [rng.gauss(0, 0.08) for _ in range(n)] if len(shape) > 1 else [1.0] * n
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + 4 * n]}
        data += struct.pack(f"<{n}f", *numbers)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def make(out, length):
    fixture = os.path.join(os.path.dirname(__file__), "..", "tests", "golden", "cipher")
    base(os.path.join(out, "base"), length, fixture)
    rows(os.path.join(out, "train.jsonl"), random.Random(2), 30000, length // 2, length)
    rows(os.path.join(out, "tune.jsonl"), random.Random(3), 4000, length // 2, 4 * length)
    rows(os.path.join(out, "test-L.jsonl"), random.Random(4), 200, length, length)
    rows(os.path.join(out, "test-4L.jsonl"), random.Random(5), 200, 4 * length, 4 * length)


def score(generated, test):
    quarter = [[0, 0] for _ in range(4)]
    for g, t in zip(open(generated), open(test), strict=True):
        g, t = json.loads(g), json.loads(t)
        q = quarter[min(3, int(4 * t["place"]))]
        q[0] += g["text"] == t["completion"]
        q[1] += 1
    right, n = sum(q[0] for q in quarter), sum(q[1] for q in quarter)
    print(f"{100 * right / n:.1f} % of {n} keys; by the quarter that they stand in: " + " ".join(f"{100 * a / max(b, 1):.0f}" for a, b in quarter))


if sys.argv[1] == "make":
    make(sys.argv[2], int(sys.argv[3]))
else:
    score(sys.argv[2], sys.argv[3])
