#!/bin/bash
# What cycle training reaches on real tasks, between what it starts from and what it could reach: base, warm start, the warm pairs trained out,
# cycles, and a run that is told every pair; three seeds. Hours on a processor, minutes on a card.
#
#   bench/quality.sh                       all tasks (bible, intents, spanish), all arms, seeds 1 2 3
#   bench/quality.sh bible macct pairs     one task, some arms: macct, pairs (0, 30, 100, 300 warm pairs; a file may have fewer), ablations
#
# JOBS: runs at a time (several small ones share a card well). OUT: where runs go (runs/quality). LIMIT: held-out pairs scored (0: all).
# SEEDS, and CYCLORA (the program) likewise. Each run's report.json has its scores (test).
set -eu
cd "$(dirname "$0")/.."
cyclora=${CYCLORA:-build/release/cyclora} out=${OUT:-runs/quality} jobs=${JOBS:-1} limit=${LIMIT:-0}
tasks="" sets=""
for word; do case $word in bible|intents|spanish) tasks+=" $word" ;; macct|pairs|ablations) sets+=" $word" ;; *) echo "$word: no task and no set of arms" >&2; exit 2 ;; esac; done
tasks=${tasks:-bible intents spanish} sets=${sets:-macct}

data_of() { [ "$1" = spanish ] && echo cache/bible-es || echo "cache/$1"; }
arm() { # task, seed, name, settings...: a run of its own folder, and its log beside it
    local task=$1 seed=$2 name=$3; shift 3
    local to=$out/$task/seed-$seed/$name data; data=$(data_of "$task")
    [ ! -f "$to/report.json" ] || return 0
    mkdir -p "$out/$task/seed-$seed"
    "$cyclora" train "examples/macct-$task.yaml" --overwrite --set output_dir="$to" --set seed="$seed" --set save_steps=0 --set eval.data= --set eval_steps=0 \
        --set test.data=$data/test.jsonl --set test.limit="$limit" --set eval.samples=4 --set generation_batch=64 "$@" >"$to.log" 2>&1 || { echo "$to failed: $(grep -m1 error "$to.log")"; return 1; }
    echo "$to done"
}
warm() { echo "$out/$1/seed-$2/$3"/checkpoint-*; }

# The arms of one task and seed, one after the other: later ones start from the warm start's adapters.
main_arms() {
    local task=$1 seed=$2 cycles control epochs data; data=$(data_of "$1")
    case $task in bible) cycles=120 control=8 epochs=2 ;; intents) cycles=160 control=15 epochs=3 ;; spanish) cycles=200 control=8 epochs=1 ;; esac
    local best="--set eval.data=$data/dev.jsonl --set eval.limit=128 --set metric_for_best_model=chrf"
    arm "$task" "$seed" warm --set max_steps=0
    local from; from=$(warm "$task" "$seed" warm)
    local on="--set A.adapter=$from/A --set B.adapter=$from/B"
    arm "$task" "$seed" control --set max_steps=0 --set warmup_pairs.epochs=$control $best --set eval_steps=8 $on
    arm "$task" "$seed" cycles --set max_steps=$cycles --set warmup_pairs.data= $best --set eval_steps=20 $on
    arm "$task" "$seed" supervised --set max_steps=0 --set warmup_pairs.data=$data/all.jsonl --set warmup_pairs.limit=0 --set warmup_pairs.epochs=$epochs $best --set eval_steps=100
}

# How many pairs are enough? Warm start on k pairs, then the same cycles.
pairs_arms() {
    local task=$1 seed=$2 k from
    arm "$task" "$seed" cycles-0 --set max_steps=100 --set warmup_pairs.data=
    for k in 30 100 300; do
        arm "$task" "$seed" "warm-$k" --set max_steps=0 --set warmup_pairs.limit=$k --set warmup_pairs.epochs=$((k < 64 ? 8 : 4))
        from=$(warm "$task" "$seed" "warm-$k")
        arm "$task" "$seed" "cycles-$k" --set max_steps=100 --set warmup_pairs.data= --set A.adapter="$from/A" --set B.adapter="$from/B"
    done
}

# One setting changed at a time, from the plain warm start; from one of its own where the adapter differs.
ablation() { # task, seed, name, settings
    local task=$1 seed=$2 name=$3 from=warm-plain sets=() s; shift 3
    for s; do sets+=(--set "$s"); done
    case "$*" in *lora.*) from=warm-$name; arm "$task" "$seed" "$from" --set max_steps=0 "${sets[@]}" ;; esac
    from=$(warm "$task" "$seed" "$from")
    arm "$task" "$seed" "ablation-$name" --set max_steps=60 --set warmup_pairs.data= "${sets[@]}" --set A.adapter="$from/A" --set B.adapter="$from/B"
}
each_ablation() { # what is called with the name and the settings of each
    "$@" plain # greedy, as the examples are
    "$@" joint schedule=joint
    "$@" refresh-2 rollout_refresh=2
    "$@" refresh-4 rollout_refresh=4
    "$@" threshold filter.kind=threshold filter.logprob=-0.5 filter.length_ratio=2 filter.copy_rate=0.95
    "$@" weight filter.kind=weight filter.length_ratio=2 filter.copy_rate=0.95
    "$@" sampled generation.temperature=0.7 generation.top_p=0.95
    "$@" r4 lora.r=4 lora.lora_alpha=8
    "$@" r64 lora.r=64 lora.lora_alpha=128
    "$@" attention lora.target_modules=attention
    "$@" mlp lora.target_modules=mlp
}
pool() { # a command, beside others, once there is room
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
    "$@" &
}

declare -A of=([macct]=main_arms [pairs]=pairs_arms)
base() { # task: the base as it is, which no seed changes
    local data; data=$(data_of "$1")
    [ ! -f "$out/$1/base.json" ] || return 0
    mkdir -p "$out/$1"
    "$cyclora" eval "examples/macct-$1.yaml" --json --set eval.data=$data/test.jsonl --set eval.limit="$limit" --set generation_batch=64 >"$out/$1/base.tmp"
    mv "$out/$1/base.tmp" "$out/$1/base.json"
}
for task in $tasks; do
    [ "$task" = spanish ] && need="gemma3 bible-es" || need="smollm2 $task"
    for what in $need; do python3 tools/fetch.py "$what" >/dev/null; done
    for set in $sets; do
        [ "$set" != macct ] || base "$task"
        [ "$set" != ablations ] || { for seed in ${SEEDS:-1 2 3}; do pool arm "$task" "$seed" warm-plain --set max_steps=0; done; wait; }
        for seed in ${SEEDS:-1 2 3}; do
            if [ "$set" = ablations ]; then each_ablation pool ablation "$task" "$seed"; else pool "${of[$set]}" "$task" "$seed"; fi
        done
    done
done
wait
