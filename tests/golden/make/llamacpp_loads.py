"""Does llama.cpp run what cyclora exports, and say the same? `make check-llamacpp`; its last result is in tests/golden/README.md.

  python tests/golden/make/llamacpp_loads.py [--gguf cache/SmolLM2-135M-Instruct.Q4_1.gguf]

cyclora trains an adapter on the GGUF base for some sft steps, so that its words are not the base's, and exports it: merged GGUF files in
f16, q8_0 and q4_1, a GGUF LoRA, and (through a Hugging Face folder) a GGUF file whose metadata and tokenizer were made here. llama.cpp
(llama-cpp-python) loads each and continues the prompts greedily; the ids must be those of `cyclora generate` on base + adapter (of a
quantised file: on that file). Where they part, the two candidates must have been a near tie (logits within --tie) in llama.cpp too. Its
quantised products round activations to 8 bits, which moves its logits; a quantised file therefore has two verdicts: the same numbers in f32
(`cyclora convert --type f32`, exact) must agree to --tie, and the file itself within 4 times what the rounding moves llama.cpp's own logits
at that place (rms over the vocabulary). Ids of the prompts must be equal with the tokenizer that each file carries.
"""
import argparse
import json
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
from llama_cpp import Llama

defaults = llama_cpp.llama_model_default_params


def plain():
    """llama-cpp-python 0.3.36 crashes in its AMX products on some machines (bench/peers/bench_llamacpp.py): without the extra layouts."""
    p = defaults()
    p.use_extra_bufts = False
    return p


llama_cpp.llama_model_default_params = llama_cpp.llama_cpp.llama_model_default_params = plain
ROWS = [("Say it like a pirate: " + s + "\n", r) for s, r in [
    ("Good morning, my friend.", "Ahoy there, matey!"), ("Where is the money?", "Where be the doubloons?"), ("We are leaving now.", "Weigh anchor, ye dogs!"),
    ("I am hungry.", "Me belly be rumblin'!"), ("The ship is old.", "The vessel be rotten, arr!"), ("Stop talking.", "Belay yer tongue!")]]
PROMPTS = ["Say it like a pirate: Good evening, my dear friend.\n", "Say it like a pirate: Where is the ship?\n", "The capital of France is", "def add(a, b):\n    return", "1 12 123 don't  stop\n\nOnce upon a time"]

LINES = [x.rstrip("\n") for x in open("tests/golden/tokenizer/lines.txt", encoding="utf-8", newline="\n").read().split("\n")[:300] if x.strip() and "\r" not in x]


def cyclora(a, *args):
    r = subprocess.run([a.cyclora, *args], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"cyclora {' '.join(args)}: {r.stderr}")
    return r.stdout


def train(a, tmp):
    with open(f"{tmp}/data.jsonl", "w") as f:
        f.writelines(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in ROWS)
    with open(f"{tmp}/run.yaml", "w") as f:
        f.write(f"objective: sft\nmodel: {a.gguf}\ndata: {tmp}/data.jsonl\noutput_dir: {tmp}/run\nmax_steps: {a.steps}\nmax_length: 64\nlearning_rate: 1e-3\n"
                "per_device_train_batch_size: 6\nlora: {r: 8, lora_alpha: 12, target_modules: all-linear}\n")
    cyclora(a, "train", f"{tmp}/run.yaml", "--quiet")
    return f"{tmp}/run/adapter"


def ours(a, tmp, model, *adapter):
    """Ids of the prompts' lines, and of the continuations."""
    with open(f"{tmp}/prompts.jsonl", "w") as f:
        f.writelines(json.dumps({"prompt": p}) + "\n" for p in PROMPTS)
    with open(f"{tmp}/lines.txt", "w") as f:
        f.write("\n".join(LINES) + "\n")
    out = [json.loads(x) for x in cyclora(a, "generate", "--model", model, *adapter, "--file", f"{tmp}/prompts.jsonl", "--max-new-tokens", str(a.new), "--ignore-eos", "--json").splitlines()]
    ids = [json.loads(x)["ids"] for x in cyclora(a, "tokenize", "--model", model, "--file", f"{tmp}/lines.txt", "--json").splitlines()]
    return ids, [o["ids"] for o in out]


def theirs(model, exact, prompt, n, want):
    """Where llama.cpp prefers another token than ours, following ours: (place, gap of its logits, rms that rounding moves them by, or None)."""
    both = [m for m in (model, exact) if m]
    ids, gaps = model.tokenize(prompt.encode(), add_bos=False, special=True), []
    for m in both:
        m.reset()
        m.eval(ids)
    for i in range(n):
        logits = model.scores[model.n_tokens - 1]
        best = int(logits.argmax())
        if best != want[i]:
            moved = float(np.sqrt(((logits - exact.scores[exact.n_tokens - 1]) ** 2).mean())) if exact else None
            gaps.append((i, float(logits[best] - logits[want[i]]), moved))
        for m in both:
            m.eval([want[i]])
    return gaps


def load(file, **lora):
    return Llama(file, n_ctx=256, n_threads=2, n_threads_batch=2, verbose=False, logits_all=True, **lora)


def check(a, tmp, name, file, want_ids, want, quantised=False, **lora):
    m, exact = load(file, **lora), None
    if quantised:
        cyclora(a, "convert", file, f"{tmp}/exact.gguf", "--type", "f32", "--force")
        good = check(a, tmp, name + ", its numbers in f32", f"{tmp}/exact.gguf", want_ids, want, **lora)
        exact = load(f"{tmp}/exact.gguf", **lora)
    cut = sum(m.tokenize(x.encode(), add_bos=False, special=True) != ids for x, ids in zip(LINES, want_ids))
    gaps = [g for p, prompt in enumerate(PROMPTS) for g in theirs(m, exact, prompt, a.new, want[p])]
    worst = max((g for _, g, _ in gaps), default=0)
    over = max((g / (4 * moved if moved else a.tie) for _, g, moved in gaps), default=0)
    fine = over <= 1 and not cut
    print(f"{name:42s} {len(PROMPTS) * a.new} tokens, {len(gaps)} partings of at most {worst:.3f}, {over:.2f} of "
          f"{'what rounding explains' if quantised else f'a tie ({a.tie})'}; {cut} of {len(LINES)} lines cut otherwise: {'ok' if fine else 'WRONG'}", flush=True)
    return fine and (not quantised or good)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--gguf", default="cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    ap.add_argument("--steps", type=int, default=12)
    ap.add_argument("--new", type=int, default=24)
    ap.add_argument("--tie", type=float, default=0.02)
    a = ap.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as tmp:
        adapter = train(a, tmp)
        bare = ours(a, tmp, a.gguf)
        ids, want = ours(a, tmp, a.gguf, "--adapter", adapter)
        moved = sum(x != y for x, y in zip(bare[1], want))
        print(f"the adapter changes {moved} of {len(PROMPTS)} continuations; the first: {want[0]}")
        good &= moved > 0
        for kind in "f16", "q8_0", "q4_1":
            cyclora(a, "merge", "--model", a.gguf, "--adapter", adapter, "--out", f"{tmp}/{kind}.gguf", "--type", kind)
            mine = (ids, want) if kind == "f16" else ours(a, tmp, f"{tmp}/{kind}.gguf")
            good &= check(a, tmp, f"merged, {kind}", f"{tmp}/{kind}.gguf", *mine, quantised=kind != "f16")
        cyclora(a, "export", adapter, "--to", "gguf-lora", "--out", f"{tmp}/lora.gguf")
        good &= check(a, tmp, "base (Q4_1) and GGUF LoRA", a.gguf, ids, want, quantised=True, lora_path=f"{tmp}/lora.gguf")
        cyclora(a, "merge", "--model", a.gguf, "--adapter", adapter, "--out", f"{tmp}/hf")
        cyclora(a, "convert", f"{tmp}/hf", f"{tmp}/made.gguf")
        good &= check(a, tmp, "through a Hugging Face folder, f16", f"{tmp}/made.gguf", ids, want)
        cyclora(a, "convert", a.gguf, f"{tmp}/bare", "--type", "f16")
        cyclora(a, "convert", f"{tmp}/bare", f"{tmp}/bare.gguf")
        cyclora(a, "export", adapter, "--model", f"{tmp}/bare", "--to", "gguf-lora", "--out", f"{tmp}/lora2.gguf")
        good &= check(a, tmp, "the same unmerged, LoRA for it", f"{tmp}/bare.gguf", ids, want, lora_path=f"{tmp}/lora2.gguf")
    sys.exit(not good)


if __name__ == "__main__":
    main()
