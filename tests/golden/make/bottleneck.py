"""Bottleneck adapters of AdapterHub on the tiny checkpoints of tiny_llama/ and families/, and what its package says -> tests/golden/methods/bn*
and tests/golden/heads/bn*.

Run:  python tests/golden/make/bottleneck.py [case ...]     (needs tiny_llama/ and families/; deterministic)

The package adapters 1.3.0 wants transformers 4.57, so it has an environment of its own; PEFT is there because families.py imports it:
  python -m venv build/adapters && build/adapters/bin/pip install adapters==1.3.0 transformers==4.57.6 torch peft gguf numpy

<case>/adapter/                 as save_adapter(use_safetensors=True) writes it, every trained number away from where it begins
<case>/expected.safetensors     as methods.py's and heads.py's

Of models that the package does not know by themselves (Phi-3, SmolLM3) an AdapterModelInterface says where they have what; it has Gemma's and
Qwen's own. tests/model/test_methods.c and test_heads.c have the same lists of cases.
"""
import dataclasses
import json
import os
import shutil
import sys
import tempfile

from transformers import T5ForConditionalGeneration

as_4 = T5ForConditionalGeneration._tied_weights_keys
T5ForConditionalGeneration._tied_weights_keys = dict.fromkeys(as_4)  # as families.py, which is transformers 5's, expects it
import families
import oracle
import tiny_llama
from oracle import f32, i32, torch
import adapters
from adapters import AdapterModelInterface, DoubleSeqBnConfig, ParBnConfig, SeqBnConfig
from adapters.wrappers.interfaces import CUSTOM_INTERFACES
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

T5ForConditionalGeneration._tied_weights_keys = as_4
CLASSES, NAME = 5, "theirs"
CASES = {
    "bn": ("tiny_llama/tied_gqa", DoubleSeqBnConfig(reduction_factor=4)),
    "bn_seq": ("tiny_llama/bias", SeqBnConfig(reduction_factor=8, leave_out=[1])),
    "bn_par": ("tiny_llama/tied_gqa", ParBnConfig(reduction_factor=3, non_linearity="tanh")),
    "bn_gpt2": ("families/gpt2", DoubleSeqBnConfig(reduction_factor={"1": 2, "default": 6.5}, non_linearity="gelu")),
    "bn_qwen2": ("families/qwen2", SeqBnConfig(reduction_factor=4, non_linearity="gelu_new", scaling=0.5)),
    "bn_gemma2": ("families/gemma2", DoubleSeqBnConfig(reduction_factor=2)),
    "bn_par_gemma2": ("families/gemma2", ParBnConfig(reduction_factor=4, mh_adapter=True)),
    "bn_phi3": ("families/phi3", DoubleSeqBnConfig(reduction_factor=4)),
    "bn_smollm3": ("families/smollm3", SeqBnConfig(reduction_factor=2)),
    "bn_t5": ("families/t5", DoubleSeqBnConfig(reduction_factor=4, cross_adapter=True)),
    "bn_par_t5": ("families/t5", ParBnConfig(reduction_factor=2)),
}
HEADS = {
    "bn_bert": ("families/bert", DoubleSeqBnConfig(reduction_factor=4)),
    "bn_seq_bert": ("families/bert", SeqBnConfig(reduction_factor=2, mh_adapter=True)),
    "bn_par_bert": ("families/bert", ParBnConfig(reduction_factor=4)),
    "bn_llama": ("tiny_llama/tied_gqa", SeqBnConfig(reduction_factor=4)),
}
QWEN = CUSTOM_INTERFACES["qwen2"]
INTERFACES = {"families/phi3": dataclasses.replace(QWEN, adapter_methods=["bottleneck"], attn_k_proj=None, attn_q_proj=None, attn_v_proj=None, attn_qkv_proj="qkv_proj", layer_intermediate_proj="mlp.gate_up_proj"), "families/smollm3": QWEN}


def opened(base, head=False):
    path = os.path.join(oracle.GOLDEN, base)
    cfg = AutoConfig.from_pretrained(path)
    if getattr(cfg, "rope_parameters", None):  # transformers 5's key
        assert cfg.rope_parameters["rope_type"] == "default"
        cfg.rope_theta, cfg.rope_scaling = cfg.rope_parameters["rope_theta"], None
    torch.manual_seed(1)
    kind = AutoModelForSequenceClassification if head else T5ForConditionalGeneration if base == "families/t5" else AutoModelForCausalLM
    if head:
        cfg.num_labels = CLASSES
    m = kind.from_pretrained(path, config=cfg, dtype=torch.float32, attn_implementation="eager").eval()
    m.config.use_cache = False
    adapters.init(m, interface=INTERFACES.get(base))
    return m


def trained(m):
    """{name in an adapter file: parameter}"""
    return {n: p for n, p in m.named_parameters() if f".adapters.{NAME}." in n or n.startswith(("score.", "classifier."))}


def ready(m):
    m.set_active_adapters(NAME)
    for p in m.parameters():
        p.requires_grad_(False)
    for p in trained(m).values():
        p.requires_grad_(True)
    return m.eval()


def save(m, path, base, head):
    """Without a language model's head. A classifier (head: True) beside the adapter under its own name, as cyclora writes it and load_adapter takes it as
    well, or (head: "own") in the package's own files."""
    with tempfile.TemporaryDirectory() as tmp:
        m.save_adapter(tmp, NAME, use_safetensors=True)
        saved, c = oracle.load_file(os.path.join(tmp, "adapter.safetensors")), json.load(open(os.path.join(tmp, "adapter_config.json")))
        own = {n: open(os.path.join(tmp, n), "rb").read() for n in ("head_config.json", "model_head.safetensors") if head == "own"}
    if head is True:
        saved |= {n: p.detach() for n, p in trained(m).items() if ".adapters." not in n}
        c["modules_to_save"] = sorted({n.split(".")[0] for n in trained(m) if ".adapters." not in n})
    assert set(saved) == {n for n in trained(m) if head != "own" or ".adapters." in n}, set(saved) ^ set(trained(m))
    shutil.rmtree(path, ignore_errors=True)
    oracle.save(os.path.join(path, "adapter.safetensors"), saved)
    oracle.write_json(os.path.join(path, "adapter_config.json"), c | {"model_name": "tests/golden/" + base})
    for n, b in own.items():
        with open(os.path.join(path, n), "wb") as f:
            f.write(b.replace(oracle.GOLDEN.encode(), b"tests/golden"))


def loaded(base, path, head=False):
    m = opened(base, head)
    m.load_adapter(path, use_safetensors=True, with_head=os.path.exists(os.path.join(path, "head_config.json")))
    return ready(m)


def begun(base, config, seed, head=False):
    m = opened(base, head)
    m.add_adapter(NAME, config=config.replace(init_weights="mam_adapter"))  # for the law of step 0; the numbers below are none of it
    g = torch.Generator().manual_seed(100 * seed)
    with torch.no_grad():
        for n, p in trained(ready(m)).items():
            p.copy_(torch.randn(p.shape, generator=g) * (0.1 if p.dim() == 1 else p.shape[-1] ** -0.5))
    return m


def check_generate(m, prompts, ids):
    """The package's own generation, with its cache, writes the same. Not of a Llama: adapters 1.3.0 hands its attention no cache (past_key_value,
    which transformers 4.57 calls past_key_values), with an adapter or without."""
    m.config.use_cache = True
    for p, want in zip(prompts, ids.tolist()):
        got = m.generate(input_ids=torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.long),
                         generation_config=GenerationConfig(max_new_tokens=families.NEW, do_sample=False, eos_token_id=2, pad_token_id=0, use_cache=True))
        assert got[0, len(p):].tolist() == (want[:want.index(2) + 1] if 2 in want else want), (p, got, want)


def case(name, seed):
    base, config = CASES[name]
    d = os.path.join(oracle.GOLDEN, "methods", name)
    ad = os.path.join(d, "adapter")
    seqs, labels, w, prompts = families.batch(seed)
    common, plain_forward = {}, tiny_llama.forward
    if base == "families/t5":
        seqs, labels, w, common = families.encoder_decoder(tiny_llama, seed, seqs)
    save(begun(base, config, seed), ad, base, False)
    tiny_llama.oracle.lora_params = trained
    tiny_llama.NEW = families.NEW
    with families.double():
        m = loaded(base, ad).double()
        gen = {} if common else tiny_llama.generate(m, prompts)
        exact = tiny_llama.run(m, seqs, labels, w)
    noise = tiny_llama.far(exact, tiny_llama.run(loaded(base, ad), seqs, labels, w))
    assert noise["logits"]["rel"] < 1e-5 and noise["grad"]["rel"] < 1e-4, noise
    if gen and not base.startswith("tiny_llama"):
        check_generate(loaded(base, ad), prompts, gen["gen.ids"])
    tiny_llama.forward = plain_forward
    common |= {"ids": i32(sum(seqs, [])), "cu_seqlens": families.cu_of(seqs), "labels": i32(sum(labels, [])), "weights": torch.tensor(sum(w, []), dtype=torch.float32)}
    oracle.save(os.path.join(d, "expected.safetensors"), {**common, **{k: f32(v) for k, v in exact.items()}, **gen})
    print(name, "loss %.4f -> %.4f" % (exact["losses"][0], exact["losses"][9]), "min gap %.4f" % gen["gen.gap"].min() if gen else "", {k: v["rel"] for k, v in noise.items()}, flush=True)


def run_head(m, seqs, classes):
    def answer():
        logits = torch.cat([m(input_ids=torch.tensor([q])).logits for q in seqs])
        return {"logits": logits, "loss": torch.nn.functional.cross_entropy(logits, torch.tensor(classes))}

    out = tiny_llama.ten_steps(trained(m), answer)
    del out["lrs"]
    return out


def head_case(name, seed):
    base, config = HEADS[name]
    d = os.path.join(oracle.GOLDEN, "heads", name)
    ad = os.path.join(d, "adapter")
    seqs = families.batch(seed)[0]
    classes = torch.randint(0, CLASSES, (len(seqs),), generator=torch.Generator().manual_seed(seed)).tolist()
    save(begun(base, config, seed, True), ad, base, "own" if name == "bn_bert" else True)
    with families.double():
        exact = run_head(loaded(base, ad, True).double(), seqs, classes)
    noise = tiny_llama.far(exact, run_head(loaded(base, ad, True), seqs, classes))
    assert noise["logits"]["rel"] < 1e-5 and noise["grad"]["rel"] < 1e-4, noise
    oracle.save(os.path.join(d, "expected.safetensors"), {"ids": i32(sum(seqs, [])), "cu_seqlens": families.cu_of(seqs), "classes": i32(classes), **{k: f32(v) for k, v in exact.items()}})
    print(name, "loss %.4f -> %.4f" % (exact["losses"][0], exact["losses"][9]), {k: v["rel"] for k, v in noise.items()}, flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or [*CASES, *HEADS]:
        (case if name in CASES else head_case)(name, 41 + sum(name.encode()) % 100)
