"""Does PEFT read the heads that cyclora trained? Not a fixture: a check to run by hand, its last result in tests/golden/README.md.

  python tests/golden/make/heads_load.py [--minilm cache/minilm]

cyclora trains a classifier of three classes, a regression of two numbers and a classifier of tokens for a few steps on tests/golden/cipher (a
Llama), on MiniLM (where it is there) and on a tiny T5, with LoRA beside it, with norm tuning, and alone and so on;
transformers' ...ForSequenceClassification or ...ForTokenClassification loads the folder through PEFT, the classes named by labels.json, and
its probabilities (numbers) of other texts must be those of `cyclora classify` to 1e-5. Where a method can be merged, so must be those of the folder that
`cyclora merge` makes of base, adapter and head, which transformers opens without PEFT and with no tensor missing.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, T5Config, T5ForConditionalGeneration

TOLERANCE = 1e-5
CIPHER = "tests/golden/cipher"
TASKS = ("classification", "regression", "token_classification")
WAYS = {"lora": "method: lora\nlora: {r: 4, lora_alpha: 8, target_modules: all-linear}\n", "dora": "lora: {r: 4, lora_alpha: 8, target_modules: all-linear, use_dora: true}\n", "saved": "lora: {r: 4, lora_alpha: 8, target_modules: q_proj, modules_to_save: [embed_tokens, norm]}\n", "none": "method: none\n", "ln_tuning": "method: ln_tuning\n", "ia3": "method: ia3\n", "vera": "method: vera\nvera: {r: 8, target_modules: all-linear}\n",
        "prompt": "method: prompt_tuning\nprompt_tuning: {num_virtual_tokens: 3}\n", "prefix": "method: prefix_tuning\nprefix_tuning: {num_virtual_tokens: 3}\n"}


MERGED = ("lora", "dora", "none", "ln_tuning", "vera")


def cyclora(a, *args):
    return subprocess.run([a.cyclora, *args], check=True, capture_output=True, text=True).stdout


def data_of(task, texts):
    if task == "token_classification":
        return [{"tokens": t.split(), "tags": [["O", "B-long", "I-long"][len(w) % 3] for w in t.split()]} for t in texts]
    if task == "regression":
        return [{"text": t, "label": [len(t) / 20, t.count("e") / 5]} for t in texts]
    return [{"text": t, "label": ["few", "some", "many"][len(t) % 3]} for t in texts]


def theirs(task, model, tok, o):
    """(ours, theirs) of one text: probabilities or numbers."""
    with torch.no_grad():
        if task != "token_classification":
            ids = tok.encode(o["text"]).ids + ([model.config.eos_token_id] if model.config.is_encoder_decoder else [])
            z = model(torch.tensor([ids])).logits[0]
            if task == "regression":
                return list(zip(o["label"], z.tolist()))
            return [(o["probabilities"][model.config.id2label[i]], x) for i, x in enumerate(z.softmax(-1).tolist())]
        ids = tok.encode(" ".join(o["tokens"])).ids
        p = model(torch.tensor([ids])).logits[0][-len(ids):].softmax(-1)  # behind virtual tokens
    words = [tok.encode(" " * (i > 0) + w, add_special_tokens=False).ids for i, w in enumerate(o["tokens"])]
    first, out = next(i for i in range(len(ids)) if ids[i:i + len(words[0])] == words[0]), []
    for w, tag, have in zip(words, o["tags"], o["probabilities"]):
        best = int(p[first].argmax())
        assert ids[first:first + len(w)] == w
        out += [(have, float(p[first][best])), (tag != model.config.id2label[best], 0)]
        first += len(w)
    return out


def check(a, task, name, base, texts, way, tmp):
    data, test, config, out = f"{tmp}/{name}.jsonl", f"{tmp}/{name}-test.jsonl", f"{tmp}/{name}.yaml", f"{tmp}/{name}"
    with open(data, "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in data_of(task, texts[8:]))
    with open(test, "w") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t in texts[:8])
    with open(config, "w") as f:
        f.write(f"objective: {task}\nmodel: {base}\ndata: {data}\noutput_dir: {out}\nmax_steps: 8\nmax_length: 64\nlearning_rate: 1e-2\n{way}")
    cyclora(a, "train", config, "--quiet")
    ours = [json.loads(line) for line in cyclora(a, "classify", "--model", base, "--adapter", out + "/adapter", "--data", test).splitlines()]
    names = json.load(open(out + "/adapter/labels.json"))
    names["id2label"] = {int(k): v for k, v in names["id2label"].items()}  # JSON has no other keys than texts
    of = AutoModelForTokenClassification if task == "token_classification" else AutoModelForSequenceClassification
    model = of.from_pretrained(base, dtype=torch.float32, attn_implementation="eager", **names)
    model = PeftModel.from_pretrained(model.eval(), out + "/adapter").eval()
    tok = Tokenizer.from_file(base + "/tokenizer.json")
    tok.no_padding()
    models = {"": model}
    if name.split("-")[-1] in MERGED and not name.startswith("t5"):
        cyclora(a, "merge", "--model", base, "--adapter", out + "/adapter", "--out", out + "/merged", "--type", "f32")
        models[" merged"], said = of.from_pretrained(out + "/merged", dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        assert not any(said[k] for k in ("missing_keys", "mismatched_keys")) and set(said["unexpected_keys"]) <= {"lm_head.weight", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}, said  # not below every head
        assert type(models[" merged"]).__name__ == models[" merged"].config.architectures[0] and models[" merged"].config.id2label == names["id2label"]
    good = True
    for how, model in models.items():
        worst = max(abs(x - y) for o in ours for x, y in theirs(task, model.eval(), tok, o))
        good &= worst <= TOLERANCE
        print(f"{name}{how}: {len(ours)} texts, greatest difference of a probability or number {worst:.1e}: {'ok' if worst <= TOLERANCE else 'WRONG'}", flush=True)
    return good


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cyclora", default="build/release/cyclora")
    ap.add_argument("--minilm", default="cache/minilm")
    a = ap.parse_args()
    words = [json.loads(line)["a"] for line in open(f"{CIPHER}/warm.jsonl")]
    texts = [" ".join(words[i:i + 1 + i % 4]) for i in range(len(words) - 4)]
    english = [f"{verb} the {what} {where}" for verb in ("open", "close", "paint", "sell") for what in ("door", "old window", "boat") for where in ("now", "in the morning", "at once, please")]
    with tempfile.TemporaryDirectory() as tmp:
        good = all([check(a, task, f"cipher-{task}-{w}", CIPHER, texts, WAYS[w], tmp) for task in TASKS for w in WAYS if task == TASKS[0] or w in ("lora", "none", "ln_tuning", "prompt")])
        if os.path.exists(a.minilm):
            good &= all([check(a, task, f"minilm-{task}-{w}", a.minilm, english, WAYS[w], tmp) for task in TASKS for w in ("lora", "none")])
        t5 = tmp + "/t5"
        torch.manual_seed(3)
        T5ForConditionalGeneration(T5Config(vocab_size=48, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=2, eos_token_id=0, pad_token_id=1, decoder_start_token_id=1)).save_pretrained(t5)
        shutil.copy(CIPHER + "/tokenizer.json", t5)
        good &= all([check(a, task, f"t5-{task}-{w}", t5, texts, WAYS[w], tmp) for task in TASKS for w in ("lora", "none", "ia3")])
    sys.exit(not good)


if __name__ == "__main__":
    main()
