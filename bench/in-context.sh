#!/bin/bash
# Examples in the prompt or in an adapter? Which of ten intents is a voice command of: SmolLM2 with 0, 1, 3 and 5 examples before the command, and with a
# LoRA that was trained on the same prompts with their answers; one table by `cyclora eval --task` (docs/recipes/in-context.md).
#
#   bench/in-context.sh [setting=value...]   settings go over the adapter's training
#
# EXAMPLES: training rows (64). LIMIT: held-out commands (64 of 134). CYCLORA: the program. Needs tools/fetch.py smollm2 intent-classes.
set -eu
cd "$(dirname "$0")/.."
cyclora=${CYCLORA:-build/release/cyclora} out=runs/in-context from=cache/intent-classes model=cache/SmolLM2-135M-Instruct.Q4_1.gguf
examples=${EXAMPLES:-64} limit=${LIMIT:-64}
sets=() && for s; do sets+=(--set "$s"); done
ten='"label": "(DecreaseTimer|FanSetSpeed|IncreaseTimer|ListCompleteItem|ListRemoveItem|MediaUnpause|PauseTimer|SetVolume|TurnOff|TurnOn)"'
mkdir -p "$out"
for part in train test; do grep -E "$ten" $from/$part.jsonl > "$out/$part.jsonl"; done
head -n "$examples" "$out/train.jsonl" | sed 's/{"text": "\(.*\)", "label": "\(.*\)"}/{"prompt": "Command: \1\\nIntent:", "completion": " \2"}/' > "$out/sft.jsonl"

"$cyclora" train --overwrite examples/sft.yaml --set model=$model --set data="$out/sft.jsonl" --set output_dir="$out/lora" --set max_steps=16 \
    --set per_device_train_batch_size=16 --set gradient_accumulation_steps=1 --set max_length=64 --set learning_rate=1e-3 "${sets[@]}"
"$cyclora" eval --model $model --task examples/tasks/intents.yaml --limit "$limit" --shots 0,1,3,5 --compare "$out/lora/adapter"
