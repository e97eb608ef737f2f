#!/bin/bash
# Coverage-guided fuzzing of every parser with clang's libFuzzer, SECONDS_EACH (60) each; the committed corpus is the seed.
set -eu
cd "$(dirname "$0")/.."
command -v clang >/dev/null || { echo "clang is needed: apt-get install clang" >&2; exit 1; }
out=build/fuzz; mkdir -p $out
libs=$(pkg-config --cflags --libs jansson libpcre2-8 libutf8proc yaml-0.1 zlib libzstd)
rooms="src/base/*.c src/io/*.c src/data/source.c src/data/shapes.c src/data/records.c src/data/text_file.c src/data/unpack.c src/data/metrics.c src/data/score.c src/data/symbols.c src/data/ter.c src/data/rouge.c src/data/squad.c src/data/item_score.c src/data/listing.c src/train/config*.c"
library() { # everything, for targets above the rooms of parsers: the processor's kernels need flags of their own, which CMake knows; they parse nothing, and with checks take an hour to compile
    echo 'src:*/src/cpu/*' >$out/plain
    cmake -S . -B $out/library -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER=clang -DCMAKE_C_FLAGS="-O1 -g -w -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fsanitize-ignorelist=$PWD/$out/plain -fsanitize-coverage-ignorelist=$PWD/$out/plain" -DCYC_CUDA=OFF -DBUILD_TESTING=OFF >/dev/null
    cmake --build $out/library --target cyclora -- --quiet
    echo "$out/library/libcyclora.a -fopenmp"
}
for f in tests/fuzz/fuzz_*.c; do
    name=$(basename "$f" .c)
    [ -z "${1:-}" ] || [ "$name" = "fuzz_$1" ] || continue # tools/fuzz.sh gguf: that one alone
    parts=$rooms; ! grep -q '"export/' "$f" || parts=$(library)
    clang -std=c17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Isrc -Itests -D_GNU_SOURCE -w "$f" $parts -o "$out/$name" $libs -lm
    mkdir -p "$out/corpus-$name"
    echo "== $name"
    "$out/$name" -max_total_time="${SECONDS_EACH:-60}" -verbosity=0 -print_final_stats=1 "$out/corpus-$name" "tests/fuzz/corpus/${name#fuzz_}"
done
