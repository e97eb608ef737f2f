#!/bin/bash
# A merge beside the disk: a random model of a shape is written once, an adapter trained on it for a step, then in turn, ROUNDS (3) times:
# dd of the same bytes with fsync, the merge, the merge with its check, a conversion that only copies. Prints MB/s of each, best and all.
#   bench/merge.sh [SHAPE (1b)] [FOLDER (cache/bench/merge)]     needs three times the model's bytes there
set -eu
cd "$(dirname "$0")/.."
shape=${1:-1b} out=${2:-cache/bench/merge} cyclora=build/release/cyclora
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-5000}
python3 tools/fetch.py smollm2
mkdir -p "$out"
tokens=$out/tokens/tokenizer.json
[ -f "$out/base/model.safetensors" ] || "$cyclora" convert random:1:bf16 "$out/base" --model-config "bench/shapes/$shape.json" --no-check >/dev/null
[ -f "$tokens" ] || { "$cyclora" convert cache/SmolLM2-135M-Instruct.Q4_1.gguf "$out/tokens" --no-check >/dev/null; rm "$out/tokens/model.safetensors"; }
if [ ! -f "$out/run/adapter/adapter_model.safetensors" ]; then
    echo '{"prompt": "The river", "completion": " rose slowly in the night."}' >"$out/row.jsonl"
    printf '%s\n' "objective: sft" "model: $out/base" "tokenizer: $tokens" "data: $out/row.jsonl" "output_dir: $out/run" "max_steps: 1" "max_length: 24" "pass_tokens: 64" \
        "per_device_train_batch_size: 1" "lora: {r: 16, lora_alpha: 32, target_modules: all-linear}" >"$out/run.yaml"
    "$cyclora" train "$out/run.yaml" --overwrite --quiet >/dev/null
fi
bytes=$(stat -c %s "$out/base/model.safetensors")
rate() { python3 -c 'import json,sys; o=json.load(sys.stdin)["outputs"][0]; print(round(o["bytes_per_second"]/1e6), o["memory"]["planned"]//1000, o["memory"]["peak"]//1000)'; }
merge() { "$cyclora" merge --model "$out/base" --adapter "$out/run/adapter" --out "$out/merged" --force --json "$@" | rate; }
for round in $(seq "${ROUNDS:-3}"); do
    t=$(date +%s.%N); dd if="$out/base/model.safetensors" of="$out/copy" bs=8M conv=fsync 2>/dev/null; t=$(echo "$(date +%s.%N) - $t" | bc)
    rm "$out/copy"
    echo "dd $(echo "$bytes / $t / 1000000" | bc) 0 0"
    echo "merge $(merge --no-check)"; rm -r "$out/merged"
    echo "merge+check $(merge)"; rm -r "$out/merged"
    echo "copy $("$cyclora" convert "$out/base" "$out/merged" --no-check --force --json | rate)"; rm -r "$out/merged"
done | tee "$out/rounds.txt"
awk -v b="$bytes" '{r[$1] = r[$1] " " $2; if ($2 > best[$1]) best[$1] = $2; if ($4 > peak[$1]) peak[$1] = $4; if ($3) plan[$1] = $3}
    END {printf "%.0f MB written, MB/s\n", b / 1e6; for (k in r) printf "%-12s best %5d  of%s  %s\n", k, best[k], r[k], plan[k] ? "planned " plan[k] " kB, peak " peak[k] " kB" : ""}' "$out/rounds.txt"
