#!/usr/bin/env python3
"""Tokenisation beside Hugging Face's `tokenizers` on the same text, one thread each, in turn.

    bench_tokenizer.py [--bench build/release/bench_tokenizer] [--rounds 3] [--text FILE ...] [NAME=TOKENIZER.json ...]

Without tokenizers: SmolLM2 (BPE on bytes), Gemma 3 (SentencePiece's BPE), MiniLM (WordPiece) where cache/ has them, and a
Unigram model of 16,000 tokens that is trained on the first text once and kept in cache/bench. Each round runs our program for a
second, then theirs: encode line by line, encode_batch and encode_batch_fast (which leaves the offsets out). MB/s of text by
processor time, best of the rounds; "first" is our first pass, before any word was seen. How many ids there are must agree.
The texts, unless named: English from cache/bible (tools/fetch.py bible), and the test suite's varied lines.
"""
import argparse
import json
import os
import subprocess
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402


def default_texts():
    made = {"cache/bench/english.txt": [], "cache/bench/varied.txt": []}
    for part in ("a", "b", "dev", "test"):
        if os.path.exists("cache/bible/%s.jsonl" % part):
            with open("cache/bible/%s.jsonl" % part, encoding="utf-8") as f:
                made["cache/bench/english.txt"] += [v for x in f for k, v in json.loads(x).items() if k != "ref"]
    with open("tests/golden/tokenizer/lines.txt", encoding="utf-8") as f:
        made["cache/bench/varied.txt"] = [" ".join(json.loads(x).replace("\r", "\n").split("\n")) for x in f]
    os.makedirs("cache/bench", exist_ok=True)
    for path, lines in made.items():
        if lines:
            with open(path, "w", encoding="utf-8", newline="\n") as f:
                f.write("".join(x + "\n" for x in lines))
    return [path for path, lines in made.items() if lines]


def gemma(path, gguf):
    if not os.path.exists(path) and os.path.exists(gguf):
        from transformers import AutoTokenizer
        AutoTokenizer.from_pretrained(os.path.dirname(gguf), gguf_file=os.path.basename(gguf)).backend_tokenizer.save(path, pretty=False)
    return path


def unigram(path, text):
    if not os.path.exists(path):
        tok = Tokenizer(models.Unigram())
        tok.normalizer, tok.pre_tokenizer, tok.decoder = normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace()
        tok.train_from_iterator(text, trainers.UnigramTrainer(vocab_size=16000, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False))
        tok.save(path, pretty=False)
    return path


def spent(work):
    t0 = time.process_time()
    work()
    return time.process_time() - t0


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bench", default="build/release/bench_tokenizer")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--text", nargs="*", default=[])
    ap.add_argument("tokenizer", nargs="*")
    a = ap.parse_args()
    texts = a.text or default_texts()
    chosen = dict(x.split("=", 1) for x in a.tokenizer)
    if not chosen:
        chosen = {"SmolLM2": "cache/smollm2-hf/tokenizer.json", "Gemma 3": gemma("cache/bench/gemma3.json", "cache/gemma-3-270m.Q4_K_M.gguf"),
                  "MiniLM": "cache/minilm/tokenizer.json", "Unigram": unigram("cache/bench/unigram.json", open(texts[0], encoding="utf-8"))}
    print("%-9s %-14s %8s %8s %8s %8s %8s   %s" % ("", "MB/s", "cyclora", "first", "encode", "batch", "fast", "ratio to their best"))
    for name, path in chosen.items():
        if not os.path.exists(path):
            print("%-9s not there: %s" % (name, path))
            continue
        t0 = time.process_time()
        tok = Tokenizer.from_file(path)
        load = time.process_time() - t0
        tok.no_padding()
        tok.no_truncation()
        for f in texts:
            with open(f, encoding="utf-8", newline="\n") as file:
                text = file.read()
            lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
            size, ours, first, theirs = len(text.encode()), 0, 0, [0, 0, 0]
            for _ in range(a.rounds):
                r = json.loads(subprocess.run([a.bench, path, f, "1"], check=True, capture_output=True, text=True).stdout)
                ours, first = max(ours, r["mb_s"]), max(first, r["first_mb_s"])
                kinds = (lambda: [tok.encode(x, add_special_tokens=False) for x in lines], lambda: tok.encode_batch(lines, add_special_tokens=False),
                         lambda: tok.encode_batch_fast(lines, add_special_tokens=False))
                for i, work in enumerate(kinds):
                    theirs[i] = max(theirs[i], size / spent(work) * 1e-6)
            count = sum(len(x.ids) for x in tok.encode_batch(lines, add_special_tokens=False))
            assert count == r["tokens"], "%s: %d ids, theirs are %d" % (name, r["tokens"], count)
            print("%-9s %-14s %8.1f %8.1f %8.1f %8.1f %8.1f   %.1f" % (name, os.path.basename(f)[:14], ours, first, *theirs, ours / max(theirs)), flush=True)
        print("%-9s load: %.3f s, %.0f MB; theirs %.2f s" % (name, r["load_s"], r["load_mb"], load))


if __name__ == "__main__":
    main()
