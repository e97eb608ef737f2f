#!/usr/bin/env python3
"""Ours and the PyTorch stack on one card in one run: what bench/gpu.sh runs.

  python bench/peers/gpu/side_by_side.py [--shapes 8b,1b,135m] [--items ITEM,...] [--engines cyclora,peft,...]
                                         [--limit SECONDS] [--budget SECONDS] [--json FILE]

Each engine and shape is a process of its own, one after the other, all items of the shape in it; a process that ends early is
started again behind the item that ended it, one that passes --limit is stopped and its items say so, and none is started once
--budget is spent. Peers fit themselves to what is installed: a missing package is a row that says which. Tables of several calls
are joined with --join FILE,... (the JSON lines of each; a ratio only within one call). Ours is $BENCH_CARD, or
build/release/bench_card; $PEER_LD_LIBRARY_PATH, where set, replaces LD_LIBRARY_PATH for the peers, whose wheels bring their own libraries."""
import argparse
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
STEPS_8B = "sft:4x2048:none,sft:4x2048:block,sft:1x8192:none,sft:1x8192:block,sft:1x2048:none"
REST = "decode:1,decode:16,decode:64,macct:16"
ITEMS = {"8b": f"{STEPS_8B},{REST}", "1b": f"sft:4x2048:none,sft:4x2048:block,{REST}", "135m": f"sft:8x128:none,sft:32x512:none,{REST}"}
ENGINES = "cyclora,peft,peft+liger+compile,peft+liger+compile+bf16"
OURS = "cyclora"


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--shapes", default="8b,1b,135m", help="names in bench/shapes, or files")
    ap.add_argument("--items", help="instead of each shape's own list; a kind (sft, decode, macct) picks from that list")
    ap.add_argument("--engines", default=ENGINES, help=f"default {ENGINES}; words of a peer: peer.py --help")
    ap.add_argument("--limit", type=float, default=120, help="seconds a process")
    ap.add_argument("--budget", type=float, default=1e9, help="seconds in all")
    ap.add_argument("--json", help="also write the JSON lines there")
    ap.add_argument("--join", help="print the table of these files instead of running")
    ap.add_argument("--cpu", action="store_true", help="ours on the processor: to check the script")
    return ap.parse_args()


def shape_name(shape):
    return os.path.splitext(os.path.basename(shape))[0]


def shape_file(shape):
    return shape if shape.endswith(".json") else os.path.join(ROOT, "bench/shapes", shape + ".json")


def items_of(shape, wanted):
    own = ITEMS.get(shape_name(shape), ITEMS["8b"]).split(",")
    if not wanted:
        return own
    return [item for w in wanted.split(",") for item in ([w] if ":" in w else [o for o in own if o.split(":")[0] == w])]


def fits(engine, item):
    """Liger and compiled layers are about training steps; generation, and macct which is mostly that, are measured with PEFT alone."""
    return item.startswith("sft:") or engine in (OURS, "peft", "peft+bf16")


class Runs:
    """Starts the processes and keeps the RESULT lines in order."""

    def __init__(self, a):
        self.a, self.start, self.lines, self.notes = a, time.monotonic(), [], []

    def command(self, engine, shape, items):
        if engine == OURS:
            binary = os.environ.get("BENCH_CARD") or os.path.join(ROOT, "build/release/bench_card")
            return [binary] + (["--cpu"] if self.a.cpu else []) + [shape_file(shape)] + items, None
        env = dict(os.environ, PYTHONUNBUFFERED="1")
        if "PEER_LD_LIBRARY_PATH" in env:
            env["LD_LIBRARY_PATH"] = env["PEER_LD_LIBRARY_PATH"]
        return [sys.executable, os.path.join(HERE, "peer.py"), engine, shape_file(shape)] + items, env

    def process(self, engine, shape, items, limit):
        """One process; its RESULT lines, its last words, how it ended."""
        command, env = self.command(engine, shape, items)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                p = subprocess.Popen(command, stdout=out, stderr=err, env=env, cwd=ROOT, start_new_session=True)
            except OSError as e:
                return [], f"{e.strerror}: {os.path.basename(command[0])}", "absent"
            try:
                end = "ended" if p.wait(timeout=limit) == 0 else "failed"
            except subprocess.TimeoutExpired:
                os.killpg(p.pid, signal.SIGKILL)
                p.wait()
                end = "late"
            out.seek(0), err.seek(0)
            text, words = out.read(), [l for l in err.read().splitlines() if l.strip()]
        self.notes += [f"{engine} {shape_name(shape)}: {l}" for l in text.splitlines() if l.startswith("measured")]
        found = [dict(json.loads(l[7:]), engine=engine, shape=shape_name(shape))
                 for l in text.splitlines() if l.startswith("RESULT ") and l.endswith("}")]
        return found, words[-1].strip()[:200] if words else f"exit status {p.returncode}", end

    def run(self, engine, shape, items):
        left = list(items)
        until = time.monotonic() + self.a.limit
        while left:
            limit = min(until - time.monotonic(), self.a.budget - (time.monotonic() - self.start))
            if limit < 5:
                self.add([dict(engine=engine, shape=shape_name(shape), item=i, error="not run: the time was spent") for i in left])
                return
            t = time.monotonic()
            found, words, end = self.process(engine, shape, left, limit)
            print(f"{engine} {shape_name(shape)}: {len(found)} of {len(left)} in {time.monotonic() - t:.0f} s, {end}", file=sys.stderr, flush=True)
            self.add(found)
            left = left[len(found):]
            if not left:
                return
            lost, why = self.blame(found, left, words, end, limit)
            self.add([dict(engine=engine, shape=shape_name(shape), item=i, error=why) for i in lost])
            left = left[len(lost):]

    @staticmethod
    def blame(found, left, words, end, limit):
        """Which of the items left get no figure from this process, and why; the others are tried in the next."""
        if end == "late":
            return left, f"its process was stopped after {limit:.0f} s"
        if end == "absent":
            return left, words
        if end == "ended":
            return left, "no result"
        if found and "CUDA error" in found[-1].get("error", ""):
            return [], ""  # the peer said so in that item's row and left: the next item is not to blame
        return left[:1], words

    def add(self, lines):
        self.lines += lines
        if self.a.json:
            with open(self.a.json, "a") as f:
                for l in lines:
                    f.write(json.dumps(l) + "\n")


def heading():
    """The card, the commit and the versions: what a figure needs beside it."""
    def first(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip().splitlines()[0]
        except (OSError, IndexError):
            return "unknown"
    packages = []
    for name in ("torch", "transformers", "peft", "liger-kernel", "triton"):
        try:
            packages.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            packages.append(f"no {name}")
    commit = first("git", "rev-parse", "--short", "HEAD")
    card = first("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    unsloth = "installed, but this script does not drive it" if importlib.util.find_spec("unsloth") else "not installed here, so not in the table"
    return [f"commit {commit}; {card}", "peers: " + ", ".join(packages), "Unsloth: " + unsloth]


def ms(r):
    return f"{r['ms_median']:,.1f} ({r['tok_s']:,.0f})" if "ms_median" in r else r["error"]


def percent(share, of):
    return f"{100 * share:.1f} % of {of}" if share and share < 10 else ""  # the processor has no measured rate


def memory(r):
    if "ms_median" not in r:
        return ""
    return f"{r['taken_gb']:.1f}" + (f" ({r['peak_gb']:.1f})" if r.get("peak_gb") else "")


def table(lines):
    """A row for each peer of an item; the peer's share follows from ours, since both do the same work on the same card."""
    rows = ["| work | cyclora ms (tokens/s) | share | GB | peer | its ms (tokens/s) | its share | GB taken (allocated) | its time ÷ ours |",
            "|---|---|---|---|---|---|---|---|---|"]
    done, none = [], {"error": "not run"}
    for key in [(l["shape"], l["item"]) for l in lines]:
        if key in done:
            continue
        done.append(key)
        here = [l for l in lines if (l["shape"], l["item"]) == key]
        ours = next((l for l in here if l["engine"] == OURS), none)
        own = f"| {key[0]} {key[1]} | {ms(ours)} | {percent(ours.get('share'), ours.get('of'))} | {memory(ours)} |"
        peers = [l for l in here if l["engine"] != OURS]
        for peer in peers:
            ratio = peer["ms_median"] / ours["ms_median"] if "ms_median" in peer and "ms_median" in ours else 0
            share = ours.get("share", 0) / ratio if ratio else 0
            times = f"{ratio:.2f}" if ratio else ""
            rows.append(f"{own} {peer['engine']} | {ms(peer)} | {percent(share, ours.get('of'))} | {memory(peer)} | {times} |")
        if not peers:
            rows.append(f"{own} | | | | |")
    return rows


def main():
    a = arguments()
    if a.join:
        for name in a.join.split(","):
            print("\n".join(table([json.loads(l) for l in open(name)])), flush=True)
        return
    if a.json:
        open(a.json, "w").close()
    runs = Runs(a)
    print("\n".join(heading()), flush=True)
    for shape in a.shapes.split(","):
        for engine in a.engines.split(","):
            runs.run(engine, shape, [i for i in items_of(shape, a.items) if fits(engine, i)])
    print("\n".join(runs.notes))
    print("\n".join(table(runs.lines)))
    print("Milliseconds: the median step; a decode step is one token for every row. Peers: adapters f32 under autocast unless bf16 is named.")
    print("GB: what the driver says is gone (what the allocator handed out at most).")


if __name__ == "__main__":
    main()
