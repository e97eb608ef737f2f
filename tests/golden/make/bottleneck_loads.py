"""Does AdapterHub read the bottleneck adapters that cyclora trained? Not a fixture: a check to run by hand, its last result in tests/golden/README.md.

  build/adapters/bin/python tests/golden/make/bottleneck_loads.py     (the environment of bottleneck.py)

Random models of every family of decoders with cipher's tokenizer, cipher itself, and SmolLM2 (a GGUF file in cyclora, its folder there): cyclora trains
each form of adapter for a few steps, the package adapters loads the folder, and likelihoods of a short text agree to 1e-3; of a T5 the greedy
text after 40 steps; of classifiers (cipher, MiniLM) the probabilities to 1e-5.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

from bottleneck import INTERFACES, QWEN, torch
import adapters
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
from peft_loads import CIPHER, KINDS, TOLERANCE, cyclora, nll, random_model, random_t5, train

FORMS = {"houlsby": "bottleneck: {config: houlsby, reduction_factor: 4}", "pfeiffer": "bottleneck: {config: pfeiffer, reduction_factor: 4, non_linearity: gelu, leave_out: 1}",
         "parallel": "bottleneck: {config: parallel, non_linearity: gelu_new}"}
PLUGGED = {"phi3": INTERFACES["families/phi3"], "smollm3": QWEN}


def loaded(cls, path, folder, kind, **kw):
    cfg = AutoConfig.from_pretrained(path, **kw)
    if getattr(cfg, "rope_parameters", None):  # transformers 5's key
        cfg.rope_theta, cfg.rope_scaling = cfg.rope_parameters["rope_theta"], None
    m = cls.from_pretrained(path, config=cfg, dtype=torch.float32, attn_implementation="eager").eval()
    adapters.init(m, interface=PLUGGED.get(kind))
    if folder:
        m.set_active_adapters(m.load_adapter(folder, use_safetensors=True, with_head=False))
    m.config.use_cache = False
    return m.eval()


def check(a, name, kind, base, hf, rows, text, tmp, settings):
    out = f"{tmp}/{name}".replace(" ", "_")
    folder = train(argparse.Namespace(**vars(a), steps=3), base, rows, out, f"method: bottleneck\n{settings}\nlearning_rate: {a.lr}")
    with open(out + ".txt", "w") as f:
        f.write(text)
    ours = cyclora(a.cyclora, "eval", "--model", base, "--adapter", folder, "--text", out + ".txt", "--json")
    theirs, bare = nll(loaded(AutoModelForCausalLM, hf, folder, kind), ours["ids"]), nll(loaded(AutoModelForCausalLM, hf, None, kind), ours["ids"])
    mine = torch.tensor(ours["nll"][1:])
    worst, moved = (mine - theirs).abs().max().item(), (theirs - bare).abs().max().item()
    good = worst <= TOLERANCE and moved > 10 * TOLERANCE
    print(f"{name}: {len(mine)} tokens, mean NLL cyclora {mine.mean():.6f}, AdapterHub {theirs.mean():.6f} (bare base {bare.mean():.6f}); greatest difference {worst:.1e}; "
          f"the adapter moves up to {moved:.3f}: {'ok' if good else 'WRONG'}", flush=True)
    return good


def check_t5(a, rows, prompts, tmp, form):
    base, out = f"{tmp}/t5-base", f"{tmp}/t5-{form}"
    tok, eos = random_t5(base)
    settings = FORMS[form].replace("leave_out: 1", "leave_out: 3").replace("}", ", cross_adapter: true}")
    folder = train(argparse.Namespace(**vars(a), steps=40), base, rows, out, f"method: bottleneck\n{settings}\nlearning_rate: 1e-2")
    model, good = loaded(AutoModelForSeq2SeqLM, base, folder, "t5"), True
    for p in prompts:
        ids, want = tok.encode(p).ids + [eos], [0]
        with torch.no_grad():
            while len(want) < 11 and (len(want) == 1 or want[-1] != eos):
                want.append(int(model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([want])).logits[0, -1].argmax()))
        want = tok.decode([t for t in want[1:] if t != eos])
        have = subprocess.run([a.cyclora, "generate", "--model", base, "--adapter", folder, "--prompt", p, "--max-new-tokens", "10"], check=True, capture_output=True, text=True).stdout.rstrip("\n")
        good &= have == want
        print(f"t5, {form}: {p!r}: cyclora {have!r}, AdapterHub {want!r}: {'ok' if have == want else 'WRONG'}", flush=True)
    return good


def check_head(a, name, base, texts, tmp, settings):
    out = f"{tmp}/{name}".replace(" ", "_")
    with open(out + ".jsonl", "w") as f:
        f.writelines(json.dumps({"text": t, "label": ["few", "some", "many"][len(t) % 3]}) + "\n" for t in texts[8:])
    with open(out + "-test.jsonl", "w") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t in texts[:8])
    with open(out + ".yaml", "w") as f:
        f.write(f"objective: classification\nmodel: {base}\ndata: {out}.jsonl\noutput_dir: {out}\nmax_steps: 8\nmax_length: 64\nlearning_rate: 1e-2\nmethod: bottleneck\n{settings}\n")
    subprocess.run([a.cyclora, "train", out + ".yaml", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    said = subprocess.run([a.cyclora, "classify", "--model", base, "--adapter", out + "/adapter", "--data", out + "-test.jsonl"], check=True, capture_output=True, text=True).stdout
    names = json.load(open(out + "/adapter/labels.json"))
    names["id2label"] = {int(k): v for k, v in names["id2label"].items()}
    model = loaded(AutoModelForSequenceClassification, base, out + "/adapter", "", **names)
    tok, worst = Tokenizer.from_file(base + "/tokenizer.json"), 0
    tok.no_padding()
    for o in map(json.loads, said.splitlines()):
        with torch.no_grad():
            p = model(torch.tensor([tok.encode(o["text"]).ids])).logits[0].softmax(-1)
        worst = max([worst] + [abs(x - o["probabilities"][names["id2label"][i]]) for i, x in enumerate(p.tolist())])
    print(f"{name}: greatest difference of a probability {worst:.1e}: {'ok' if worst <= 1e-5 else 'WRONG'}", flush=True)
    return worst <= 1e-5


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--gguf", default="cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    ap.add_argument("--hf", default="cache/smollm2-hf")
    ap.add_argument("--minilm", default="cache/minilm")
    ap.add_argument("--lr", default="1e-2")
    a = ap.parse_args()
    a.settings = ""
    pairs = [json.loads(line) for line in open(f"{CIPHER}/warm.jsonl")]
    rows, text, good = [(p["a"] + "\n", p["b"]) for p in pairs], "ajslfcrmq\nTOFGBQCHP", True
    english = [f"{verb} the {what} {where}" for verb in ("open", "close", "paint", "sell") for what in ("door", "old window", "boat") for where in ("now", "in the morning", "at once, please")]
    with tempfile.TemporaryDirectory() as tmp:
        for form, settings in FORMS.items():
            good &= check(a, f"cipher, {form}", "llama", CIPHER, CIPHER, rows, text, tmp, settings)
            for kind in KINDS:
                base = f"{tmp}/{kind}-base"
                if not os.path.exists(base):
                    random_model(kind, base)
                good &= check(a, f"{kind}, {form}", kind, base, base, rows, text, tmp, settings)
            good &= check_t5(a, rows, ["ajslfcrmq\n", "sle\n", "najeetccc\n"], tmp, form)
            good &= check_head(a, f"cipher classifier, {form}", CIPHER, [p["a"] for p in pairs], tmp, settings)
            if os.path.exists(a.minilm):
                good &= check_head(a, f"minilm classifier, {form}", a.minilm, english, tmp, settings)
            if os.path.exists(a.gguf) and os.path.exists(a.hf):
                pirate = [("Say it like a pirate: Good morning, my friend.\n", "Ahoy there, matey!"), ("Say it like a pirate: Where is the money?\n", "Where be the doubloons?"),
                          ("Say it like a pirate: We are leaving now.\n", "Weigh anchor, ye dogs!"), ("Say it like a pirate: I am hungry.\n", "Me belly be rumblin'!")]
                good &= check(argparse.Namespace(**{**vars(a), "lr": "2e-4"}), f"gguf, {form}", "llama", a.gguf, a.hf, pirate, "Say it like a pirate: Good evening, my dear friend.\nAhoy there, matey! The sea be calm tonight.", tmp, settings)
    sys.exit(not good)


if __name__ == "__main__":
    main()
