#!/bin/bash
# A key in a text four times as long as any that the model was trained on: does it come back? (docs/experiments.md)
#
# A tiny Llama is trained here from random weights, all of it, on texts of up to L tokens. Then for each way of treating positions beyond: what it
# finds at 4 L as it is, after 20 and after 50 steps on texts of up to 4 L, and what is left at L.
set -eu
cd "$(dirname "$0")/.."
cyclora=${CYCLORA:-build/release/cyclora} out=runs/passkey L=32
python3 tools/passkey.py make $out $L
cat > $out/run.yaml <<YAML
model: $out/base
objective: sft
method: full
learning_rate: 2e-3
lr_scheduler_type: linear
adam_beta2: 0.98
per_device_train_batch_size: 64
max_new_tokens: 5
logging_steps: 250
gradient_checkpointing: none
pass_tokens: 2048
YAML

find_keys() { # adapter, length: L or 4L
    "$cyclora" generate --model $out/base --adapter "$1" --file $out/test-$2.jsonl --json --batch 50 --max-new-tokens 5 > $out/said.jsonl
    python3 tools/passkey.py score $out/said.jsonl $out/test-$2.jsonl
}

"$cyclora" train $out/run.yaml --overwrite --set output_dir=$out/short --set data=$out/train.jsonl --set max_steps=1500 --set warmup_steps=50 \
    --set max_length=$L
"$cyclora" merge --model $out/base --adapter $out/short/adapter --out $out/short-hf --type f16 --force > $out/log # tests/golden/passkey
printf '%-10s %-12s at L   ' trained -; find_keys $out/short/adapter L
for type in default linear ntk dynamic yarn; do
    # an adapter is opened with the positions that its folder names
    rm -rf $out/as-is && cp -r $out/short/adapter $out/as-is
    factor=', "factor": 4' settings="--set rope_scaling.rope_type=$type --set rope_scaling.factor=4"
    if [ $type = default ]; then factor='' settings="--set rope_scaling.rope_type=$type"; fi
    echo "{\"rope_scaling\": {\"rope_type\": \"$type\"$factor}, \"length\": $((4 * L))}" > $out/as-is/rope_scaling.json
    printf '%-10s %-12s at 4 L ' $type 'as it is'; find_keys $out/as-is 4L
    for steps in 20 50; do
        "$cyclora" train $out/run.yaml --overwrite --set output_dir=$out/$type-$steps --set data=$out/tune.jsonl --set adapter=$out/short/adapter \
            --set max_steps=$steps --set learning_rate=5e-4 --set per_device_train_batch_size=32 --set max_length=$((4 * L)) $settings > $out/log 2>&1
        printf '%-10s %-12s at 4 L ' $type "$steps steps"; find_keys $out/$type-$steps/adapter 4L
        printf '%-10s %-12s at L   ' $type "$steps steps"; find_keys $out/$type-$steps/adapter L
    done
done
