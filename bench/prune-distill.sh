#!/bin/bash
# A smaller SmolLM2, as docs/recipes/pruning.md reports it: blocks or feed-forward channels are left out by what texts make least of, then the base
# teaches what is left (objective distill). Perplexity and KL to the base on held-out verses before, after pruning and after distillation.
#   bench/prune-distill.sh              depth: 30 -> 24 blocks; ffn: 1536 -> 1024 channels
#   bench/prune-distill.sh depth        one of them
# TOKENS: 4000, to measure with. STEPS: 24, of ROWS: 8 verses. EVAL: 60, held-out verses. RATE: 2e-4. SET: more settings of the training run
# ("--set dtype=bfloat16"). CYCLORA: our program. Everything goes to $OUT (runs/prune); a table to $OUT/table.md, a picture to $OUT/curve.svg.
set -eu
cd "$(dirname "$0")/.."
cyclora=${CYCLORA:-build/release/cyclora} out=${OUT:-runs/prune} base=cache/smollm2-hf
tokens=${TOKENS:-4000} steps=${STEPS:-24} rows=${ROWS:-8} eval=${EVAL:-60} rate=${RATE:-2e-4}
python3 tools/fetch.py bible
mkdir -p "$out"

# Verses as rows: the first two words are the prompt.
python3 - "$out" <<'PY'
import json, sys
for name, key in (("b", "text"), ("test", "b")):
    with open(f"{sys.argv[1]}/{name}.jsonl", "w") as f:
        for line in open(f"cache/bible/{name}.jsonl"):
            words = json.loads(line)[key].split(" ")
            f.write(json.dumps({"prompt": " ".join(words[:2]), "completion": " " + " ".join(words[2:])}) + "\n")
PY

# The base on the same verses.
cat >"$out/base.yaml" <<YAML
model: $base
objective: sft
data: $out/b.jsonl
eval: {data: $out/test.jsonl, limit: $eval}
output_dir: $out/base-run
YAML
"$cyclora" eval "$out/base.yaml" --json >"$out/base.json"

one() { # NAME OPTIONS...
    local name=$1 to=$out/$1
    shift
    "$cyclora" prune $base "$@" --text cache/bible/b.jsonl --tokens "$tokens" -o "$to" --force --json >"$to.json"
    cat >"$to.yaml" <<YAML
model: $to
objective: distill
teacher.model: $base
distill.alpha: 1
data: $out/b.jsonl
eval: {data: $out/test.jsonl, limit: $eval}
method: full
learning_rate: $rate
lr_scheduler_type: linear
max_steps: $steps
per_device_train_batch_size: $rows
output_dir: $to-run
YAML
    # shellcheck disable=SC2086 # SET is words
    "$cyclora" train "$to.yaml" --overwrite ${SET:-}
}

table() { # NAMES: what the runs themselves measured
    python3 - "$out" "$base" "$@" <<'PY'
import json, sys
out, base, names = sys.argv[1], sys.argv[2], sys.argv[3:]
print("| | parameters | perplexity, pruned | distilled | KL to the base, pruned | distilled | seconds |\n|---|---|---|---|---|---|---|")
print(f"| base | | {json.load(open(f'{out}/base.json'))['sides'][0]['perplexity']:.2f} | | 0 | | |")
for n in names:
    pruned = json.load(open(f"{out}/{n}.json"))["output"]
    lines = [json.loads(l) for l in open(f"{out}/{n}-run/metrics.jsonl")]
    evals = [l for l in lines if "eval_perplexity" in l]
    first, last = evals[0], evals[-1]
    print(f"| {n} | {pruned['parameters'] / 1e6:.1f} -> {pruned['parameters_after'] / 1e6:.1f} million | {first['eval_perplexity']:.2f} | {last['eval_perplexity']:.2f} "
          f"| {first['eval_kl']:.3f} | {last['eval_kl']:.3f} | {sum(l.get('seconds', 0) for l in lines):.0f} |")
PY
}

names=${1:-depth ffn}
for name in $names; do
    case $name in
    depth) one depth --layers 24 ;;
    ffn) one ffn --ffn 1024 ;;
    *) echo "prune-distill.sh: what is '$name'? (depth, ffn)" >&2 && exit 2 ;;
    esac
done
# shellcheck disable=SC2086 # words
table $names | tee "$out/table.md"
awk -F '|' 'BEGIN { OFS = "\t" } NR == 3 { base = $4 } NR > 3 { n = $2; gsub(/ /, "", n); print n, "the base", base + 0; print n, "pruned", $4 + 0; print n, "distilled", $5 + 0 }' "$out/table.md" |
    awk -v title="SmolLM2-135M: pruned, then taught by the base" -v y=perplexity -f bench/curve.awk >"$out/curve.svg"
