"""Does transformers load what `cyclora quantize --to nf4` writes? Not a fixture: a check to run by hand (`make check-exports`), its last result in
tests/golden/README.md.

  python tests/golden/make/quantised_loads.py [--hf cache/smollm2-hf]         (torch, transformers, bitsandbytes, accelerate)

A folder in plain numbers (a small random Llama, and the one that is named) is quantised with and without double quantisation. transformers opens
it by its config.json; every matrix as bitsandbytes dequantises it there must equal, to the last bit, what this program makes of the same folder
(`cyclora convert --type f32`), and be one that bitsandbytes quantised to the same codes; the loss on a row of tokens that on those numbers, to 2^-8
of it: bitsandbytes' products round as they like."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import bitsandbytes.functional as F
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, utils

utils.logging.disable_progress_bar()
good = True


def say(name, what, have, limit):
    global good
    good &= have <= limit
    print(f"{name:24s} {what:40s} {have:.3g} (limit {limit:.3g}): {'ok' if have <= limit else 'WRONG'}", flush=True)


def cyclora(a, *args):
    r = subprocess.run([a.cyclora, *args, "--force", "--json"], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"cyclora {' '.join(args)}: {r.stderr}")


def check(a, name, plain, tmp, double):
    packed, numbers = os.path.join(tmp, "nf4"), os.path.join(tmp, "f32")
    cyclora(a, "quantize", plain, "--to", "nf4", "-o", packed, *([] if double else ["--no-double-quant"]))
    cyclora(a, "convert", packed, numbers, "--type", "f32")
    want, source = load_file(os.path.join(numbers, "model.safetensors")), load_file(os.path.join(plain, "model.safetensors"))
    m = AutoModelForCausalLM.from_pretrained(packed, device_map="cpu", dtype=torch.float32).eval()
    n = off = codes = 0
    for k, layer in m.named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        n += 1
        layer.weight.quant_state.dtype = torch.float32  # its own is the base's: numbers would be rounded to it
        w = F.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        off += int((w != want[k + ".weight"]).sum())
        q, _ = F.quantize_4bit(source[k + ".weight"], blocksize=64, quant_type="nf4")
        codes += int((q.reshape(-1) != layer.weight.data.reshape(-1)).sum())
    if not n:
        sys.exit(f"{name}: transformers loaded no matrix in 4 bits")
    say(name, f"{n} matrices: numbers that differ", off, 0)
    say(name, "bytes of codes that differ from its own", codes, 0)
    ids = torch.tensor([[i * 7 % m.config.vocab_size for i in range(1, 40)]])
    with torch.no_grad():
        have = m(ids, labels=ids).loss.item()
        p = AutoModelForCausalLM.from_pretrained(numbers, dtype=torch.float32).eval()
        loss = p(ids, labels=ids).loss.item()
    say(name, f"loss {have:.5f} against {loss:.5f} on its numbers", abs(have - loss), loss / 256)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cyclora", default="build/release/cyclora")
    p.add_argument("--hf", help="a folder of a real model, in f32, f16 or bf16")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        plain = os.path.join(tmp, "plain")
        cyclora(a, "convert", "random:3:bf16", plain, "--model-config", "tests/golden/packed/nf4_llama/config.json")
        for double in (True, False):
            check(a, "random Llama" + (", double" if double else ""), plain, tmp, double)
            if a.hf:
                check(a, os.path.basename(a.hf) + (", double" if double else ""), a.hf, tmp, double)
    sys.exit(not good)


if __name__ == "__main__":
    main()
