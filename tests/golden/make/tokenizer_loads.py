#!/usr/bin/env python3
"""Do others read the tokenizers, and the T5 and BERT models, that cyclora writes in the other format? `make check-llamacpp`; its last result is in
tests/golden/README.md.

  python tests/golden/make/tokenizer_loads.py [--cyclora build/release/cyclora] [case ...]

For each kind of tokenizer a model goes to the other format and back; of some 19,000 lines (lines.txt and more.txt, cut at line ends):
  cyclora       the ids of what was written, each way, against those of the source
  transformers  AutoTokenizer on each folder: the same
  llama.cpp     on each GGUF file, of the lines where its algorithm is the same: without a literal U+2581 (SentencePiece takes it for a space), for
                t5 and bert printable ASCII alone (it has no grapheme clusters, other white space, accents of its own, and no longest word)
Gemma's and MiniLM's are the real files in cache/. The others are tiny models around tests/golden/tokenizer_families.

And what the models give: MiniLM's sentence embeddings, a tiny T5's logits (but for the factor before a tied head, which llama.cpp leaves out).
"""
import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile

import gguf
import llama_cpp as L
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration, logging

FAMILIES, MINILM, GEMMA = "tests/golden/tokenizer_families/", "cache/minilm", "cache/gemma-3-270m.Q4_K_M.gguf"
LINES = [part for name in ("tests/golden/tokenizer/lines.txt", FAMILIES + "more.txt") for line in open(name, encoding="utf-8", newline="\n").read().split("\n") if line
         for part in json.loads(line).split("\n")]
TEXTS = ["How long is the bridge?", "A cat sat on the mat.", "Unbelievable naming conventions, 123 of them!"]
logging.set_verbosity_error()
torch.set_num_threads(1)
good = True


def say(fine, text):
    global good
    good &= fine
    print(f"{text}: {'ok' if fine else 'WRONG'}", flush=True)


def cyclora(a, *args):
    r = subprocess.run([a.cyclora, *args], capture_output=True)
    if r.returncode:
        sys.exit(f"cyclora {' '.join(args)}: {r.stderr.decode()}")
    return r.stdout.decode()


def ids_cyclora(a, model):
    out = cyclora(a, "tokenize", "--model", model, "--file", a.lines)
    return [[int(x) for x in line.split()] for line in out.split("\n")[:-1]]


def ids_transformers(folder):
    t = AutoTokenizer.from_pretrained(folder)
    return [t(x, add_special_tokens=False).input_ids for x in LINES]


def differing(have, want, which):
    at = [i for i in which if have[i] != want[i]]
    return len(at), f", the first: {LINES[at[0]][:40]!r}" if at else ""


def compare(a, name, files, want, plain):
    everything = range(len(LINES))
    for path in files:
        n, first = differing(ids_cyclora(a, path), want, everything)
        say(n == 0, f"{name:12s} {os.path.basename(path):20s} cyclora: {n} of {len(LINES)} lines differ{first}")
        if os.path.isdir(path):
            n, first = differing(ids_transformers(path), want, everything)
            say(n == 0, f"{name:12s} {os.path.basename(path):20s} transformers: {n} of {len(LINES)} lines differ{first}")
        else:
            m = L.Llama(path, vocab_only=True, verbose=False)
            n, first = differing([m.tokenize(x.encode(), add_bos=False, special=True) for x in LINES], want, plain)
            say(n == 0, f"{name:12s} {os.path.basename(path):20s} llama.cpp: {n} of {len(plain)} lines differ{first}")


def llama_folder(out, vocab):
    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig(vocab_size=vocab, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512)).save_pretrained(out)


def sentencepiece_file(a, words, out):
    """A tiny llama's tensors with another file's tokenizer."""
    read = gguf.GGUFReader(words)
    llama_folder(out + "-bare", len(read.fields["tokenizer.ggml.tokens"].data))
    cyclora(a, "convert", out + "-bare", out + "-bare.gguf", "--type", "f32")
    bare = gguf.GGUFReader(out + "-bare.gguf")
    w = gguf.GGUFWriter(out, "llama")
    for source, part in ((bare, "llama."), (read, "tokenizer.")):
        for key, f in source.fields.items():
            if key.startswith(part):
                w.add_key_value(key, f.contents(), f.types[0], f.types[-1] if f.types[0] == gguf.GGUFValueType.ARRAY else None)
    for t in bare.tensors:
        w.add_tensor(t.name, t.data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def t5_folder(out, gated):
    row = next(r for r in json.load(open(FAMILIES + "families.json")) if r["name"] == "t5 with extras")
    spec = json.load(open(FAMILIES + "base_unigram.json")) | row["patch"]
    torch.manual_seed(7)
    T5ForConditionalGeneration(T5Config(vocab_size=712, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu" if gated else "relu",
                                        decoder_start_token_id=0)).save_pretrained(out)
    with open(out + "/tokenizer.json", "w") as f:
        f.write(json.dumps(spec).replace("charsmap.txt", open(FAMILIES + "charsmap.txt").read().strip()))
    with open(out + "/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}, f)


def t5_logits(folder, file):
    src, ids = [3, 80, 16, 461, 11, 2, 55, 1], [0, 80, 16, 461]
    with torch.no_grad():
        want = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()(input_ids=torch.tensor([src]), decoder_input_ids=torch.tensor([ids])).logits[0].numpy()
    m, c = L.llama_model_default_params(), L.llama_context_default_params()
    m.use_extra_bufts = False
    c.n_ctx, c.n_threads, c.flash_attn_type = 128, 1, 0
    model = L.llama_model_load_from_file(file.encode(), m)
    ctx = L.llama_init_from_model(model, c)

    def batch(tokens):
        b = L.llama_batch_init(len(tokens), 0, 1)
        b.n_tokens = len(tokens)
        for i, t in enumerate(tokens):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = t, i, 1, 1
            b.seq_id[i][0] = 0
        return b

    if L.llama_model_decoder_start_token(model) != 0 or L.llama_encode(ctx, batch(src)) or L.llama_decode(ctx, batch(ids)):
        return np.inf
    have = np.array([np.ctypeslib.as_array(ctypes.cast(L.llama_get_logits_ith(ctx, i), ctypes.POINTER(ctypes.c_float)), (want.shape[1],)) for i in range(len(ids))])
    have = have / 8  # the root of d_model
    return float(np.sqrt(((have - want) ** 2).mean()) / want.std())


def embeddings(folder, file):
    t, m = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    theirs, worst = L.Llama(file, embedding=True, verbose=False), 1.0
    for text in TEXTS:
        with torch.no_grad():
            x = m(**t(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        y = np.array(theirs.embed(text))
        worst = min(worst, float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)))
    return worst


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("case", nargs="*")
    a = ap.parse_args()
    ascii_lines = [i for i, x in enumerate(LINES) if x.isascii() and x.isprintable() and max(map(len, x.split()), default=0) <= 100]
    no_sign = [i for i, x in enumerate(LINES) if "\u2581" not in x and "\0" not in x]
    wanted = lambda name: not a.case or name in a.case
    with tempfile.TemporaryDirectory() as tmp:
        a.lines = tmp + "/lines"
        with open(a.lines, "w", encoding="utf-8", newline="\n") as f:
            f.writelines(x + "\n" for x in LINES)
        for name in ("spm_llama", "spm_gemma", "gemma"):
            if not wanted(name):
                continue
            source = GEMMA if name.startswith("gemma") else f"{tmp}/{name}.gguf"
            if source != GEMMA:
                sentencepiece_file(a, f"{FAMILIES}{name}.gguf", source)
            elif not os.path.exists(GEMMA):
                continue
            folder, back = f"{tmp}/{name[:9].strip()}-folder", f"{tmp}/{name[:9].strip()}-back.gguf"
            cyclora(a, "convert", source, folder)
            cyclora(a, "convert", folder, back)
            compare(a, name, (folder, back), ids_cyclora(a, source), no_sign)
        for name in ("t5", "t5 gated", "minilm"):
            if not wanted(name) or (name == "minilm" and not os.path.exists(MINILM)):
                continue
            source = MINILM if name == "minilm" else f"{tmp}/{name.replace(' ', '-')}"
            if source != MINILM:
                t5_folder(source, name == "t5 gated")
            file, back = f"{tmp}/{name[:2]}.gguf", f"{tmp}/{name[:2]}-back"
            cyclora(a, "convert", source, file, "--force")
            cyclora(a, "convert", file, back, "--force")
            compare(a, name, (file, back), ids_cyclora(a, source), ascii_lines)
            if name == "minilm":
                worst = [embeddings(x, file) for x in (MINILM, back)]
                say(min(worst) > 0.99999, f"{name:12s} embeddings, llama.cpp beside transformers on the source and on what came back: cosine {worst[0]:.7f}, {worst[1]:.7f} at least")
            else:
                far = [t5_logits(x, file) for x in (source, back)]
                say(max(far) < 1e-3, f"{name:12s} logits, llama.cpp beside transformers on the source and on what came back: {far[0]:.1e}, {far[1]:.1e} of their spread (limit 1e-03)")
    sys.exit(not good)


if __name__ == "__main__":
    main()
