"""Sequence classifiers on the tiny checkpoints of tiny_llama/ and families/: transformers' ...ForSequenceClassification under PEFT
(task_type SEQ_CLS) -> tests/golden/heads/.

Run:  python tests/golden/make/heads.py [case ...]     (torch, transformers, peft; needs tiny_llama/ and families/; deterministic)

<case>/adapter/                 as PEFT saves it, every trained number away from where it begins
<case>/expected.safetensors     ids, cu_seqlens, classes [S]; logits [S, CLASSES]; loss, gradients, ten AdamW steps. In double.

Each text is run alone, so that no padding has a say in which token is the last. tests/model/test_heads.c has the same list of cases.
"""
import copy
import os
import sys

import families
import oracle
import tiny_llama
from oracle import f32, i32, torch
from peft import LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

OUT = os.path.join(oracle.GOLDEN, "heads")
CLASSES = 5
HEAD = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
CASES = {
    "lora": ("tiny_llama/tied_gqa", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], **HEAD)),
    "none": ("tiny_llama/tied_gqa", LoraConfig(r=1, target_modules="dummy-target-modules", **HEAD)),
    "ln": ("tiny_llama/untied_mha", LNTuningConfig(**HEAD)),
    "lora_gemma2": ("families/gemma2", LoraConfig(r=2, target_modules=["q_proj", "down_proj"], **HEAD)),
    "bert": ("families/bert", LoraConfig(r=2, target_modules=["query", "value", "dense"], **{**HEAD, "modules_to_save": ["classifier"]})),
    "none_bert": ("families/bert", LoraConfig(r=1, target_modules="dummy-target-modules", **{**HEAD, "modules_to_save": ["classifier"]})),
    "lora_gpt2": ("families/gpt2", LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, **HEAD)),
}


def opened(base):
    torch.manual_seed(1)
    m = AutoModelForSequenceClassification.from_pretrained(os.path.join(oracle.GOLDEN, base), num_labels=CLASSES, dtype=torch.float32, attn_implementation="eager")
    m.config.use_cache = False
    return m.eval()


def trained(m):
    """{name in an adapter file: parameter}"""
    return {n.replace(".modules_to_save.default", "").replace(".default", ""): p for n, p in m.named_parameters() if p.requires_grad}


def run(m, seqs, classes):
    p = trained(m)
    groups = [{"params": [t for t in p.values() if t.dim() > 1]}, {"params": [t for t in p.values() if t.dim() == 1], "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    schedule = get_linear_schedule_with_warmup(opt, 2, 10)
    out, losses, norms = {}, [], []
    for step in range(10):
        opt.zero_grad()
        logits = torch.cat([m(input_ids=torch.tensor([q])).logits for q in seqs])
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(classes))
        loss.backward()
        if step == 0:
            out = {"logits": logits.detach(), "loss": loss.detach()[None], **{"grad." + n: t.grad.clone() for n, t in p.items()}}
        losses.append(loss.item())
        norms.append(float(torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0)))
        opt.step()
        schedule.step()
    out.update({"after10." + n: t.detach().clone() for n, t in p.items()})
    return {**out, "losses": torch.tensor(losses, dtype=torch.float64), "grad_norms": torch.tensor(norms, dtype=torch.float64)}


def case(name, seed):
    base, config = CASES[name]
    d, ad = os.path.join(OUT, name), os.path.join(OUT, name, "adapter")
    seqs = families.batch(seed)[0]
    classes = torch.randint(0, CLASSES, (len(seqs),), generator=torch.Generator().manual_seed(seed)).tolist()
    m = get_peft_model(opened(base), copy.deepcopy(config))
    g = torch.Generator().manual_seed(100 * seed)
    with torch.no_grad():
        for n, p in trained(m).items():
            p.add_(torch.randn(p.shape, generator=g) * (0.1 if p.dim() == 1 or ".lora_B" in n else p.shape[-1] ** -0.5))
    oracle.save_adapter(m, ad, base="tests/golden/" + base)
    assert set(oracle.load_file(os.path.join(ad, "adapter_model.safetensors"))) == set(trained(m))

    def loaded():
        return PeftModel.from_pretrained(opened(base), ad, is_trainable=True)

    with families.double():
        exact = run(loaded().double(), seqs, classes)
    noise = tiny_llama.far(exact, run(loaded(), seqs, classes))
    assert noise["logits"]["rel"] < 1e-5 and noise["grad"]["rel"] < 1e-4, noise
    oracle.save(os.path.join(d, "expected.safetensors"), {"ids": i32(sum(seqs, [])), "cu_seqlens": families.cu_of(seqs), "classes": i32(classes), **{k: f32(v) for k, v in exact.items()}})
    print(name, "loss %.4f -> %.4f" % (exact["losses"][0], exact["losses"][9]), {k: v["rel"] for k, v in noise.items()}, flush=True)


if __name__ == "__main__":
    for i, name in enumerate(CASES):
        if len(sys.argv) < 2 or name in sys.argv[1:]:
            case(name, 61 + i)
