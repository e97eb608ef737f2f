#!/usr/bin/env python3
"""The layer check: which room of src/ may include which (docs/tour.md). An include against the directions fails."""
import pathlib, re, sys

MAY = {
    "base": {"base"},
    "core": {"base", "core"},
    "ops": {"base", "core", "ops"},
    "cpu": {"base", "core", "ops", "cpu"},
    "cuda": {"base", "core", "ops", "cuda"},
    "null": {"base", "core", "ops", "null"},
    "peft": {"base", "core", "ops", "peft"},
    "optim": {"base", "core", "optim"},
    "io": {"base", "io"},
    "model": {"base", "core", "ops", "io", "model"},
    "data": {"base", "io", "data"},
    "gen": {"base", "core", "ops", "io", "model", "peft", "gen"},
    "export": {"base", "core", "ops", "io", "model", "peft", "gen", "export"},
    "report": {"base", "report"},
    "train": {"base", "core", "ops", "io", "model", "peft", "gen", "data", "optim", "report", "train", "cpu"},
    "api": {"base", "core", "ops", "io", "model", "peft", "gen", "data", "report", "train", "export", "api", "cpu"},
    "app": {"base", "cyclora", "app"},
}
root = pathlib.Path(__file__).resolve().parent.parent
bad = []
for folder in ("src", "app"):
    for f in sorted(f for f in (root / folder).rglob("*.*") if f.suffix in (".c", ".h", ".cu", ".cuh")):
        room = f.relative_to(root).parts[1] if folder == "src" else "app"
        for n, line in enumerate(f.read_text().splitlines(), 1):
            m = re.match(r'\s*#\s*include\s*[<"]([a-z]+)/', line)
            if m and m.group(1) in set(MAY) | {"cyclora"} and m.group(1) not in MAY[room] | ({"cyclora"} if room == "api" else set()):
                bad.append(f"{f.relative_to(root)}:{n}: {room} may not include {m.group(1)}/")
print("\n".join(bad) or f"layers: {len(MAY)} rooms in order")
sys.exit(bool(bad))
