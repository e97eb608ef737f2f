"""Adapters of every method but plain LoRA on the tiny checkpoints of tiny_llama/ and families/, and what PEFT (plain PyTorch where PEFT
has no such method) says -> tests/golden/methods/.

Run:  python tests/golden/make/methods.py [case ...]     (torch, transformers, peft; needs tiny_llama/ and families/; deterministic)

<case>/adapter/                 as PEFT saves it, every trained number away from where it begins
<case>/fresh/                   where a fresh one begins, of methods that begin elsewhere than at the base (PiSSA, ...)
<case>/finished/                of AdaLoRA: what PEFT saves after the ten steps (pruned); finished.logits: of it
<case>/adapter/prompt_encoder.safetensors   of P-tuning: what its prompt is made by; the names are those of PEFT's modules. Its adapter_config.json
                                says that it is being trained (inference_mode false)
<case>/expected.safetensors     (T5: with src_ids, src_cu, and without text) as tiny_llama's: a batch, logits, nll, loss, gradients, ten AdamW steps, greedy text. In double. Vectors are not decayed.

A third entry of a case is its seed; without one it goes by its name. It seeds all that is drawn, PEFT's initial values too.
A projector's batch and prompts come with vectors: given, gen.given [texts, vectors, width].
tests/model/test_methods.c has the same list of cases, with the base of each.
"""
import os
import re
import sys

import families
import oracle
import tiny_llama
from oracle import f32, i32, torch
from peft import (AdaLoraConfig, AdaptionPromptConfig, IA3Config, LNTuningConfig, LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig,
                  TrainableTokensConfig, VeraConfig, get_peft_model)
from transformers import GenerationConfig

OUT = os.path.join(oracle.GOLDEN, "methods")
NORMS = ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm"]
CASES = {
    "ln": ("tiny_llama/tied_gqa", LNTuningConfig(task_type="CAUSAL_LM")),
    "ln_gemma2": ("families/gemma2", LNTuningConfig(task_type="CAUSAL_LM", target_modules=NORMS)),
    "ln_qwen3": ("families/qwen3", LNTuningConfig(task_type="CAUSAL_LM", target_modules=["q_norm", "k_norm", "input_layernorm"])),
    "ln_gpt2": ("families/gpt2", LNTuningConfig(task_type="CAUSAL_LM", target_modules=["ln_1", "ln_2", "ln_f"])),
    "bias_all": ("tiny_llama/bias", LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], bias="all")),
    "bias_own": ("families/gpt2", LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, target_modules=["c_fc", "mlp.c_proj"], bias="lora_only", fan_in_fan_out=True)),
    "ia3": ("tiny_llama/tied_gqa", IA3Config(task_type="CAUSAL_LM")),
    "ia3_gpt2": ("families/gpt2", IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn", "mlp.c_fc", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True)),
    "ia3_phi3": ("families/phi3", IA3Config(task_type="CAUSAL_LM", target_modules=["qkv_proj", "gate_up_proj", "o_proj", "down_proj"], feedforward_modules=["gate_up_proj", "down_proj"])),
    "bitfit": ("tiny_llama/bias", "bias"),
    "bitfit_qwen2": ("families/qwen2", "bias"),
    "tokens": ("tiny_llama/tied_gqa", TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[38, 9, 90, 17, 26]), 71),
    "tokens_untied": ("tiny_llama/untied_mha", TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[27, 32, 7, 77]), 72),
    "tokens_gemma2": ("families/gemma2", TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[39, 18, 4, 27]), 73),
    "tokens_gpt2": ("families/gpt2", TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[36, 33, 3]), 74),
    "pissa": ("tiny_llama/tied_gqa", LoraConfig(r=4, lora_alpha=8, init_lora_weights="pissa", target_modules=["q_proj", "k_proj", "o_proj", "up_proj"], rank_pattern={"o_proj": 3}, task_type="CAUSAL_LM")),
    "pissa_rs": ("tiny_llama/bias", LoraConfig(r=2, lora_alpha=3, use_rslora=True, init_lora_weights="pissa", target_modules=["v_proj", "down_proj"], task_type="CAUSAL_LM")),
    "prompt": ("tiny_llama/tied_gqa", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "prompt_gemma2": ("families/gemma2", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, prompt_tuning_init="SAMPLE_VOCAB")),
    "prompt_gpt2": ("families/gpt2", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
    "ptuning": ("tiny_llama/tied_gqa", PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=24)),
    "ptuning_qwen2": ("families/qwen2", PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=20)),
    "prefix": ("tiny_llama/tied_gqa", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "prefix_linear": ("families/llama_linear", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
    "prefix_gemma2": ("families/gemma2", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)),
    "prefix_gpt2": ("families/gpt2", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
    "adaption": ("tiny_llama/tied_gqa", AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=5, adapter_layers=2)),
    "adaption_linear": ("families/llama_linear", AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1)),
    "adaption_mistral": ("families/mistral_full", AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1)),
    "adaption_gpt2": ("families/gpt2", AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2)),
    "projector": ("tiny_llama/tied_gqa", {"projector": "mlp2x_gelu", "tokens": 3, "width": 7}),
    "projector_linear": ("families/gpt2", {"projector": "linear", "tokens": 2, "width": 5}),
    "projector_gemma2": ("families/gemma2", {"projector": "mlp2x_gelu", "tokens": 1, "width": 12}),
    "full": ("tiny_llama/tied_gqa", {"target_modules": "all", "exclude_modules": ["gate_proj", "up_proj"]}, 47),
    "full_gpt2": ("families/gpt2", {"target_modules": "all", "exclude_modules": ["c_attn"]}, 48),  # the bias of its keys has no gradient but rounding
    "full_gemma2": ("families/gemma2", {"target_modules": "all"}, 54),
    "full_last": ("families/qwen2", {"target_modules": "all", "layers_to_transform": [1]}, 55),
    "full_regex": ("families/qwen2", {"target_modules": r"model\.layers\.0\.(mlp\.down_proj|self_attn\.v_proj|input_layernorm)|model\.norm"}, 56),
    "full_names": ("families/mistral_full", {"target_modules": ["q_proj", "k_proj"]}, 57),
    "full_t5": ("families/t5", {"target_modules": "all"}, 58),
    "saved": ("tiny_llama/untied_mha", LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens", "lm_head", "norm"], task_type="CAUSAL_LM"), 81),
    "saved_embedding": ("tiny_llama/tied_gqa", LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"], modules_to_save=["embed_tokens", "k_proj"], task_type="CAUSAL_LM"), 82),
    "saved_both": ("tiny_llama/tied_gqa", LoraConfig(r=2, lora_alpha=3, target_modules=["up_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"), 83),
    "saved_gpt2": ("families/gpt2", LoraConfig(r=2, lora_alpha=3, target_modules=["c_attn"], modules_to_save=["ln_f", "wpe", "mlp.c_proj", "lm_head"], fan_in_fan_out=True, task_type="CAUSAL_LM"), 84),
    "table": ("tiny_llama/tied_gqa", LoraConfig(r=3, lora_alpha=5, target_modules=["embed_tokens", "q_proj", "down_proj"], task_type="CAUSAL_LM"), 91),
    "table_gemma2": ("families/gemma2", LoraConfig(r=2, lora_alpha=3, target_modules=["embed_tokens"], task_type="CAUSAL_LM"), 92),
    "table_gpt2": ("families/gpt2", LoraConfig(r=4, lora_alpha=4, use_rslora=True, target_modules=["wte", "c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"), 93),
    "head": ("tiny_llama/tied_gqa", LoraConfig(r=3, lora_alpha=5, target_modules=["lm_head", "q_proj", "down_proj"], task_type="CAUSAL_LM"), 94),
    "head_untied": ("tiny_llama/untied_mha", LoraConfig(r=2, lora_alpha=3, use_rslora=True, rank_pattern={"lm_head": 5}, alpha_pattern={"lm_head": 8}, target_modules=["lm_head", "v_proj"], task_type="CAUSAL_LM"), 95),
    "head_gemma2": ("families/gemma2", LoraConfig(r=4, lora_alpha=4, target_modules=["lm_head"], task_type="CAUSAL_LM"), 96),
    "head_gpt2": ("families/gpt2", LoraConfig(r=2, lora_alpha=3, target_modules=["lm_head", "wte", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM"), 97),
    "head_t5": ("families/t5", LoraConfig(r=3, lora_alpha=4, target_modules=["lm_head", "v"], task_type="SEQ_2_SEQ_LM"), 98),
    "lora_plus": ("tiny_llama/tied_gqa", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")),
    "dora": ("tiny_llama/tied_gqa", LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules="all-linear", rank_pattern={"v_proj": 3, "down_proj": 5}, task_type="CAUSAL_LM")),
    "dora_bias": ("tiny_llama/bias", LoraConfig(r=3, lora_alpha=5, use_dora=True, use_rslora=True, target_modules=["q_proj", "v_proj", "o_proj", "up_proj"], task_type="CAUSAL_LM")),
    "dora_gpt2": ("families/gpt2", LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")),
    "dora_plus": ("tiny_llama/bias", LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=["v_proj", "gate_proj"], bias="lora_only", task_type="CAUSAL_LM")),
    "adalora": ("tiny_llama/tied_gqa", AdaLoraConfig(task_type="CAUSAL_LM", init_r=4, target_r=2, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"], tinit=2, tfinal=2,
                                                     deltaT=2, total_step=10)),
    "adalora_gpt2": ("families/gpt2", AdaLoraConfig(task_type="CAUSAL_LM", init_r=3, target_r=2, lora_alpha=4, target_modules=["c_attn", "c_fc"], tinit=1, tfinal=3, deltaT=1, total_step=10,
                                                    beta1=0.7, beta2=0.8, orth_reg_weight=0.3, fan_in_fan_out=True)),
    "adalora_mistral": ("families/mistral_full", AdaLoraConfig(task_type="CAUSAL_LM", init_r=5, target_r=3, lora_alpha=5, target_modules=["q_proj", "k_proj", "gate_proj"], tinit=0, tfinal=0,
                                                               deltaT=3, total_step=12)),
    "adalora_t5": ("families/t5", AdaLoraConfig(task_type="SEQ_2_SEQ_LM", init_r=3, target_r=2, lora_alpha=4, target_modules=["q", "v", "wi"], tinit=1, tfinal=2, deltaT=2, total_step=10)),
    "vera_t5": ("families/t5", VeraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q", "k", "wo"])),
    "vera": ("tiny_llama/tied_gqa", VeraConfig(task_type="CAUSAL_LM", r=6, target_modules="all-linear", d_initial=0.3, projection_prng_key=3)),
    "vera_gpt2": ("families/gpt2", VeraConfig(task_type="CAUSAL_LM", r=5, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)),
    "vera_mistral": ("families/mistral_full", VeraConfig(task_type="CAUSAL_LM", r=7, target_modules=["q_proj", "k_proj", "o_proj", "up_proj"], layers_to_transform=[0, 2])),
}
PISSA = {"pissa": -1, "pissa_rs": 16}  # iterations of our own search for singular vectors; -1: until they are found
RATIO = {"lora_plus": 4.0, "dora_plus": 4.0}  # of LoRA+: the learning rate of B and of vectors over that of A, as PEFT's create_loraplus_optimizer groups them
ENCODER = "prompt_encoder.safetensors"


class Projected(torch.nn.Module):
    """A projector as LLaVA has it, whose rows stand before a frozen model's texts (inputs_embeds)."""

    given = {}  # the vectors of each text, by its ids

    def __init__(self, model, config):
        super().__init__()
        wide = model.config.hidden_size
        model.requires_grad_(False)
        self.mm_projector = torch.nn.Linear(config["width"], wide) if config["projector"] == "linear" else torch.nn.Sequential(
            torch.nn.Linear(config["width"], wide), torch.nn.GELU(), torch.nn.Linear(wide, wide))
        self.__dict__["model"] = model  # no part of this one: its parameters are not among these

    def vectors(self, ids):
        """Of a text that is generated: its prompt's."""
        return self.given[max((n for n in self.given if list(n) == ids[:len(n)]), key=len)]

    def forward(self, input_ids, use_cache=False):
        self.model.to(next(self.parameters()).dtype)
        x = self.model.get_input_embeddings()(input_ids)  # a Gemma's scales what it looks up
        own = torch.stack([self.vectors(r) for r in input_ids.tolist()]).to(x.dtype)
        return self.model(inputs_embeds=torch.cat([self.mm_projector(own), x], 1), use_cache=use_cache)


def is_projector(config):
    return isinstance(config, dict) and "projector" in config


def is_prompt(config):
    return not ours(config) and config.is_prompt_learning


def trained(m):
    """{name in an adapter file: parameter}, in the model's order."""
    prefix = "" if isinstance(m, (PeftModel, Projected)) else "base_model.model."
    if isinstance(m, PeftModel) and m.active_peft_config.peft_type in ("PROMPT_TUNING", "PREFIX_TUNING"):
        return {"prompt_embeddings": m.prompt_encoder["default"].embedding.weight}
    return {prefix + n.replace(".modules_to_save.default", "").replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"): p for n, p in m.named_parameters() if p.requires_grad}


def again(name):
    """Trained rows of a tied table are in PEFT's files twice, under the head's name too."""
    twin = re.sub(r"(base_model\.model\.).*(\.trainable_tokens_delta)", r"\1lm_head\2", name)
    return twin if twin != name else ""


def opened(base, config):
    if base == "families/t5":
        m = families.T5ForConditionalGeneration.from_pretrained(os.path.join(oracle.GOLDEN, base), dtype=torch.float32, attn_implementation="eager")
        return m.eval()
    m = families.load(os.path.join(oracle.GOLDEN, base), None)
    for a in (x.self_attn for x in m.modules() if isinstance(config, AdaptionPromptConfig) and hasattr(x, "self_attn")):  # PEFT's LLaMA-Adapter takes C / (K D) for H / K
        a.k_proj.in_features = a.k_proj.out_features * a.num_key_value_groups
    return m


def ours(config):
    """Methods that PEFT does not have: "bias", or the settings of full."""
    return config == "bias" or isinstance(config, dict)


def taken(name, config):
    """Of a base's parameter: is it trained? PEFT's rules for modules (tuners_utils.py), told anew."""
    if config == "bias":
        return name.endswith(".bias")
    if "relative_attention_bias" in name:  # not trainable yet
        return False
    module, of, layers = name.rsplit(".", 1)[0], config["target_modules"], config.get("layers_to_transform")
    ends = lambda names: any(module == n or module.endswith("." + n) for n in names)
    layer = re.search(r"\.(\d+)\.", module)
    if ends(config.get("exclude_modules", [])) or (layers and not (layer and int(layer[1]) in layers)):
        return False
    return of == "all" or (ends(of) if isinstance(of, list) else bool(re.fullmatch(of, module)))


def fresh(base, config):
    m = opened(base, config)
    if is_projector(config):
        return Projected(m, config)
    if ours(config):
        for n, p in m.named_parameters():
            p.requires_grad_(taken(n, config))
        return m
    return get_peft_model(m, config)


def save(m, config, path, base):
    if not ours(config):
        oracle.save_adapter(m, path, base="tests/golden/" + base)
        if config.peft_type == "P_TUNING":
            oracle.save(os.path.join(path, ENCODER), {n: p.detach() for n, p in trained(m).items()})
            c = oracle.json.load(open(os.path.join(path, "adapter_config.json")))
            oracle.write_json(os.path.join(path, "adapter_config.json"), c | {"inference_mode": False})
        return
    c = {"peft_type": "BITFIT", "target_modules": None} if config == "bias" else {"peft_type": "FULL", **config}
    if is_projector(config):
        c = {"peft_type": "PROJECTOR", "num_virtual_tokens": config["tokens"], "mm_projector_type": config["projector"], "mm_hidden_size": config["width"]}
    oracle.save(os.path.join(path, "adapter_model.safetensors"), {n: p.detach() for n, p in trained(m).items()})
    oracle.write_json(os.path.join(path, "adapter_config.json"), {"base_model_name_or_path": "tests/golden/" + base, "task_type": "CAUSAL_LM", **c})


def loaded(base, config, path):
    m = opened(base, config)
    if not ours(config) and not is_prompt(config):
        return PeftModel.from_pretrained(m, path, is_trainable=True)
    m = fresh(base, config)  # PEFT loads no soft prompt to train it on
    encoder = os.path.join(path, ENCODER)
    saved = oracle.load_file(encoder if os.path.exists(encoder) else os.path.join(path, "adapter_model.safetensors"))
    with torch.no_grad():
        for n, p in trained(m).items():
            p.copy_(saved[n])
    return m


def check_loaded(base, config, path, seqs, logits, prompts, ids):
    """What PEFT loads of the folder says the same, and its own generate, with its cache, writes the same."""
    m = PeftModel.from_pretrained(opened(base, config), path).eval()
    with torch.no_grad():
        got = torch.cat([m(input_ids=torch.tensor([q])).logits[0, -len(q):] for q in seqs])
    assert (got - logits).abs().max() < 1e-5 * logits.abs().max(), (got - logits).abs().max()
    m.base_model.config.use_cache = True
    for p, want in zip(prompts, ids.tolist()):
        got = m.generate(input_ids=torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.long),
                         generation_config=GenerationConfig(max_new_tokens=families.NEW, do_sample=False, eos_token_id=2, pad_token_id=0, use_cache=True))
        assert got[0, len(p):].tolist() == (want[:want.index(2) + 1] if 2 in want else want), (p, got, want)


def as_lora(now, began):
    """PEFT's conversion of a PiSSA adapter (subtract_mutated_init), with the signs that we give to singular vectors."""
    out = {}
    for n in now:
        if "lora_A" not in n:
            continue
        b, a0, b0 = n.replace("lora_A", "lora_B"), began[n], began[n.replace("lora_A", "lora_B")]
        sign = a0.gather(1, a0.abs().argmax(1, keepdim=True)).sign()
        out[n], out[b] = torch.cat([now[n], a0 * sign]), torch.cat([now[b], -b0 * sign.T], 1)
    return out


def orthogonality(m):
    """What AdaLoRA adds to the loss, by PEFT's own forward: its loss less that of the model in it, the same graph twice."""
    q = torch.tensor([[3, 4]])
    return m.base_model(input_ids=q, labels=q).loss - m.base_model.model(input_ids=q, labels=q).loss


def allocate(m, step):
    """PEFT's allocation; no two triplets may be so near that rounding could choose between them."""
    kth = torch.kthvalue

    def kthvalue(x, k):
        v = x.sort().values
        assert v[k] - v[k - 1] > 1e-3 * v[k], (step, v[k - 1], v[k])
        return kth(x, k)

    torch.kthvalue = kthvalue
    m.base_model.update_and_allocate(step)
    torch.kthvalue = kth


def case(name, seed):
    base, config = CASES[name][:2]
    seed = (CASES[name][2:] or (seed,))[0]
    d = os.path.join(OUT, name)
    seqs, labels, w, prompts = families.batch(seed)
    torch.manual_seed(seed)
    common, plain_forward = {}, tiny_llama.forward
    given = {}
    if is_projector(config):
        given = {k: torch.randn(len(of), config["tokens"], config["width"]) for k, of in (("given", seqs), ("gen.given", prompts))}
        Projected.given = {tuple(ids): x for k, of in (("given", seqs), ("gen.given", prompts)) for ids, x in zip(of, given[k])}
        for k in given:  # a row and a prompt may be the same text
            given[k] = torch.stack([Projected.given[tuple(ids)] for ids in (seqs if k == "given" else prompts)])
    if base == "families/t5":
        seqs, labels, w, common = families.encoder_decoder(tiny_llama, seed, seqs)
    m = fresh(base, config)
    g = torch.Generator().manual_seed(100 * seed)
    with torch.no_grad():
        for n, p in trained(m).items():
            p.add_(torch.randn(p.shape, generator=g) * (0.1 if p.dim() == 1 or min(p.shape) == 1 or ".lora_B" in n or ours(config) else p.shape[-1] ** -0.5))
    ad = os.path.join(d, "adapter")
    save(m, config, ad, base)
    began = {n: p.detach().clone() for n, p in trained(fresh(base, config)).items()} if name in PISSA else {}
    saved = set(oracle.load_file(os.path.join(ad, ENCODER if os.path.exists(os.path.join(ad, ENCODER)) else "adapter_model.safetensors")))
    saved -= {"base_model.vera_A", "base_model.vera_B"}  # frozen
    saved -= {n for n in saved if n.endswith(".base_layer.weight")}  # the base's table or head, which PEFT saves beside a delta on it
    assert saved - {again(n) for n in saved} == set(trained(m)), saved ^ set(trained(m))
    tiny_llama.oracle.lora_params = trained
    tiny_llama.NEW = families.NEW
    more = {"term": orthogonality, "stepped": allocate} if name.startswith("adalora") else {}
    m = loaded(base, config, ad).double()
    with families.double():
        gen = {} if base == "families/t5" else tiny_llama.generate(m, prompts)
        exact = tiny_llama.run(m, seqs, labels, w, RATIO.get(name, 1.0), **more)
        if more:
            finished = tiny_llama.forward(m, seqs, labels)[0]
    if more:
        common["finished.logits"] = f32(finished)
        save(m.float(), config, os.path.join(d, "finished"), base)
    plain = loaded(base, config, ad)
    if is_prompt(config):
        check_loaded(base, config, ad, seqs, exact["logits"], prompts, gen["gen.ids"])
    noise = tiny_llama.far(exact, tiny_llama.run(plain, seqs, labels, w, RATIO.get(name, 1.0), **more))
    path = os.path.join(ad, "adapter_config.json")
    if name in RATIO:  # the product's own settings, which PEFT's file has no place for
        oracle.write_json(path, {**oracle.json.load(open(path)), "loraplus_lr_ratio": RATIO[name]})
    if name in PISSA:
        oracle.write_json(path, {**oracle.json.load(open(path)), "init_lora_weights": True, "pissa": PISSA[name]})
        oracle.save(os.path.join(ad, "adapter_model.safetensors"), as_lora(oracle.load_file(os.path.join(ad, "adapter_model.safetensors")), began))
    assert noise["logits"]["rel"] < 1e-5 and noise["grad"]["rel"] < 1e-4, noise
    exact |= {again(n): v for n, v in exact.items() if again(n).partition(".")[2] in saved}
    tiny_llama.forward = plain_forward
    common |= {"ids": i32(sum(seqs, [])), "cu_seqlens": families.cu_of(seqs), "labels": i32(sum(labels, [])), "weights": torch.tensor(sum(w, []), dtype=torch.float32)}
    oracle.save(os.path.join(d, "expected.safetensors"), {**common, **{k: f32(v) for k, v in exact.items()}, **gen, **given})
    print(name, "loss %.4f -> %.4f" % (exact["losses"][0], exact["losses"][9]), "min gap %.4f" % gen["gen.gap"].min() if gen else "", {k: v["rel"] for k, v in noise.items()}, flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        case(name, 41 + sum(name.encode()) % 100)
