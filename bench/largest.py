#!/usr/bin/env python3
"""What fits how much memory: each row of the table is a run under a limit, trained for two steps, with what was planned, what was measured, and the line
that is furthest from its plan.

  bench/largest.py                     all rows; all but the last two want a card
  bench/largest.py bf16-20 long        these; --set KEY=VALUE as `cyclora train` has it
  bench/largest.py --plan h200         plans alone, for a card that need not be here
CYCLORA: our program (build/release/cyclora). Wants what tools/fetch.py smollm2 and bible get. Ends with 1 if anything took more than was planned.

dmcct-*: two whole models of 1 G. bf16, nf4, q4_k: MACCT in what they take; *-20: in 20 GB. Its base is random, in 8B's shape with more or fewer layers and
SmolLM2's 49,152 tokens; two adapters of r 85 on all linear layers (3 % each), one row of up to 512 tokens. long*: QLoRA of 8B on a row of 90,000 tokens.
The last two, on the processor: MACCT on SmolLM2, and on 1.07 G of random weights; r 16, 8 rows of up to 32 tokens and 30 new ones."""
import argparse, json, subprocess, sys, tempfile
from planned import CYCLORA, SMOL, furthest

COMMON = ["max_steps=2", "save_steps=0", "logging_steps=1", "seed=7", "dtype=bfloat16", "max_length=512", "per_device_train_batch_size=1", "pass_tokens=512"]
SIDES = ["A.prompt=Old: {text}\\nModern:", "B.prompt=Modern: {text}\\nOld:", "max_new_tokens=64"]
ADAPTERS = COMMON + SIDES + ["objective=macct", "lora.target_modules=all-linear"]
MACCT = ADAPTERS + ["lora.r=85", "lora.lora_alpha=85", "gradient_checkpointing=block"]
SMALL = ADAPTERS + ["lora.r=16", "lora.lora_alpha=32", "device=cpu", "dtype=float32", "kv_cache_dtype=float16", "per_device_train_batch_size=8", "pass_tokens=0",
                    "max_length=62", "max_new_tokens=30"]
DMCCT = COMMON + SIDES + ["objective=dmcct", "method=full", "gradient_checkpointing=block", "max_grad_norm=0"]
LONG = COMMON + ["objective=text", "max_length=90000", "lora.lora_alpha=16", "lora.target_modules=all-linear", "gradient_checkpointing=offload",
                 "rope_scaling.rope_type=linear", "rope_scaling.factor=11"]
IN_BACKWARD = ["optimizer_in_bwd=true", "max_grad_norm=0"]
IDLE = ["offload_optimizer=idle"]
# name: limit, what the weights are, the shape ("": SmolLM2 itself), its layers (0: as they are), settings; of two of a key the later holds
ROWS = {
    "dmcct-bf16": ("", "bf16", "1b", 15, DMCCT + ["trained_dtype=bfloat16"]),
    "dmcct-f32": ("", "f32", "1b", 15, DMCCT),
    "bf16": ("24.7GB", "bf16", "8b", 36, MACCT),
    "nf4": ("24.7GB", "nf4", "8b", 71, MACCT),
    "q4_k": ("24.7GB", "q4_k", "8b", 69, MACCT),
    "bf16-20": ("20GB", "bf16", "8b", 32, MACCT + IDLE),
    "nf4-20": ("20GB", "nf4", "8b", 63, MACCT + IN_BACKWARD + ["quantization_modules=[embed_tokens=nf4]"]),
    "nf4-20-idle": ("20GB", "nf4", "8b", 77, MACCT + IDLE),
    "nf4-20-8bit": ("20GB", "nf4", "8b", 91, MACCT + IN_BACKWARD + IDLE + ["optim=adamw_8bit", "quantization_modules=[lm_head=nf4]"]),
    "long": ("24GB", "nf4", "8b", 0, LONG + ["lora.r=16"]),
    "long-r32": ("24GB", "nf4", "8b", 0, LONG + ["lora.r=32"]),
    "smollm2": ("360MB", "q4_1", "", 0, SMALL + ["gradient_checkpointing=auto"]),
    "q4_0-1b": ("2GB", "q4_0", "1b", 16, SMALL + ["gradient_checkpointing=block"]),
}


def texts(source, at_least, count):
    """So many texts: verses, one after the other until there are so many characters."""
    verses = [json.loads(line)["text"] for line in open(source)]
    out, at = [], 0
    for _ in range(count):
        text = ""
        while len(text) < at_least:
            text += verses[at % len(verses)] + " "
            at += 1
        out.append(text.strip())
    return "".join(json.dumps({"text": text}) + "\n" for text in out)


def write(path, what):
    with open(path, "w") as f:
        f.write(what)
    return path


def base_of(row, folder):
    _, kind, shape, layers, _ = row
    if not shape:
        return [f"model={SMOL}"]
    tokenizer = [CYCLORA, "convert", SMOL, f"{folder}/base", "--type", "bf16"]
    subprocess.run(tokenizer, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    config = json.load(open(f"bench/shapes/{shape}.json"))
    if layers:
        config["vocab_size"], config["num_hidden_layers"] = 49152, layers
    made = kind if kind in ("bf16", "f32", "q4_0") else "bf16"  # the others are quantised as they are brought over
    return [f"model=random:7:{made}", f"quantization={'none' if kind == made else kind}", "model_config=" + write(f"{folder}/config.json", json.dumps(config)),
            f"tokenizer={folder}/base/tokenizer.json"]


def data_of(sets, folder):
    if "objective=text" in sets:
        return ["A.data=" + write(f"{folder}/long.jsonl", texts("cache/bible/a.jsonl", 500000, 1)), "A.format=document"]
    size = (1, 64) if "device=cpu" in sets else (1300, 8)
    return [f"{side}.data=" + write(f"{folder}/{side}.jsonl", texts(f"cache/bible/{side.lower()}.jsonl", *size)) for side in "AB"]


def sets_of(row, folder):
    limit, sets = row[0], row[-1]
    return sets + base_of(row, folder) + data_of(sets, folder) + [f"output_dir={folder}/run"] + ([f"memory={limit}"] if limit else [])


def main():
    args = argparse.ArgumentParser(usage=__doc__.replace("%", "%%"))
    args.add_argument("rows", nargs="*")
    args.add_argument("--plan", metavar="DEVICE")
    args.add_argument("--set", action="append", default=[])
    args = args.parse_args()
    above = 0
    print(f"{'run':12} {'limit':>7} {'base':>5} {'weights':>8} {'planned':>8} " + ("" if args.plan else f"{'measured':>9} {'share':>8}   s a step, the line that is furthest from its plan"))
    for name in args.rows or ROWS:
        with tempfile.TemporaryDirectory() as folder:
            sets = sets_of(ROWS[name], folder) + args.set
            if args.plan and "device=cpu" not in sets:
                sets.append(f"device={args.plan}")
            command = [CYCLORA, "plan" if args.plan else "train", write(f"{folder}/run.yaml", "# all of it is set by the command\n"), "--json" if args.plan else "--quiet"]
            for one in sets:
                command += ["--set", one]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                print(f"{name:12} not run: {(run.stderr.strip().splitlines() or ['?'])[-1][:300]}")
                above += 1
                continue
            plan = json.loads(run.stdout) if args.plan else json.load(open(f"{folder}/run/report.json"))["plan"]
            total, line = plan["total"], f"{name:12} {ROWS[name][0] or '-':>7} {ROWS[name][1]:>5} {plan['model']['parameters'] / 1e9:6.2f} G {plan['total'] / 1e9:8.3f}"
            if args.plan:
                print(line, flush=True)
                continue
            took = plan["peak_resident"]
            seconds = [json.loads(l).get("seconds") for l in open(f"{folder}/run/metrics.jsonl")]
            more, worst = furthest(plan)
            above += more
            print(f"{line} {took / 1e9:9.3f} {100 * took / total:6.1f} %   {[s for s in seconds if s][-1]:7.2f}   {worst}", flush=True)
    return above > 0


if __name__ == "__main__":
    sys.exit(main())
