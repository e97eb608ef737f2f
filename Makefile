# Two commands set everything up on a fresh Debian machine: `make demo` and `make check`.
BUILD := build/release
TASK ?= bible
.PHONY: all setup build demo experiment passkey check plan-sweep plan-examples kill-sweep check-exports check-llamacpp check-tensorboard asan fuzz bench bench-llamacpp bench-gpu bench-methods bench-precision bench-largest compare format lint oracles docs clean

all: build

setup:             ## Debian packages that are missing
	@tools/setup.sh

$(BUILD)/build.ninja:
	@cmake --preset release >/dev/null

build: setup $(BUILD)/build.ninja  ## the library, the CLI, the tests, the benchmarks
	@cmake --build $(BUILD) -- --quiet
	@ln -sf $(BUILD)/compile_commands.json compile_commands.json

demo: build        ## MACCT on a real model and real text, in minutes (TASK=bible or intents)
	@tools/demo.sh demo $(TASK)

experiment: build  ## the same, in full: 43 cycles and a long control, three seeds
	@tools/demo.sh experiment $(TASK)

passkey: build     ## a tiny model trained here finds a key at four times its length, by RoPE scaling (minutes)
	@tools/passkey.sh

check: build       ## every test
	@tools/check.sh

plan-sweep: build  ## 200 random settings near a memory limit: what fits runs within its plan, what is refused would not have
	@CYC_PLAN_SWEEP=200 OMP_NUM_THREADS=1 $(BUILD)/tests/test_plan

plan-examples: build  ## each example for three steps: what it took beside what was planned, line by line (wants what tools/fetch.py gets)
	@bench/planned.py

kill-sweep: build  ## a run killed (SIGKILL) at 50 random instants ends with the same bytes each time; a full disk while a checkpoint is written
	@tools/kill-sweep

check-exports: build  ## PEFT, transformers and the gguf package read what we export (installs them into cache/peer)
	@tools/check-loads.sh exports

check-llamacpp: build ## llama.cpp runs our merged GGUF and GGUF LoRA and continues as we do (builds it: 15 minutes)
	@tools/check-loads.sh llamacpp

check-tensorboard: build ## the tensorboard package reads our event files as metrics.jsonl has them (installs it into cache/peer)
	@tools/check-loads.sh tensorboard

asan: setup        ## address and undefined-behaviour sanitizers
	@cmake --preset asan >/dev/null && cmake --build build/asan -- --quiet

fuzz: setup        ## coverage-guided fuzzing, a minute a parser
	@tools/fuzz.sh

bench: build       ## ours beside PyTorch+PEFT, in the same run (installs the peer into cache/peer)
	@bench/run.sh

bench-llamacpp: build ## batch-1 decoding beside llama.cpp on the same file (builds it: 15 minutes)
	@bench/run.sh llamacpp

bench-gpu: build    ## ours beside PyTorch+PEFT on this machine's card (GPU_ARGS="--shapes 8b --items decode" for a part)
	@bench/gpu.sh $(GPU_ARGS)

bench-methods: build ## a step of each method, ours beside PEFT's (METHODS_ARGS="--device cuda --methods lora,dora")
	@bench/methods.sh $(METHODS_ARGS)

bench-precision: build ## memory and tokens/s of float32, tf32, float16, bfloat16, fp8 on this machine (PRECISION_ARGS="--shapes 135m,8b")
	@bench/precision.py $(PRECISION_ARGS)

bench-largest: build ## the largest bases in 20 GB, and in the memory of two whole models; 90,000 tokens of 8B in 24 GB (LARGEST_ARGS="--plan h200" for plans alone)
	@python3 tools/fetch.py smollm2 && python3 tools/fetch.py bible
	@bench/largest.py $(LARGEST_ARGS)

compare: build      ## the methods on two real tasks, three seeds each: hours on a processor, a quarter of an hour on a card
	@python3 tools/fetch.py smollm2 && python3 tools/fetch.py intent-classes && python3 tools/fetch.py bible-pairs
	@bench/compare.sh

docs: build        ## docs/config.md from the schema
	@$(BUILD)/cyclora help config --markdown > docs/config.md

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	@rm -rf build
