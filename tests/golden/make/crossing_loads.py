"""Do others read the models that cyclora writes in the other format? `make check-llamacpp`; its last result is in tests/golden/README.md.

  python tests/golden/make/crossing_loads.py [--cyclora build/release/cyclora]

For every family that crosses, and every RoPE scaling that both formats can say, a small random model with cipher's tokenizer:
  llama.cpp      `cyclora convert FOLDER X.gguf`; llama.cpp's logits of each position of a text against transformers' on the folder
  transformers   `cyclora convert X.gguf BACK`; logits of BACK by transformers against those of the folder; ids of the text by its tokenizer
Both as the root of the mean square of the difference over the spread of the logits. llama.cpp computes in f32 here (cache too) but takes
GELU from a table of f16, so its limit is wider where there is one.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
import torch
from llama_cpp import Llama
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import peft_loads
from peft_loads import COMMON, KINDS, folder_of

torch.set_num_threads(1)
defaults = llama_cpp.llama_model_default_params


def plain():
    p = defaults()
    p.use_extra_bufts = False  # llamacpp_loads.py
    return p


llama_cpp.llama_model_default_params = llama_cpp.llama_cpp.llama_model_default_params = plain
TEXT = "ajslfcrmq\nTOFGBQCHPajslfcrmq\nsle\n"
NONE = {"sliding_window": None}
LLAMA = {k: v for k, v in COMMON.items() if k != "sliding_window"} | {"head_dim": 16}
GEMMA3 = KINDS["gemma3_text"] | {"num_hidden_layers": 7}
LONG = {"rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0], "original_max_position_embeddings": 64, "partial_rotary_factor": 0.5}
CASES = {
    "llama": ("llama", LLAMA),
    "llama linear": ("llama", LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}}),
    "llama llama3": ("llama", LLAMA | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                           "original_max_position_embeddings": 32}}),
    "llama yarn": ("llama", LLAMA | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 512}}),
    "mistral": ("mistral", COMMON | NONE | {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", COMMON | NONE),
    "qwen3": ("qwen3", KINDS["qwen3"] | NONE),
    "smollm3": ("smollm3", COMMON | NONE | {"num_hidden_layers": 5}),
    "llama bias": ("llama", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "phi3": ("phi3", COMMON | NONE),
    "phi3 longrope": ("phi3", COMMON | NONE | {"rope_parameters": LONG}),
    "gemma2": ("gemma2", KINDS["gemma2"]),
    "gemma3": ("gemma3_text", GEMMA3),
    "gemma3 linear": ("gemma3_text", GEMMA3 | {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                                                                   "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}}}),
    "gpt2": ("gpt2", KINDS["gpt2"]),
}


def cyclora(a, *args):
    r = subprocess.run([a.cyclora, *args], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"cyclora {' '.join(args)}: {r.stderr}")


def logits(folder, ids):
    m = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return m(torch.tensor([ids]), use_cache=False).logits[0].numpy().astype(np.float64)


def far(have, want):
    return float(np.sqrt(((have - want) ** 2).mean()) / want.std())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("case", nargs="*")
    a = ap.parse_args()
    ids = Tokenizer.from_file(f"{peft_loads.CIPHER}/tokenizer.json").encode(TEXT).ids
    good = True
    with tempfile.TemporaryDirectory() as tmp:
        for name, (kind, config) in CASES.items():
            if a.case and name not in a.case:
                continue
            at = f"{tmp}/case{len(os.listdir(tmp))}"  # the name goes into the file, and one with phi3 in it makes llama.cpp look for Phi-3's tokens
            folder_of(kind, config, at)
            want = logits(at, ids)
            cyclora(a, "convert", at, at + ".gguf", "--type", "f32")
            m = Llama(at + ".gguf", n_ctx=64, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True, type_k=0, type_v=0, flash_attn=False, swa_full=True,
                      yarn_attn_factor=-1)
            cut = m.tokenize(TEXT.encode(), add_bos=False, special=True) != ids
            m.eval(ids)
            theirs = far(m.scores[:len(ids)].astype(np.float64), want)
            cyclora(a, "convert", at + ".gguf", at + "-back")
            back = far(logits(at + "-back", ids), want)
            cut |= AutoTokenizer.from_pretrained(at + "-back")(TEXT).input_ids != ids
            limit = 3e-3 if kind.startswith(("gemma", "gpt2")) else 1e-4
            fine = theirs <= limit and back <= 1e-5 and not cut
            good &= fine
            print(f"{name:14s} {len(ids)} positions: llama.cpp {theirs:.1e} (limit {limit:.0e}), transformers on what came back {back:.1e} (limit 1e-05)"
                  f"{', other ids' if cut else ''}: {'ok' if fine else 'WRONG'}", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
