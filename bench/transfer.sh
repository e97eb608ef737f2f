#!/bin/bash
# What an adapter of a related task is worth to one of few examples: intents of timers, media, climate and vacuums are the source; intents of lights,
# switches, lists, volume, fans and weather, none of whose names the source has, are the target. The target is learnt from 30, 100 and 300 examples,
# from scratch and from the source's adapter (init_from), three seeds each; two tables by `cyclora compare`, and the curve (curve.svg).
#
#   bench/transfer.sh [setting=value...]   settings go over examples/transfer.yaml, for all runs
#
# OUT: where all goes (runs/transfer). SEEDS, SIZES, SOURCE_STEPS, and CYCLORA (the program) likewise. Needs tools/fetch.py minilm intent-classes.
set -eu
cd "$(dirname "$0")/.."
cyclora=${CYCLORA:-build/release/cyclora} out=${OUT:-runs/transfer} from=cache/intent-classes
seeds=${SEEDS:-3} sizes=${SIZES:-30 100 300} source_steps=${SOURCE_STEPS:-150}
sets=() && for s; do sets+=(--set "$s"); done
source='"label": "[A-Za-z]*(Timer|Media|Climate|Vacuum|LawnMower)'
mkdir -p "$out"
grep -E "$source" $from/train.jsonl > "$out/source.jsonl"
grep -vE "$source" $from/train.jsonl > "$out/target.jsonl"
grep -vE "$source" $from/test.jsonl > "$out/target-test.jsonl"
labels=$(sed 's/.*"label": "\([A-Za-z]*\)".*/\1/' "$out/target.jsonl" | sort -u | paste -sd,)
files="" && for n in $sizes; do head -n "$n" "$out/target.jsonl" > "$out/target-$n.jsonl"; files+=,$out/target-$n.jsonl; done
first=$out/target-${sizes%% *}.jsonl files=${files#,"$first"} # the plain row is the first size, the sweep has the others

[ -f "$out/source/report.json" ] || "$cyclora" train examples/transfer.yaml --overwrite --set init_from= --set output_dir="$out/source" --set data="$out/source.jsonl" \
    --set test.data= --set max_steps="$source_steps" "${sets[@]}"
for arm in scratch transfer; do
    [ $arm = scratch ] && from= || from=$out/source
    "$cyclora" compare examples/transfer.yaml --methods lora ${files:+--sweep "lora.data=${files#,}"} --lr lora=2e-3 --seeds "$seeds" --out "$out/$arm" \
        --set "labels=[$labels]" --set init_from="$from" --set data="$first" --set test.data="$out/target-test.jsonl" "${sets[@]}"
done

python3 - "$out" $sizes <<'PY' >"$out/curve.tsv"
import json, sys
for arm, name in ("scratch", "from scratch"), ("transfer", "from the source"):
    for size, cell in zip(sys.argv[2:], json.load(open(f"{sys.argv[1]}/{arm}/compare.json"))["cells"]):
        a = cell["metrics"]["accuracy"]
        print(name, size, round(100 * a["mean"], 1), round(100 * a.get("sd", 0), 1), sep="\t")
PY
awk -v title="13 intents, $seeds seeds: where an adapter begins" -v x=examples -v y="accuracy %" -f bench/curve.awk "$out/curve.tsv" >"$out/curve.svg"
