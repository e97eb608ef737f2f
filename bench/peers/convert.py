#!/usr/bin/env python3
"""GGUF -> fp32 safetensors + tokenizer.json, once: the HF folder every script here takes as --model.

  python bench/peers/convert.py --gguf cache/SmolLM2-135M-Instruct.Q4_1.gguf --out cache/smollm2-hf
The weights are the dequantised ones, so all peers (and the C program on the GGUF) run the same numbers."""
import argparse, os, time
import common
import torch
from gguf import GGUFReader
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--gguf", required=True)
ap.add_argument("--out", required=True)
a = ap.parse_args()
d, f = os.path.split(os.path.abspath(a.gguf))
torch.set_num_threads(1)
t = time.time()
m = AutoModelForCausalLM.from_pretrained(d, gguf_file=f, dtype=torch.float32)
tok = AutoTokenizer.from_pretrained(d, gguf_file=f)
# transformers 5.23 refuses to save a model loaded from GGUF ("The model is quantized with gguf and is not
# serializable"), though its weights are plain fp32 by now: take them into a fresh model.
cfg = AutoConfig.from_pretrained(d, gguf_file=f)
if hasattr(cfg, "quantization_config"):
    del cfg.quantization_config
fresh = AutoModelForCausalLM.from_config(cfg, dtype=torch.float32)
missing = fresh.load_state_dict(m.state_dict())
assert not missing.missing_keys and not missing.unexpected_keys, missing
fresh.save_pretrained(a.out)
# transformers also drops tokenizer.ggml.pre: "smollm" means that every digit is a word of its own (SmolLM2's published
# tokenizer.json; llama.cpp does the same). Without it "   3" becomes ids that the model was never trained on.
pre = GGUFReader(a.gguf).fields["tokenizer.ggml.pre"].contents()
if pre == "smollm":
    tok.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
tok.save_pretrained(a.out)
for f in os.listdir(a.out):
    os.chmod(os.path.join(a.out, f), 0o644)
assert os.path.exists(os.path.join(a.out, "tokenizer.json"))
common.emit(item="convert", seconds=round(time.time() - t, 1), params=sum(p.numel() for p in fresh.parameters()),
            tied=fresh.lm_head.weight.data_ptr() == fresh.model.embed_tokens.weight.data_ptr(), vocab=len(tok), pre=pre,
            bos=tok.bos_token, eos=tok.eos_token, pad=tok.pad_token, out=a.out, peak_mb=common.peak_mb())
