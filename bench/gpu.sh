#!/bin/bash
# Ours beside PyTorch+PEFT on a card, in the same run: one table, and its figures as JSON lines in cache/bench-gpu.jsonl.
#   bench/gpu.sh                                       everything (about 20 minutes)
#   bench/gpu.sh --shapes 8b --items decode,macct      some shapes, some kinds of work or single items
#   bench/gpu.sh --engines cyclora,peft --limit 100    some engines; seconds each may take
# BENCH_CARD: our binary (build/release/bench_card). PEER_PYTHON: an interpreter with torch and transformers, and peft and
# liger-kernel (or a PYTHONPATH with them); what is missing is a row that says so. Nothing touches the card's settings.
set -eu
cd "$(dirname "$0")/.."
python=${PEER_PYTHON:-python3}
[ -n "${PEER_PYTHON:-}" ] || [ ! -x cache/peer/bin/python ] || python=cache/peer/bin/python
mkdir -p cache
exec "$python" bench/peers/gpu/side_by_side.py --json "${BENCH_JSON:-cache/bench-gpu.jsonl}" "$@"
