#!/usr/bin/env python3
"""The PyTorch stack on one card, one engine, one method and one shape a process; the items are those of bench_card.

  python bench/peers/gpu/peer.py ENGINE[:METHOD] SHAPE.json ITEM...
    ENGINE  peft, and words joined to it by +: compile (torch.compile of each layer), liger (Liger's fused linear
            cross-entropy), bf16 (adapters in bf16 instead of f32 under autocast), f32 (everything in f32, no autocast)
    METHOD  lora (the default), dora, ia3, ln_tuning, prompt_tuning, p_tuning, prefix_tuning (PEFT's, with its defaults but 20 virtual
            tokens); full and bitfit, which PEFT has not: the model's own parameters, all in f32 or its biases
    sft:ROWSxLENGTH:LEVEL[:PASS]   LEVEL none or block (non-reentrant checkpointing of each layer); PASS is not looked at
    decode:ROWS[:LENGTH]           HF generate, greedy, 24 new tokens after LENGTH (64), adapter active, not merged
    macct:ROWS                     two adapters of one model; each side generates 64 tokens from 64, then trains on them

Random bf16 weights of the shape, random ids, LoRA r 16, alpha 32 on all linear layers but the head, no dropout, SDPA
attention, fused AdamW, no clipping (bench_card clips: an advantage left to the peer), loss on every token. One RESULT {json}
line an item: ms_best and ms_median of what bench_card times, tok_s, peak_gb (the most the allocator handed out), taken_gb (what
the driver says is gone since the context was made, as bench_card counts it; of a processor the process at most), or `error` with the reason. Without a card
everything runs on the processor, to check the script."""
import gc
import json
import os
import re
import resource
import statistics
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
VIRTUAL_TOKENS = 20  # of soft prompts
SOFT = ("prompt_tuning", "p_tuning", "prefix_tuning")
METHODS = ("lora", "dora", "ia3", "ln_tuning", "full", "bitfit", *SOFT)
NEW_TOKENS = 24      # of a decode item, as bench_card's STEPS
SECONDS_ENOUGH = 5   # an item's timed steps end after the third (macct: the second) once this much is spent


class Bench:
    """The engine's words, the device, the model once built, and what was free before it."""

    def __init__(self, engine, shape_file):
        words, _, method = engine.partition(":")
        self.engine, self.words, self.method = engine, set(words.split("+")), method or "lora"
        unknown = self.words - {"peft", "compile", "liger", "bf16", "f32"}
        if self.method not in METHODS:
            raise SystemExit(f"peer.py: what is {self.method}?")
        if unknown:
            raise SystemExit(f"peer.py: what is {', '.join(sorted(unknown))}?")
        self.shape = os.path.splitext(os.path.basename(shape_file))[0]
        self.config = {k: v for k, v in json.load(open(shape_file)).items() if k != "model_type"}
        import torch
        self.torch = torch
        self.cuda = torch.cuda.is_available()
        self.device = "cuda" if self.cuda else "cpu"
        if self.cuda:
            torch.zeros(1, device="cuda")
        self.free_before = self.free()
        self.model, self.adapters = None, 0

    def free(self):
        return self.torch.cuda.mem_get_info()[0] if self.cuda else 0

    def sync(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def autocast(self):
        return self.torch.autocast(self.device, dtype=self.torch.bfloat16, enabled=not self.words & {"bf16", "f32"})

    def ids(self, rows, length):
        return self.torch.randint(0, self.config["vocab_size"], (rows, length), device=self.device)

    def build(self):
        """LlamaForCausalLM made on the device, then adapter A; the layers compiled and the loss replaced where asked for."""
        torch = self.torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from peft import get_peft_model
        if "liger" in self.words:
            from liger_kernel.transformers import apply_liger_kernel_to_llama
            apply_liger_kernel_to_llama(rope=False, swiglu=False, rms_norm=False, cross_entropy=False, fused_linear_cross_entropy=True)
        cfg = LlamaConfig(**self.config, bos_token_id=None, eos_token_id=None, pad_token_id=None)
        cfg._attn_implementation = "sdpa"
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float32 if "f32" in self.words or self.method == "full" else torch.bfloat16)
        try:
            with torch.device(self.device):
                base = LlamaForCausalLM(cfg)
        finally:
            torch.set_default_dtype(torch.float32)
        base.generation_config.eos_token_id = None
        base.generation_config.pad_token_id = 0
        self.adapters = 1
        if self.method in ("full", "bitfit"):
            self.model = base
            for name, p in base.named_parameters():
                p.requires_grad_(self.method == "full" or name.endswith(".bias"))
        else:
            with torch.device(self.device):
                self.model = get_peft_model(base, self.adapter(), adapter_name="A")
        self.settle_adapters()
        if "compile" in self.words:
            for layer in base.model.layers:
                layer.compile()

    @staticmethod
    def lora():
        from peft import LoraConfig
        return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")

    def adapter(self):
        import peft
        if self.method == "lora":
            return self.lora()
        if self.method == "dora":
            return peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=True)
        kind = {"ia3": peft.IA3Config, "ln_tuning": peft.LNTuningConfig, "prompt_tuning": peft.PromptTuningConfig, "p_tuning": peft.PromptEncoderConfig, "prefix_tuning": peft.PrefixTuningConfig}[self.method]
        more = {"num_virtual_tokens": VIRTUAL_TOKENS} if self.method in SOFT else {}
        if self.method == "p_tuning":
            more["encoder_hidden_size"] = self.config["hidden_size"]
        return kind(task_type="CAUSAL_LM", **more)

    def activate(self, name):
        if self.method not in ("full", "bitfit"):
            self.model.set_adapter(name)

    def second_adapter(self):
        if self.adapters < 2:
            with self.torch.device(self.device):
                self.model.add_adapter("B", self.lora())
            self.adapters = 2
            self.settle_adapters()

    def settle_adapters(self):
        want = self.torch.bfloat16 if "bf16" in self.words else self.torch.float32
        for name, p in self.model.named_parameters():
            if p.requires_grad or "lora_" in name:
                p.data = p.data.to(want)
        self.activate("A")

    def optimizer(self):
        return self.torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def checkpoint(self, on):
        if on:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()

    def clean(self):
        gc.collect()
        if self.cuda:
            self.torch.cuda.synchronize()
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()

    def forget_compiled(self):
        """Each item compiles for its own shape; how many graphs that took says whether the layers shared one."""
        from torch._dynamo.utils import counters
        made = {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": sum(counters["graph_break"].values())}
        counters.clear()
        self.torch._dynamo.reset()
        return made

    def train(self, optimizer, ids, labels):
        self.model.train()
        with self.autocast():
            loss = self.model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def generate(self, ids, new, **more):
        torch = self.torch
        self.model.eval()
        with torch.inference_mode():
            return self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
                                       use_cache=True, **more)

    def timed(self, step, warm, least, most):
        for _ in range(warm):
            step()
        seconds = []
        while len(seconds) < least or (len(seconds) < most and sum(seconds) < SECONDS_ENOUGH):
            self.sync()
            t = time.perf_counter()
            step()
            self.sync()
            seconds.append(time.perf_counter() - t)
        return seconds


def sft(b, rows, length, level):
    b.checkpoint(level == "block")
    b.activate("A")
    optimizer, ids, losses, more = b.optimizer(), b.ids(rows, length), [], {}
    try:
        seconds = b.timed(lambda: losses.append(b.train(optimizer, ids, ids)), 3 if "compile" in b.words else 2, 3, 8)
    finally:
        for p in b.model.parameters():
            p.grad = None
        b.checkpoint(False)
        if "compile" in b.words:
            more = b.forget_compiled()
    more["trained"] = sum(p.numel() for p in b.model.parameters() if p.requires_grad)
    more["losses"] = [round(float(losses[0]), 4), round(float(losses[-1]), 4)]
    return seconds, rows * length, more


def decode(b, rows, length):
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Stamps(StoppingCriteria):
        """When each token was there: generate asks this after every one, and waits for the card itself."""

        def __init__(self):
            self.t = []

        def __call__(self, input_ids, scores, **kw):
            b.sync()
            self.t.append(time.perf_counter())
            return b.torch.zeros(input_ids.shape[0], dtype=b.torch.bool, device=input_ids.device)

    b.model.set_adapter("A")
    ids, seconds, least = b.ids(rows, length), [], 1e9
    b.generate(ids, 4)
    for _ in range(3):
        stamps = Stamps()
        out = b.generate(ids, NEW_TOKENS, stopping_criteria=StoppingCriteriaList([stamps]))
        if out.shape[1] != length + NEW_TOKENS:
            raise RuntimeError(f"generate gave {out.shape[1] - length} tokens")
        t = stamps.t
        seconds.append((t[-1] - t[0]) / (len(t) - 1))
        least = min([least] + [y - x for x, y in zip(t, t[1:])])
    return seconds, rows, {"ms_least": round(1e3 * least, 3)}


def macct(b, rows):
    length = new = 64
    torch = b.torch
    b.second_adapter()
    source, optimizers, spent = {}, {}, {"generate_s": 0.0, "train_s": 0.0}
    for side in "AB":
        b.model.set_adapter(side)
        source[side], optimizers[side] = b.ids(rows, length), b.optimizer()

    def half(train, gen, n):
        b.sync()
        t0 = time.perf_counter()
        b.model.set_adapter(gen)
        out = b.generate(source[gen], n)
        b.sync()
        t1 = time.perf_counter()
        b.model.set_adapter(train)
        ids = torch.cat([out[:, length:], source[gen]], 1)
        labels = ids.clone()
        labels[:, :n] = -100
        b.train(optimizers[train], ids, labels)
        b.sync()
        spent["generate_s"] += t1 - t0
        spent["train_s"] += time.perf_counter() - t1

    def step(n=new):
        half("A", "B", n)
        half("B", "A", n)

    step(4)
    spent.update(generate_s=0.0, train_s=0.0)
    seconds = b.timed(step, 0, 2, 4)
    return seconds, 2 * rows * 2 * length, {k: round(v / len(seconds), 3) for k, v in spent.items()}


def run_item(b, item):
    if m := re.fullmatch(r"sft:(\d+)x(\d+):([a-z]+)(?::\d+)?", item):
        if m[3] not in ("none", "block"):
            raise RuntimeError(f"no level {m[3]} there")
        return sft(b, int(m[1]), int(m[2]), m[3])
    if m := re.fullmatch(r"decode:(\d+)(?::(\d+))?", item):
        return decode(b, int(m[1]), int(m[2] or 64))
    if m := re.fullmatch(r"macct:(\d+)", item):
        return macct(b, int(m[1]))
    raise RuntimeError("no such item")


def emit(b, item, **kw):
    print("RESULT " + json.dumps(dict(engine=b.engine, shape=b.shape, item=item, **kw)), flush=True)


def reason(e):
    text = " ".join(str(e).split())
    if isinstance(e, ModuleNotFoundError):
        return f"{e.name} is not installed"
    return "out of the card's memory" if "out of memory" in text.lower() else f"{type(e).__name__}: {text[:160]}"


def main():
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    b, items = Bench(sys.argv[1], sys.argv[2]), sys.argv[3:]
    t0 = time.perf_counter()
    try:
        b.build()
    except Exception as e:
        for item in items:
            emit(b, item, error=reason(e))
        return
    b.sync()
    print(f"built in {time.perf_counter() - t0:.1f} s", file=sys.stderr)
    for item in items:
        b.clean()
        t0 = time.perf_counter()
        try:
            seconds, tokens, more = run_item(b, item)
            median = statistics.median(seconds)
            emit(b, item, ms_best=round(1e3 * min(seconds), 3), ms_median=round(1e3 * median, 3), n=len(seconds), tok_s=round(tokens / median, 1),
                 peak_gb=round(b.torch.cuda.max_memory_allocated() * 1e-9, 2) if b.cuda else 0,
                 taken_gb=round((b.free_before - b.free()) * 1e-9, 2) if b.cuda else round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9, 2), wall_s=round(time.perf_counter() - t0, 1), **more)
        except Exception as e:
            emit(b, item, error=reason(e))
            if "CUDA error" in str(e):  # the context is lost; the caller starts the rest anew
                raise SystemExit(3)


if __name__ == "__main__":
    main()
