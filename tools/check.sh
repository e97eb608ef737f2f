#!/bin/bash
# Every test: the layer check, the whole suite, the suite again under ASan and UBSan on the CPU paths; a closing line that counts.
set -u
cd "$(dirname "$0")/.."
log=$(mktemp) && trap 'rm -f "$log"' EXIT
python3 tools/fetch.py smollm2 || exit 1
passed=0 failed=0 skipped=0
stage() { # name, command...: counts cmocka's lines of every program
    local name=$1 rc; shift
    echo "== $name"
    "$@" >"$log" 2>&1; rc=$?
    local p f s
    p=$(grep -cE '^\[ +OK \] |(^|: )\[ +OK \] ' "$log"); f=$(grep -cE '\[ +FAILED +\] [a-z0-9_]+$' "$log"); s=$(grep -cE '\[ +SKIPPED +\] [a-z0-9_]+$' "$log")
    if [ $rc -ne 0 ]; then tail -n 80 "$log"; [ "$f" -gt 0 ] || f=1; fi
    if [ $rc -eq 0 ] && [ "$p" -eq 0 ]; then p=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    echo "   $p passed, $f failed, $s skipped"
}
runnable() { # every script with a #! line can be run as it is
    ! git grep -lI '^#!' -- tools bench .ci tests/golden/make 2>/dev/null | while read -r f; do head -c 2 "$f" | grep -q '^#!' && [ ! -x "$f" ] && echo "$f is not executable"; done | grep .
}
stage "layers" tools/layers.py
stage "claims" tools/claims.py
stage "scripts" runnable
stage "tests" env OMP_NUM_THREADS=2 ctest --test-dir build/release --parallel 2 -LE cuda --verbose --timeout 900 --output-on-failure
if [ "${CHECK_ASAN:-1}" = 1 ]; then
    cmake --preset asan >/dev/null && cmake --build build/asan -- --quiet || failed=$((failed + 1))
    # the real model takes too long under the sanitizers: its path is exercised by the tiny checkpoints; finite differences are numbers of
    # programs that model.methods runs
    stage "tests under ASan and UBSan" env OMP_NUM_THREADS=2 ctest --test-dir build/asan --parallel 2 --verbose --timeout 900 --output-on-failure -E 'smollm2|cipher|differences'
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
