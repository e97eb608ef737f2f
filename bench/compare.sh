#!/bin/bash
# Methods beside each other on two real tasks, as docs/methods.md ("Compared") reports them: for each task a learning rate for each method, the
# best of three on the dev part with one seed, and then three seeds of every method and of LoRA over ranks and modules.
#   bench/compare.sh                      both tasks
#   bench/compare.sh classification       one of them: classification, generation
#   bench/compare.sh generation tune      only the learning rates; run: only the comparison, with the rates that were found (or the usual ones)
# DEVICE: auto. SEEDS: 3. RATES: "--lr lora=1e-3 ..." where no tuning has left any. SET: more settings for all runs ("--set max_steps=2
# --set test.limit=8"), to try the script. CYCLORA: our program.
# Runs go to runs/compare-TASK and runs/tune-TASK, where the same command goes on after an interruption; what is to be kept (tables, JSON, plots,
# rates) is copied to $OUT (runs/compare).
set -eu
cd "$(dirname "$0")/.."
cyclora=${CYCLORA:-build/release/cyclora} device=${DEVICE:-auto} seeds=${SEEDS:-3} out=${OUT:-runs/compare}
tasks=${1:-classification generation} stage=${2:-all}
mkdir -p "$out" runs

keep() { # FOLDER NAME
    for kind in md json svg; do [ ! -f "$1/compare.$kind" ] || cp "$1/compare.$kind" "$out/$2.$kind"; done
}

best() { # FOLDER: "--lr METHOD=RATE" of the row of each method that was best there
    python3 - "$1/compare.json" <<'PY'
import json, sys
found = json.load(open(sys.argv[1]))
key, sign, rows = found["metric"], -1 if found["lower_is_better"] else 1, {}
for cell in found["cells"]:
    if key in cell.get("metrics", {}):
        rows.setdefault(cell["method"], []).append((sign * cell["metrics"][key]["mean"], -cell["metrics"]["loss"]["mean"], cell["learning_rate"]))
print(" ".join(f"--lr {method}={max(row)[2]:g}" for method, row in rows.items()))
PY
}

tune() { # TASK METHODS: rates from each method's usual one up
    local sweeps=() spec
    for spec in head=3e-3,1e-2,3e-2,1e-1 prompt=1e-2,3e-2,1e-1,3e-1 prefix=1e-2,3e-2,1e-1 ia3=3e-3,1e-2,3e-2 norms=1e-3,3e-3,1e-2 lora=5e-4,1.5e-3,5e-3 dora=5e-4,1.5e-3,5e-3 full=5e-5,1.5e-4,5e-4; do
        case ",$2," in *",${spec%%=*},"*) sweeps+=(--sweep "${spec%%=*}.learning_rate=${spec#*=}") ;; esac
    done
    "$cyclora" compare "examples/compare-$1.yaml" --methods "$2" "${sweeps[@]}" --seeds 1 --score 0 --out "runs/tune-$1" --device "$device" --set "test.data=$3" ${SET:-}
    keep "runs/tune-$1" "tune-$1"
    best "runs/tune-$1" | tee "runs/tune-$1/rates" "$out/rates-$1.txt"
}

compare() { # TASK METHODS
    local rates=${RATES:-}
    [ ! -f "runs/tune-$1/rates" ] || rates=$(cat "runs/tune-$1/rates")
    trap "keep runs/compare-$1 compare-$1" EXIT # an interrupted one's rows too
    # shellcheck disable=SC2086 # the rates and SET are words
    "$cyclora" compare "examples/compare-$1.yaml" --methods "$2" --sweep r=4,16,64 --sweep target_modules=attention,mlp,all-linear --seeds "$seeds" --out "runs/compare-$1" --device "$device" $rates ${SET:-}
    keep "runs/compare-$1" "compare-$1"
}

for task in $tasks; do
    case $task in
    classification) methods=head,prompt,prefix,ia3,norms,lora,dora,full dev=cache/intent-classes/dev.jsonl all=head,head:max_steps=3000,prompt,prefix,ia3,bitfit,norms,lora,dora,full ;;
    generation) methods=prompt,prefix,ia3,norms,lora,dora,full dev=cache/bible-pairs/dev.jsonl all=head,prompt,prefix,ia3,bitfit,norms,lora,dora,full ;;
    *) echo "compare.sh: what is '$task'? (classification, generation)" >&2 && exit 2 ;;
    esac
    [ "$stage" = run ] || tune "$task" "$methods" "$dev"
    [ "$stage" = tune ] || compare "$task" "$all"
done
