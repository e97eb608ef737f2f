"""Do others read what `cyclora prune` writes? Part of `make check-llamacpp`; its last result is in tests/golden/README.md.

  python tests/golden/make/prune_loads.py [--cyclora build/release/cyclora]

For families that can be pruned, a small random model with cipher's tokenizer, blocks, channels, heads and (not of Gemma) columns left out by what
cipher's texts make of them:
  transformers   loads the folder without a missing or unexpected tensor; the mean loss of a text is that of `cyclora eval`
  llama.cpp      the GGUF file of the same cut, where the format can say it: its logits against transformers' on the folder
                 (llama-cpp-python; left out where it is not installed)
"""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import peft_loads
from peft_loads import COMMON, KINDS, folder_of

LLAMACPP = importlib.util.find_spec("llama_cpp")
if LLAMACPP:
    from crossing_loads import Llama

torch.set_num_threads(1)
TEXT = "ajslfcrmq\nTOFGBQCHPajslfcrmq\nsle\n"
NONE = {"sliding_window": None}
DEPTH, WIDTH = ["--layers", "2"], ["--ffn", "16", "--hidden", "24"]
CASES = {
    "llama": ("llama", {k: v for k, v in COMMON.items() if k != "sliding_window"} | {"head_dim": 16}, DEPTH + WIDTH, True),
    "llama heads": ("llama", COMMON | NONE | {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True}, WIDTH + ["--heads", "2"], True),
    "qwen2": ("qwen2", COMMON | NONE, DEPTH + ["--ffn", "16"], True),  # heads that are not as wide as the model together: refused
    "qwen3": ("qwen3", KINDS["qwen3"] | NONE, DEPTH + WIDTH, True),
    "smollm3": ("smollm3", COMMON | NONE | {"num_hidden_layers": 5}, ["--drop-layers", "1"] + WIDTH, False),
    "mistral": ("mistral", COMMON | NONE | {"tie_word_embeddings": True}, DEPTH + WIDTH, True),
    "gemma3": ("gemma3_text", KINDS["gemma3_text"] | {"num_hidden_layers": 7}, ["--drop-layers", "1", "--ffn", "16"], False),
}


def cyclora(a, *args):
    r = subprocess.run([a.cyclora, *args], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"cyclora {' '.join(args)}: {r.stderr}")
    return r.stdout


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    a = ap.parse_args()
    ids = Tokenizer.from_file(f"{peft_loads.CIPHER}/tokenizer.json").encode(TEXT).ids
    good = True
    with tempfile.TemporaryDirectory() as tmp:
        open(f"{tmp}/text.txt", "w").write(TEXT)
        for name, (kind, config, cut, gguf) in CASES.items():
            at = f"{tmp}/case{len(os.listdir(tmp))}"
            folder_of(kind, config, at)
            for out in [at + "-cut"] + ([at + "-cut.gguf"] if gguf and LLAMACPP else []):
                cyclora(a, "prune", at, *cut, "--text", f"{peft_loads.CIPHER}/a.jsonl", "--tokens", "2000", "--type", "f32", "-o", out)
            m, info = AutoModelForCausalLM.from_pretrained(at + "-cut", dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
            odd = {k: v for k, v in info.items() if v}
            with torch.no_grad():
                z = m.eval()(torch.tensor([ids]), use_cache=False).logits[0]
            theirs = torch.nn.functional.cross_entropy(z[:-1], torch.tensor(ids[1:])).item()
            ours = json.loads(cyclora(a, "eval", "--model", at + "-cut", "--text", f"{tmp}/text.txt", "--json"))["mean"]
            fine, said = abs(theirs - ours) <= 1e-5 and not odd, "not asked"
            if gguf and LLAMACPP:
                g = Llama(at + "-cut.gguf", n_ctx=64, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True, type_k=0, type_v=0, flash_attn=False, swa_full=True)
                g.eval(ids)
                want = z.numpy().astype(np.float64)
                far = float(np.sqrt(((g.scores[:len(ids)] - want) ** 2).mean()) / want.std())
                fine, said = fine and far <= 1e-4, f"{far:.1e} (limit 1e-04)"
            good &= fine
            print(f"{name:12s} {' '.join(cut):40s} loss {ours:.5f}, transformers {theirs:.5f}{f', {odd}' if odd else ''}; llama.cpp {said}: {'ok' if fine else 'WRONG'}", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
