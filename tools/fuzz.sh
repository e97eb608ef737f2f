#!/bin/bash
# Coverage-guided fuzzing of every parser with clang's libFuzzer, SECONDS_EACH (60) each; the committed corpus is the seed.
set -eu
cd "$(dirname "$0")/.."
command -v clang >/dev/null || { echo "clang is needed: apt-get install clang" >&2; exit 1; }
out=build/fuzz; mkdir -p $out
libs=$(pkg-config --cflags --libs jansson libpcre2-8 libutf8proc yaml-0.1)
rooms="src/base/*.c src/io/*.c src/data/*.c src/train/config*.c"
above="src/core/*.c src/ops/*.c src/null/*.c src/peft/*.c src/model/*.c src/gen/adapter.c src/gen/program.c src/export/deltas.c src/export/takers.c"
for f in tests/fuzz/fuzz_*.c; do
    name=$(basename "$f" .c)
    [ -z "${1:-}" ] || [ "$name" = "fuzz_$1" ] || continue # tools/fuzz.sh gguf: that one alone
    parts=$rooms; ! grep -q '"export/' "$f" || parts="src/base/*.c src/io/*.c $above -DFUZZ_WITHOUT_CPU"
    clang -std=c17 -g -O1 -fsanitize=fuzzer,address,undefined -Isrc -Itests -D_GNU_SOURCE -w "$f" $parts -o "$out/$name" $libs -lm
    mkdir -p "$out/corpus-$name"
    echo "== $name"
    "$out/$name" -max_total_time="${SECONDS_EACH:-60}" -verbosity=0 -print_final_stats=1 "$out/corpus-$name" "tests/fuzz/corpus/${name#fuzz_}"
done
