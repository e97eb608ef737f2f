#!/bin/bash
# Cycle training here and as the first Python implementation of MACCT does it (bench/peers/reference_macct.py): the same base, texts, steps,
# rows and warm start; quality per step, seconds a step, peak memory. All adapters are scored by `cyclora eval`, the same way.
#
#   bench/reference.sh                 one seed on the processor
#   SEEDS="1 2 3" DEVICE=cuda DTYPE=bfloat16 LIMIT=0 bench/reference.sh
#
# Arms: reference; settings: ours with its settings (bench/macct-reference.yaml); ours: shuffled, clipped, no dropout, 48 tokens.
# STEPS (24) cycles behind PASSES (4) over 64 pairs, judged every EVERY (8) on LIMIT (64; 0: all) held-out pairs. JOBS (1) runs at a time of
# THREADS (1) each: only what ran alone, or side by side on a machine with as many cores, says anything of time. OUT (runs/reference): where runs
# go, whose finished parts are not run again; PY, CYCLORA: the peer's Python and the program.
set -eu
cd "$(dirname "$0")/.."
cyclora=${CYCLORA:-build/release/cyclora} py=${PY:-cache/peer/bin/python} out=${OUT:-runs/reference} device=${DEVICE:-cpu} dtype=${DTYPE:-float32}
steps=${STEPS:-24} every=${EVERY:-8} limit=${LIMIT:-64} passes=${PASSES:-4} jobs=${JOBS:-1} config=bench/macct-reference.yaml
export OMP_NUM_THREADS=${THREADS:-1}
on=(--set device="$device" --set dtype="$dtype")
for what in smollm2 bible; do python3 tools/fetch.py "$what" >/dev/null; done
[ -d cache/smollm2-hf ] || "$py" bench/peers/convert.py --gguf cache/SmolLM2-135M-Instruct.Q4_1.gguf --out cache/smollm2-hf

timed() { # log, command...: seconds of processor time beside it
    local log=$1 TIMEFORMAT='%U %S'; shift
    { time "$@" >"$log" 2>&1; } 2>"$log.cpu" || { tail -n 3 "$log" >&2; return 1; }
}
ours() { # folder, settings...; what it says of one pair is nothing, all are judged below
    local to=$1; shift
    [ -f "$to/report.json" ] || timed "$to.log" "$cyclora" train $config --overwrite "${on[@]}" --set output_dir="$to" --set save_steps="$every" --set save_total_limit=0 \
        --set eval.data=cache/bible/test.jsonl --set eval.limit=1 "$@"
}
theirs() { # folder, seed, warm start
    [ -f "$1/steps.json" ] || timed "$1.log" "$py" bench/peers/reference_macct.py --warm "$3" --a cache/bible/a.jsonl --b cache/bible/b.jsonl --out "$1" \
        --steps "$steps" --every "$every" --seed "$2" --threads "$OMP_NUM_THREADS" --device "$device" --dtype "$dtype"
}
judge() { # a folder with adapters A and B
    [ -f "$1.json" ] && return
    "$cyclora" eval $config --json --run "$1" "${on[@]}" --set eval.data=cache/bible/test.jsonl --set eval.limit="$limit" --set max_new_tokens=48 --set generation_batch=32 >"$1.tmp"
    mv "$1.tmp" "$1.json"
}
turn() { # in the background, JOBS at a time; what failed is not there for the table, which says so
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
    "$@" &
}
one_seed() { # seed: the warm start, then the arms from it
    local at=$out/seed-$1 warm k; mkdir -p "$at"
    ours "$at/warm" --set seed="$1" --set max_steps=0 --set warmup_pairs.epochs="$passes" --set save_steps=0
    warm=$(echo "$at"/warm/checkpoint-*/) warm=${warm%/}
    local from=(--set seed="$1" --set max_steps="$steps" --set warmup_pairs.data= --set A.adapter="$warm/A" --set B.adapter="$warm/B")
    turn theirs "$at/reference" "$1" "$warm"
    turn ours "$at/settings" "${from[@]}"
    turn ours "$at/ours" "${from[@]}" --set shuffle=true --set max_grad_norm=1 --set lora.lora_dropout=0 --set max_new_tokens=48
    wait
    turn judge "$warm"
    for k in $(seq "$every" "$every" "$steps"); do turn judge "$at/reference/step-$k"; turn judge "$at/settings/checkpoint-$k"; turn judge "$at/ours/checkpoint-$k"; done
    wait
}
for seed in ${SEEDS:-1}; do one_seed "$seed"; done
"$py" bench/peers/reference_table.py "$out"
