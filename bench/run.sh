#!/bin/bash
# Ours beside PyTorch+PEFT, in the same run: sets up the peer (about 6 GB) and the data in cache/, then prints one table.
#   bench/run.sh            everything but llama.cpp
#   bench/run.sh llamacpp   batch-1 decoding beside llama.cpp on the same file (builds llama-cpp-python: 15 minutes)
set -eu
cd "$(dirname "$0")/.."
peer=cache/peer model=cache/SmolLM2-135M-Instruct.Q4_1.gguf hf=cache/smollm2-hf data=cache/bench
python=${PEER_PYTHON:-$peer/bin/python}
python3 tools/fetch.py smollm2
if [ ! -x "$python" ]; then
    python3 -m venv $peer
    grep -v llama-cpp bench/peers/requirements.txt >$peer/wanted.txt
    $peer/bin/pip install -q -r $peer/wanted.txt
fi
if [ "${1:-}" = llamacpp ] && ! "$python" -c 'import llama_cpp' 2>/dev/null; then
    "$python" -m pip install -q "$(grep llama-cpp bench/peers/requirements.txt)"
fi
[ -f $hf/model.safetensors ] || "$python" bench/peers/convert.py --gguf $model --out $hf
[ -f $data/sft_128.ids.txt ] || "$python" bench/peers/make_data.py --model $hf --data $data
GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-5000} exec "$python" bench/peers/side_by_side.py --gguf $model --model $hf --data $data "$@"
