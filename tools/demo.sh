#!/bin/bash
# The demonstration: two LoRA adapters on one frozen SmolLM2-135M by cycle consistency, on real text, beside an honest control.
#
#   demo.sh demo TASK          a shorter run (about 12 minutes on two cores without AVX-512)
#   demo.sh experiment TASK    43 (bible) or 82 (intents) cycles and a long control, for three seeds
#
# Three runs a seed, all scored on the same held-out pairs that no training saw:
#   warm      both directions on 64 pairs, 4 passes
#   control   goes on from `warm` on the same pairs, to its best score on the dev pairs
#   cycles    goes on from `warm` on unpaired text alone
set -eu
cd "$(dirname "$0")/.."
mode=$1 task=$2
cyclora=build/release/cyclora
config=examples/macct-$task.yaml data=cache/$task
[ -f "$config" ] || { echo "TASK=$task is not known (bible, intents)" >&2; exit 2; }
case $mode-$task in
demo-bible)         cycles=15 control=4  every=8 test=64  seeds=1 ;;
demo-intents)       cycles=24 control=6  every=8 test=64  seeds=1 ;;
experiment-bible)   cycles=43 control=8  every=4 test=0   seeds=${SEEDS:-1 2 3} ;;
experiment-intents) cycles=82 control=15 every=4 test=0   seeds=${SEEDS:-1 2 3} ;;
esac
python3 tools/fetch.py smollm2
python3 tools/fetch.py "$task"

train() { # name, settings...
    local name=$1; shift
    echo; echo "== $name"
    "$cyclora" train "$config" --overwrite --set output_dir="$out/$name" --set seed="$seed" --set eval.samples="$samples" \
        --set save_steps=0 --set test.data="$data/test.jsonl" --set test.limit="$test" "$@"
}

for seed in $seeds; do
    out=runs/$mode-$task/seed-$seed samples=0
    if [ "$seed" = 1 ]; then echo "== the plan"; "$cyclora" plan "$config" --set output_dir="$out/cycles" --set eval.data= --set eval_steps=0; fi
    train warm --set max_steps=0 --set eval.data= --set eval_steps=0
    from=$(ls -d "$out"/warm/checkpoint-*) # the adapters with their optimizers
    train control --set max_steps=0 --set warmup_pairs.epochs="$control" --set eval.data="$data/dev.jsonl" --set eval.limit=48 \
        --set eval_steps=$every --set metric_for_best_model=chrf --set A.adapter="$from/A" --set B.adapter="$from/B"
    samples=4
    train cycles --set max_steps="$cycles" --set warmup_pairs.data= --set eval.data= --set eval_steps=0 \
        --set A.adapter="$from/A" --set B.adapter="$from/B"
    echo; echo "== held-out pairs that no training saw (seed $seed)"
    "$cyclora" compare "$out/warm" "$out/control" "$out/cycles"
done
