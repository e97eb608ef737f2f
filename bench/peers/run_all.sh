#!/bin/bash
# Every peer benchmark, one after the other, one process a configuration; RESULT lines go to the log.
#   PY=cache/peer/bin/python bash bench/peers/run_all.sh [LOG]
# MODEL, DATA, GGUF, THREADS as below. About 12 minutes on two quiet cores. LIGHT=1: three steps each.
set -u
cd "$(dirname "$0")"
PY=${PY:-python3} MODEL=${MODEL:-cache/smollm2-hf} DATA=${DATA:-cache/bench} THREADS=${THREADS:-2}
GGUF=${GGUF:-cache/SmolLM2-135M-Instruct.Q4_1.gguf}
LOG=${1:-$DATA/peers.log}
S=7 L=4; [ -n "${LIGHT:-}" ] && S=3 L=3
run() { "$PY" "$@" --data "$DATA" --threads "$THREADS" 2>>"$DATA/errors.log" | tee -a "$LOG"; }
mkdir -p "$DATA"
[ -f "$MODEL/model.safetensors" ] || "$PY" convert.py --gguf "$GGUF" --out "$MODEL" || exit 1
run make_data.py --model "$MODEL"
run bench_startup.py --model "$MODEL"
run bench_sft.py --model "$MODEL" --batch 8 --seq 128 --steps $S
run bench_sft.py --model "$MODEL" --batch 8 --seq 128 --steps $L --gc
run bench_sft.py --model "$MODEL" --batch 4 --seq 512 --steps $L
run bench_generate.py --model "$MODEL" --batches 1
run bench_generate.py --model "$MODEL" --batches 8
run bench_generate.py --model "$MODEL" --batches 8 --lora
run bench_macct.py --model "$MODEL" --steps $L
"$PY" -c 'import llama_cpp' 2>/dev/null && run bench_llamacpp.py --gguf "$GGUF"
exit 0
