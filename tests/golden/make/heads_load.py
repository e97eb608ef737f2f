"""Does PEFT read the classifiers that cyclora trained? Not a fixture: a check to run by hand, its last result in tests/golden/README.md.

  python tests/golden/make/heads_load.py [--minilm cache/minilm]

cyclora trains a classifier of three classes for a few steps on tests/golden/cipher (a Llama) and on MiniLM (where it is there), with LoRA
beside it, with norm tuning, and alone; transformers' ...ForSequenceClassification loads the folder through PEFT, the classes named by
labels.json, and its probabilities of other texts must be those of `cyclora classify` to 1e-5.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

TOLERANCE = 1e-5
CIPHER = "tests/golden/cipher"
WAYS = {"lora": "method: lora\nlora: {r: 4, lora_alpha: 8, target_modules: all-linear}\n", "dora": "lora: {r: 4, lora_alpha: 8, target_modules: all-linear, use_dora: true}\n", "none": "method: none\n", "ln_tuning": "method: ln_tuning\n", "ia3": "method: ia3\n",
        "prompt": "method: prompt_tuning\nprompt_tuning: {num_virtual_tokens: 3}\n", "prefix": "method: prefix_tuning\nprefix_tuning: {num_virtual_tokens: 3}\n"}


def cyclora(a, *args):
    return subprocess.run([a.cyclora, *args], check=True, capture_output=True, text=True).stdout


def check(a, name, base, texts, way, tmp):
    data, test, config, out = f"{tmp}/{name}.jsonl", f"{tmp}/{name}-test.jsonl", f"{tmp}/{name}.yaml", f"{tmp}/{name}"
    with open(data, "w") as f:
        f.writelines(json.dumps({"text": t, "label": ["few", "some", "many"][len(t) % 3]}) + "\n" for t in texts[8:])
    with open(test, "w") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t in texts[:8])
    with open(config, "w") as f:
        f.write(f"objective: classification\nmodel: {base}\ndata: {data}\noutput_dir: {out}\nmax_steps: 8\nmax_length: 64\nlearning_rate: 1e-2\n{way}")
    cyclora(a, "train", config, "--quiet")
    ours = [json.loads(line) for line in cyclora(a, "classify", "--model", base, "--adapter", out + "/adapter", "--data", test).splitlines()]
    names = json.load(open(out + "/adapter/labels.json"))
    names["id2label"] = {int(k): v for k, v in names["id2label"].items()}  # JSON has no other keys than texts
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32, attn_implementation="eager", **names)
    model = PeftModel.from_pretrained(model.eval(), out + "/adapter").eval()
    tok, worst = Tokenizer.from_file(base + "/tokenizer.json"), 0
    tok.no_padding()
    for o in ours:
        with torch.no_grad():
            p = model(torch.tensor([tok.encode(o["text"]).ids])).logits[0].softmax(-1)
        for i, x in enumerate(p.tolist()):
            worst = max(worst, abs(x - o["probabilities"][model.config.id2label[i]]))
    good = worst <= TOLERANCE
    print(f"{name}: {len(ours)} texts, greatest difference of a probability {worst:.1e}: {'ok' if good else 'WRONG'}", flush=True)
    return good


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--minilm", default="cache/minilm")
    a = ap.parse_args()
    texts = [json.loads(line)["a"] for line in open(f"{CIPHER}/warm.jsonl")]
    english = [f"{verb} the {what} {where}" for verb in ("open", "close", "paint", "sell") for what in ("door", "old window", "boat") for where in ("now", "in the morning", "at once, please")]
    with tempfile.TemporaryDirectory() as tmp:
        good = all([check(a, f"cipher-{w}", CIPHER, texts, way, tmp) for w, way in WAYS.items()])
        if os.path.exists(a.minilm):
            good &= all([check(a, f"minilm-{w}", a.minilm, english, WAYS[w], tmp) for w in ("lora", "none")])
    sys.exit(not good)


if __name__ == "__main__":
    main()
