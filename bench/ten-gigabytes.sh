#!/bin/bash
# `cyclora data` on a file of ten GB: what each command takes of memory and time.
#
#   bench/ten-gigabytes.sh [command...]   check, stats, dedup, contamination, filter, split (all of them); a line of a table for each
#
# The file holds 30,253 pairs of verses and of intents round after round, each time with sixteen of the letters exchanged for one another in a way of
# its own: records are as long and as varied as real ones, and those of one round are unlike another's. Of each round 1,500 records stand there twice
# and 1,500 more with a word added. OUT: where all goes (runs/ten-gigabytes; 20 GB of room, and TMPDIR 10), BYTES: of the file, CYCLORA: the program.
# Needs tools/fetch.py bible bible-es intents.
set -eu
cd "$(dirname "$0")/.."
cyclora=${CYCLORA:-build/release/cyclora} out=${OUT:-runs/ten-gigabytes} bytes=${BYTES:-10000000000}
mkdir -p "$out"
file=$out/all.jsonl

letters=ghijklmopqsvwxyz # of no key and no escape
ways() {                 # a permutation of the letters for each round, without end
    awk -v letters=$letters 'BEGIN {
        for (;;) {
            for (i = 0; i < 16; i++) way[i] = substr(letters, i + 1, 1)
            for (i = 15; i; i--) { x = (x * 69069 + 12345) % 16777216; k = int(x / 16777216 * (i + 1)); t = way[i]; way[i] = way[k]; way[k] = t }
            for (i = 0; i < 16; i++) printf "%s", way[i]
            print ""
        }
    }'
}
rounds() {
    while read -r way; do
        tr $letters "$way" <"$out/pairs" >"$out/round"
        { cat "$out/round" && sed -n -e '1,1500p' -e '1501,3000s/"}$/ indeed"}/p' "$out/round"; } 2>/dev/null || return 0 # enough
    done
}
if ! [ -f "$file" ]; then
    sed 's/, "ref": "[^"]*"}$/}/' cache/{bible,bible-es,intents}/all.jsonl >"$out/pairs"
    ways | rounds | head -c "$bytes" | sed '$d' >"$file.part"
    mv "$file.part" "$file"
fi
[ -f "$out/test.jsonl" ] || cat cache/{bible,bible-es,intents}/test.jsonl >"$out/test.jsonl"

measure() { # NAME ARGUMENT...: what `cyclora data ARGUMENT...` takes
    /usr/bin/time -o "$out/$1.time" -f "| $1 | %M kB | %U s user, %S s system, %e s |" "$cyclora" data "${@:2}" >"$out/$1.txt"
    cat "$out/$1.time"
}
printf '%s bytes, %s records\n' "$(stat -c %s "$file")" "$(wc -l <"$file")"
for command in ${*:-check stats dedup contamination filter split}; do
    rm -rf "$out/out" && mkdir "$out/out" # what a command writes goes when it has been measured
    case $command in
    check | stats) measure "$command" "$command" "$file" --field a,b ;;
    dedup) measure dedup dedup "$file" --field a,b -o "$out/out/kept.jsonl" ;;
    contamination) measure contamination contamination "$file" --field a,b --against "$out/test.jsonl" ;;
    filter) measure filter filter "$file" --field a,b --min-chars 40 --max-repeated 0.3 -o "$out/out/kept.jsonl" ;;
    split) measure split split "$file" --field a,b --out "$out/out/parts" ;;
    esac
done
rm -rf "$out/out"
