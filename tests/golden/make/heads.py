"""Heads on the tiny checkpoints of tiny_llama/ and families/: transformers' ...ForSequenceClassification (classes, and regressions of one
number and of three) and ...ForTokenClassification under PEFT (task types SEQ_CLS, TOKEN_CLS) -> tests/golden/heads/.

Run:  python tests/golden/make/heads.py [case ...]     (torch, transformers, peft; needs tiny_llama/ and families/; deterministic)

<case>/adapter/                 as PEFT saves it, every trained number away from where it begins
<case>/adapter/labels.json      of a regression: that it is one, which PEFT's folder does not say
<case>/expected.safetensors     ids, cu_seqlens; classes [S], targets [S, numbers] or tags [N] (-1: none); logits [S, CLASSES], of tags [words, CLASSES];
                                loss, gradients, ten AdamW steps. In double.

Each text is run alone, so that no padding has a say in which token is the last. tests/model/test_heads.c has the same list of cases.
"""
import copy
import os
import sys

import families
import oracle
import tiny_llama
from oracle import f32, i32, torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

OUT = os.path.join(oracle.GOLDEN, "heads")
CLASSES = 5
HEAD = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
TAGS = {"task_type": "TOKEN_CLS", "modules_to_save": ["score"]}
CASES = {
    "lora": ("tiny_llama/tied_gqa", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], **HEAD)),
    "none": ("tiny_llama/tied_gqa", LoraConfig(r=1, target_modules="dummy-target-modules", **HEAD)),
    "ln": ("tiny_llama/untied_mha", LNTuningConfig(**HEAD)),
    "lora_gemma2": ("families/gemma2", LoraConfig(r=2, target_modules=["q_proj", "down_proj"], **HEAD)),
    "bert": ("families/bert", LoraConfig(r=2, target_modules=["query", "value", "dense"], **{**HEAD, "modules_to_save": ["classifier"]})),
    "none_bert": ("families/bert", LoraConfig(r=1, target_modules="dummy-target-modules", **{**HEAD, "modules_to_save": ["classifier"]})),
    "lora_gpt2": ("families/gpt2", LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, **HEAD)),
    "number": ("tiny_llama/tied_gqa", LoraConfig(r=2, target_modules=["q_proj", "up_proj"], **HEAD)),
    "numbers_bert": ("families/bert", LoraConfig(r=1, target_modules="dummy-target-modules", **{**HEAD, "modules_to_save": ["classifier"]})),
    "tags": ("tiny_llama/tied_gqa", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], **TAGS)),
    "tags_none": ("tiny_llama/untied_mha", LoraConfig(r=1, target_modules="dummy-target-modules", **TAGS)),
    "tags_gemma2": ("families/gemma2", LNTuningConfig(**TAGS)),
    "tags_gpt2": ("families/gpt2", LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, **{**TAGS, "modules_to_save": ["classifier"]})),
    "tags_bert": ("families/bert", LoraConfig(r=2, target_modules=["query", "value"], **{**TAGS, "modules_to_save": ["classifier"]})),
    "tags_t5": ("families/t5", LoraConfig(r=2, target_modules=["q", "v", "wo"], **{**TAGS, "modules_to_save": ["classifier"]})),
    "t5": ("families/t5", LoraConfig(r=2, target_modules=["q", "v", "wo"], **{**HEAD, "modules_to_save": ["classification_head"]})),
    "t5_none": ("families/t5", LoraConfig(r=1, target_modules="dummy-target-modules", **{**HEAD, "modules_to_save": ["classification_head"]})),
    "numbers_t5": ("families/t5", IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"], **{**HEAD, "modules_to_save": ["classification_head"]})),
}
NUMBERS = {"number": 1, "numbers_bert": 3, "numbers_t5": 2}
EOS, START = 1, 0  # of T5, which reads a text with its encoder and, shifted, with its decoder


def opened(name):
    torch.manual_seed(1)
    of = AutoModelForTokenClassification if name.startswith("tags") else AutoModelForSequenceClassification
    more = {"num_labels": NUMBERS[name], "problem_type": "regression"} if name in NUMBERS else {"num_labels": CLASSES}
    m = of.from_pretrained(os.path.join(oracle.GOLDEN, CASES[name][0]), dtype=torch.float32, attn_implementation="eager", **more)
    m.config.use_cache = False
    return m.eval()


def trained(m):
    """{name in an adapter file: parameter}"""
    return {n.replace(".modules_to_save.default", "").replace(".default", ""): p for n, p in m.named_parameters() if p.requires_grad}


def told(name, seqs, seed):
    """What the rows are to tell: {name in the fixture: tensor}, of tags -1 where a token tells none."""
    g = torch.Generator().manual_seed(seed)
    if name in NUMBERS:
        return {"targets": torch.randn(len(seqs), NUMBERS[name], generator=g)}
    if not name.startswith("tags"):
        return {"classes": torch.randint(0, CLASSES, (len(seqs),), generator=g)}
    tags = [torch.where(torch.rand(len(q), generator=g) < 0.6, torch.randint(0, CLASSES, (len(q),), generator=g), -1) for q in seqs]
    for t in tags:
        t[0] = max(int(t[0]), 0)
    return {"tags": torch.cat(tags)}


def answers(m, seqs, labels):
    """(logits, loss), each text run alone; the loss is transformers' own of one batch of them all."""
    logits = [m(input_ids=torch.tensor([q])).logits[0] for q in seqs]
    if "targets" in labels:
        logits = torch.stack(logits)
        return logits, torch.nn.functional.mse_loss(logits, labels["targets"].to(logits.dtype))
    if "tags" in labels:
        logits, tags = torch.cat(logits), labels["tags"]
        return logits[tags >= 0], torch.nn.functional.cross_entropy(logits, torch.where(tags < 0, -100, tags))
    return torch.stack(logits), torch.nn.functional.cross_entropy(torch.stack(logits), labels["classes"])


def check_loss(m, q, labels):
    """One text's loss is what the model itself says it is."""
    with torch.no_grad():
        if "targets" in labels:
            own = labels["targets"][:1]
        elif "tags" in labels:
            t = labels["tags"][:len(q)]
            own = torch.where(t < 0, -100, t)[None]
        else:
            own = labels["classes"][:1]
        one = {k: v[:len(q)] if k == "tags" else v[:1] for k, v in labels.items()}
        assert abs(m(input_ids=torch.tensor([q]), labels=own).loss - answers(m, [q], one)[1]) < 1e-5


def run(m, seqs, labels):
    out = tiny_llama.ten_steps(trained(m), lambda: dict(zip(("logits", "loss"), answers(m, seqs, labels))))
    del out["lrs"]
    return out


def case(name, seed):
    base, config = CASES[name]
    d, ad = os.path.join(OUT, name), os.path.join(OUT, name, "adapter")
    seqs, both = families.batch(seed)[0], {}
    if name in ("t5", "t5_none", "numbers_t5"):
        seqs = [[i for i in q if i != EOS] + [EOS] for q in seqs]
        both = {"src_ids": i32(sum(seqs, [])), "src_cu": families.cu_of(seqs), "ids": i32(sum(([START] + q[:-1] for q in seqs), []))}
    labels = told(name, seqs, seed)
    m = get_peft_model(opened(name), copy.deepcopy(config))
    check_loss(m, seqs[0], labels)
    g = torch.Generator().manual_seed(100 * seed)
    with torch.no_grad():
        for n, p in trained(m).items():
            p.add_(torch.randn(p.shape, generator=g) * (0.1 if p.dim() == 1 or ".lora_B" in n else p.shape[-1] ** -0.5))
    oracle.save_adapter(m, ad, base="tests/golden/" + base)
    if name in NUMBERS:
        oracle.write_json(os.path.join(ad, "labels.json"), {"problem_type": "regression"})
    assert set(oracle.load_file(os.path.join(ad, "adapter_model.safetensors"))) == set(trained(m))

    def loaded():
        return PeftModel.from_pretrained(opened(name), ad, is_trainable=True)

    with families.double():
        exact = run(loaded().double(), seqs, labels)
    noise = tiny_llama.far(exact, run(loaded(), seqs, labels))
    assert noise["logits"]["rel"] < 1e-5 and noise["grad"]["rel"] < 1e-4, noise
    oracle.save(os.path.join(d, "expected.safetensors"), {"ids": i32(sum(seqs, [])), "cu_seqlens": families.cu_of(seqs), **both, **{k: f32(v) if k == "targets" else i32(v.tolist()) for k, v in labels.items()}, **{k: f32(v) for k, v in exact.items()}})
    print(name, "loss %.4f -> %.4f" % (exact["losses"][0], exact["losses"][9]), {k: v["rel"] for k, v in noise.items()}, flush=True)


if __name__ == "__main__":
    for i, name in enumerate(CASES):
        if len(sys.argv) < 2 or name in sys.argv[1:]:
            case(name, 61 + i)
