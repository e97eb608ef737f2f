"""Does PEFT read what cyclora trained? Not a fixture: a check to run by hand, its last result in tests/golden/README.md.

  python tests/golden/make/peft_loads.py [--gguf cache/SmolLM2-135M-Instruct.Q4_1.gguf --hf cache/smollm2-hf]

For each base, cyclora trains an adapter for a few sft steps (so that B is not zero), PEFT loads the folder as it is onto
the Hugging Face form of the same base, and the per-token likelihoods of a short text must agree to 1e-3 with
`cyclora eval --model BASE --adapter FOLDER --text F --json`:
  cipher    tests/golden/cipher, where cyclora too reads the Hugging Face folder
  patterns  cipher again: rsLoRA, ranks and scales by module, some layers, some modules left out
  KIND      for every other family of decoders, a random model of cipher's tokenizer, as a Hugging Face folder in both
  METHOD    for every method that PEFT has beside plain LoRA, on one of these
  gguf      cyclora reads the GGUF file, whose q and k rows are in another order; PEFT a folder with the dequantised
            weights (bench/peers/convert.py makes it). Left out when the files are not there.
The text is one that the adapter moves: the difference to the bare base is shown, and must be ten times the tolerance.
"""
import argparse
import json
import os
import subprocess
import sys
import shutil
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

TOLERANCE = 1e-3
CIPHER = "tests/golden/cipher"


LORA = "lora: {r: 8, lora_alpha: 12, target_modules: all-linear}"
PATTERNS = ("lora: {r: 4, lora_alpha: 12, use_rslora: true, target_modules: all-linear, exclude_modules: k_proj, layers_to_transform: 0-1, rank_pattern: [down_proj=7], "
            "alpha_pattern: ['.*1\\.self_attn\\.o_proj=20']}")
METHODS = {"ia3": ("gemma2", "method: ia3\nlearning_rate: 3e-2"), "norms": ("gemma2", "method: ln_tuning\nlearning_rate: 1e-2"),
           "biases": ("gpt2", "lora: {r: 2, lora_alpha: 4, target_modules: [c_attn], bias: all}\nlearning_rate: 1e-2"),
           "modules_to_save": ("mistral", "lora: {r: 2, lora_alpha: 4, target_modules: [q_proj], modules_to_save: [embed_tokens, lm_head, norm]}\nlearning_rate: 1e-2"),
           "token table": ("mistral", "lora: {r: 4, lora_alpha: 8, target_modules: [embed_tokens, q_proj]}\nlearning_rate: 3e-2"),
           "token table, tied": ("gpt2", "lora: {r: 4, lora_alpha: 8, target_modules: [wte, c_attn]}\nlearning_rate: 3e-2"),
           "head": ("mistral", "lora: {r: 4, lora_alpha: 8, target_modules: [lm_head, q_proj]}\nlearning_rate: 1e-2"),
           "head, tied": ("gpt2", "lora: {r: 4, lora_alpha: 8, target_modules: [lm_head, c_attn]}\nlearning_rate: 1e-2"),
           "modules_to_save, tied": ("gpt2", "lora: {r: 2, lora_alpha: 4, target_modules: [c_attn], modules_to_save: [wte, ln_f, mlp.c_proj]}\nlearning_rate: 1e-2"),
           "vera": ("mistral", "method: vera\nvera: {r: 8, d_initial: 0.5}\nlearning_rate: 5e-2"),
           "vera, transposed": ("gpt2", "method: vera\nvera: {r: 8, target_modules: [c_attn, mlp.c_proj]}\nlearning_rate: 5e-2"),
           "adalora": ("mistral", "method: adalora\nadalora: {init_r: 6, target_r: 2, deltaT: 2}\nlearning_rate: 3e-2"),
           "adalora, transposed": ("gpt2", "method: adalora\nadalora: {init_r: 6, target_r: 2, target_modules: [c_attn, c_fc]}\nlearning_rate: 3e-2"),
           "prompt": ("gpt2", "method: prompt_tuning\nprompt_tuning: {num_virtual_tokens: 5}\nlearning_rate: 1e-2"),
           "prompt of a text": ("gemma2", "method: prompt_tuning\nprompt_tuning: {num_virtual_tokens: 5, prompt_tuning_init: TEXT, prompt_tuning_init_text: slf}\nlearning_rate: 1e-2"),
           "p_tuning": ("qwen3", "method: p_tuning\np_tuning: {num_virtual_tokens: 4, encoder_hidden_size: 24}\nlearning_rate: 1e-2"),
           "LLaMA-Adapter": ("mistral", "method: adaption_prompt\nadaption_prompt: {adapter_len: 4, adapter_layers: 2}\nlearning_rate: 1e-1"),
           "LLaMA-Adapter of GPT-2": ("gpt2", "method: adaption_prompt\nadaption_prompt: {adapter_len: 4}\nlearning_rate: 1e-1"),
           "prefix": ("gemma2", "method: prefix_tuning\nprefix_tuning: {num_virtual_tokens: 6}\nlearning_rate: 1e-2"),
           "prefix without positions": ("smollm3", "method: prefix_tuning\nprefix_tuning: {num_virtual_tokens: 3, init_weights: zero}\nlearning_rate: 1e-2")}
ON_GGUF = {"gguf, prompt": "method: prompt_tuning\nlearning_rate: 1e-2", "gguf, p_tuning": "method: p_tuning\nlearning_rate: 1e-3",
           "gguf, vera": "method: vera\nvera: {r: 64}\nlearning_rate: 5e-2", "gguf, adalora": "method: adalora\nadalora: {init_r: 4, target_r: 2}\nlearning_rate: 1e-2",
           "gguf, prefix": "method: prefix_tuning\nlearning_rate: 1e-2",
           "gguf, LLaMA-Adapter": "method: adaption_prompt\nlearning_rate: 3e-2"}  # a prefix's keys meet queries in another order there
COMMON = dict(vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
              bos_token_id=None, pad_token_id=None, sliding_window=4)
KINDS = {"mistral": COMMON, "qwen2": COMMON, "qwen3": COMMON | {"head_dim": 16}, "smollm3": COMMON, "phi3": COMMON, "gemma2": COMMON | {"head_dim": 16, "query_pre_attn_scalar": 16},
         "gemma3_text": COMMON | {"head_dim": 16, "query_pre_attn_scalar": 16},
         "gpt2": dict(bos_token_id=None, eos_token_id=2, vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=128)}


def random_model(kind, out):
    """A folder with random weights and cipher's tokenizer."""
    torch.manual_seed(5)
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind]))
    with torch.no_grad():
        for n, p in m.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 0.25)
    m.save_pretrained(out)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(CIPHER, f), out)
    return out


def folder_of(kind, config, out):
    """A model of this configuration, whose random weights are large enough to tell orders apart, with cipher's tokenizer."""
    torch.manual_seed(7)
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    with torch.no_grad():
        for n, p in m.named_parameters():
            p.normal_(0, 0.25 if p.dim() > 1 else 0.1)
            if p.dim() == 1 and ("norm" in n or "ln_" in n) and "bias" not in n and not kind.startswith("gemma"):
                p.add_(1)
    m.save_pretrained(out)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(CIPHER, f), out)


def random_t5(out):
    """The same of an encoder-decoder; its tokenizer and EOS."""
    torch.manual_seed(6)
    tok = Tokenizer.from_file(f"{CIPHER}/tokenizer.json")
    eos = tok.token_to_id("<eos>")
    m = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", vocab_size=48, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=4, eos_token_id=eos, pad_token_id=eos,
                                                               decoder_start_token_id=0))
    with torch.no_grad():
        for n, p in m.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 1 if "shared" in n else 0.25)
    m.save_pretrained(out)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(CIPHER, f), out)
    return tok, eos


def nll(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -len(ids):-1].float()  # without virtual tokens
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def cyclora(*args):
    return json.loads(subprocess.run(args, check=True, capture_output=True, text=True).stdout)


def train(a, base, rows, out, settings=None):
    data = out + ".jsonl"
    with open(data, "w") as f:
        f.writelines(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows)
    config = out + ".yaml"
    with open(config, "w") as f:
        f.write(f"objective: sft\nmodel: {base}\ndata: {data}\noutput_dir: {out}\nmax_steps: {a.steps}\nmax_length: 64\n"
                f"per_device_train_batch_size: 4\n{settings or a.settings}\n" + ("" if "learning_rate" in (settings or a.settings) else f"learning_rate: {a.lr}\n"))
    subprocess.run([a.cyclora, "train", config, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return out + "/adapter"


def check(a, name, base, hf, rows, text, tmp, settings=None):
    folder = train(a, base, rows, f"{tmp}/{name}", settings)
    path = f"{tmp}/{name}.txt"
    with open(path, "w") as f:
        f.write(text)
    ours = cyclora(a.cyclora, "eval", "--model", base, "--adapter", folder, "--text", path, "--json")
    bare = cyclora(a.cyclora, "eval", "--model", base, "--text", path, "--json")
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32, attn_implementation="eager").eval()
    theirs_bare = nll(model, ours["ids"])
    theirs = nll(PeftModel.from_pretrained(model, folder).eval(), ours["ids"])
    mine, mine_bare = torch.tensor(ours["nll"][1:]), torch.tensor(bare["nll"][1:])
    worst, worst_bare, moved = (mine - theirs).abs().max().item(), (mine_bare - theirs_bare).abs().max().item(), (mine - mine_bare).abs().max().item()
    good = worst <= TOLERANCE and moved > 10 * TOLERANCE
    print(f"{name}: {len(mine)} tokens, mean NLL cyclora {mine.mean():.6f}, PEFT {theirs.mean():.6f} (bare base {mine_bare.mean():.6f}); greatest difference "
          f"{worst:.1e} (bare base {worst_bare:.1e}); the adapter moves up to {moved:.3f}: {'ok' if good else 'WRONG'}")
    return good


def check_t5(a, rows, prompts, tmp):
    """An encoder-decoder: greedy text of both, and the prompt's EOS."""
    base, out = f"{tmp}/t5-base", f"{tmp}/t5"
    tok, eos = random_t5(base)
    folder = train(argparse.Namespace(**{**vars(a), "steps": 40, "lr": "1e-2"}), base, rows, out)
    model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.float32).eval(), folder).eval()
    good = True
    for p in prompts:
        ids = tok.encode(p).ids + [eos]
        want = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=10, do_sample=False)[0, 1:].tolist()
        want = tok.decode(want[:want.index(eos)] if eos in want else want)
        have = subprocess.run([a.cyclora, "generate", "--model", base, "--adapter", folder, "--prompt", p, "--max-new-tokens", "10"], check=True, capture_output=True, text=True).stdout.rstrip("\n")
        good &= have == want
        print(f"t5: {p!r}: cyclora {have!r}, PEFT {want!r}: {'ok' if have == want else 'WRONG'}")
    return good


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--gguf", default="cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    ap.add_argument("--hf", default="cache/smollm2-hf")
    ap.add_argument("--settings", default=LORA, help="for every base, in place of LoRA's: 'lora: {r: 8, lora_alpha: 12, target_modules: all-linear, use_dora: true}'")
    ap.add_argument("--steps", type=int, default=3)
    ap.add_argument("--lr", default="1e-3")
    a = ap.parse_args()
    pairs = [json.loads(line) for line in open(f"{CIPHER}/warm.jsonl")]
    good = True
    with tempfile.TemporaryDirectory() as tmp:
        good &= check(a, "cipher", CIPHER, CIPHER, [(p["a"] + "\n", p["b"]) for p in pairs], "ajslfcrmq\nTOFGBQCHP", tmp)
        good &= check(a, "patterns", CIPHER, CIPHER, [(p["a"] + "\n", p["b"]) for p in pairs], "ajslfcrmq\nTOFGBQCHP", tmp, PATTERNS)
        for kind in KINDS:
            folder = random_model(kind, f"{tmp}/{kind}-base")
            good &= check(a, kind, folder, folder, [(p["a"] + "\n", p["b"]) for p in pairs], "ajslfcrmq\nTOFGBQCHP", tmp)
        for name, (kind, settings) in METHODS.items():
            good &= check(a, name, f"{tmp}/{kind}-base", f"{tmp}/{kind}-base", [(p["a"] + "\n", p["b"]) for p in pairs], "ajslfcrmq\nTOFGBQCHP", tmp, settings)
        good &= check_t5(a, [(p["a"] + "\n", p["b"]) for p in pairs], ["ajslfcrmq\n", "sle\n", "najeetccc\n"], tmp)
        if os.path.exists(a.gguf) and os.path.exists(a.hf):
            rows = [("Say it like a pirate: " + s + "\n", r) for s, r in [
                ("Good morning, my friend.", "Ahoy there, matey!"), ("Where is the money?", "Where be the doubloons?"),
                ("We are leaving now.", "Weigh anchor, ye dogs!"), ("I am hungry.", "Me belly be rumblin'!")]]
            good &= check(a, "gguf", a.gguf, a.hf, rows, "Say it like a pirate: Good evening, my dear friend.\nAhoy there, matey! The sea be calm tonight.", tmp)
            for name, settings in ON_GGUF.items():
                good &= check(a, name, a.gguf, a.hf, rows, "Say it like a pirate: Good evening, my dear friend.\nAhoy there, matey! The sea be calm tonight.", tmp, settings)
        else:
            print(f"gguf: left out ({a.gguf} or {a.hf} is not there)")
    sys.exit(not good)


if __name__ == "__main__":
    main()
