#!/bin/bash
# A training step of each method, ours beside PyTorch+PEFT's, in one run: times, their ratio, memory.
#   bench/methods.sh                                   on the processor (sets up the peer in cache/peer: about 6 GB)
#   bench/methods.sh --device cuda                     on a card; --shape 1b, --item sft:4x2048:block, --methods lora,dora
# PEER_PYTHON: an interpreter with torch, transformers and peft. BENCH_CARD: our binary.
set -eu
cd "$(dirname "$0")/.."
python=${PEER_PYTHON:-cache/peer/bin/python}
case " $* " in
*" cuda "*) [ -n "${PEER_PYTHON:-}" ] || [ -x "$python" ] || python=python3 ;;
*)
    if [ ! -x "$python" ]; then
        python3 -m venv cache/peer
        grep -v llama-cpp bench/peers/requirements.txt >cache/peer/wanted.txt
        cache/peer/bin/pip install -q -r cache/peer/wanted.txt
    fi
    ;;
esac
GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-5000} exec "$python" bench/peers/methods.py "$@"
