#!/bin/bash
# Do other loaders read what we export? Sets up their packages in cache/peer, then runs the scripts of tests/golden/make by hand.
#   tools/check-loads.sh exports    PEFT, transformers, the gguf package; mlx by keys and shapes
#   tools/check-loads.sh llamacpp   llama.cpp continues as cyclora does, and reads every family that crosses or was pruned (builds llama-cpp-python where it is missing: 15 minutes)
#   tools/check-loads.sh tensorboard  the tensorboard package reads our event files as metrics.jsonl has them
set -eu
cd "$(dirname "$0")/.."
peer=cache/peer model=cache/SmolLM2-135M-Instruct.Q4_1.gguf hf=cache/smollm2-hf
python=${PEER_PYTHON:-$peer/bin/python}
python3 tools/fetch.py smollm2
if [ ! -x "$python" ]; then
    python3 -m venv $peer
    grep -v llama-cpp bench/peers/requirements.txt >$peer/wanted.txt
    $peer/bin/pip install -q -r $peer/wanted.txt
fi
[ -f $hf/model.safetensors ] || "$python" bench/peers/convert.py --gguf $model --out $hf
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}
case "${1:-exports}" in
exports)
    "$python" tests/golden/make/exports_load.py --gguf $model --hf $hf
    "$python" -c 'import bitsandbytes' 2>/dev/null || "$python" -m pip install -q bitsandbytes
    "$python" tests/golden/make/quantised_loads.py --hf $hf
    exec "$python" tests/golden/make/peft_loads.py --gguf $model --hf $hf
    ;;
llamacpp)
    "$python" -c 'import llama_cpp' 2>/dev/null || "$python" -m pip install -q "$(grep llama-cpp bench/peers/requirements.txt)"
    "$python" tests/golden/make/crossing_loads.py
    "$python" tests/golden/make/prune_loads.py
    "$python" tests/golden/make/tokenizer_loads.py
    exec "$python" tests/golden/make/llamacpp_loads.py --gguf $model
    ;;
tensorboard)
    "$python" -c 'import tensorboard' 2>/dev/null || "$python" -m pip install -q tensorboard
    exec "$python" tests/golden/make/tensorboard_loads.py
    ;;
*) echo "tools/check-loads.sh exports | llamacpp | tensorboard" >&2 && exit 2 ;;
esac
