"""Shared by the peer benchmarks: common options, offline, peak RSS, timing statistics, the RESULT line.

Every script takes --model (a Hugging Face folder, see convert.py), --data (see make_data.py) and --threads, and prints one
line "RESULT {json}" per configuration with at least: item, best_s, median_s, n, tok_s_best, tok_s_median, peak_mb (VmHWM of
the process), foreign_cores (how many cores other processes used meanwhile; above ~0.1 the wall times are noisy), cpu_best_s
(least CPU time of a span: with --threads 1 close to the wall time of a quiet machine)."""
import argparse
import json
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("PYTHONWARNINGS", "ignore")


def parser(doc):
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="cache/smollm2-hf")
    ap.add_argument("--data", default=os.environ.get("CYC_BENCH_DATA", "cache/bench"))
    ap.add_argument("--threads", type=int, default=2)
    return ap


def torch_with(threads):
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch
    import transformers
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    return torch


def rows(data, name):
    """A plain text file of token ids: one row a line, ids separated by spaces. The C benchmarks read the same files."""
    with open(os.path.join(data, name)) as f:
        return [[int(v) for v in line.split()] for line in f]


def take(all_rows, first, n):
    return [all_rows[(first + i) % len(all_rows)] for i in range(n)]


def status_mb(key):
    for line in open("/proc/self/status"):
        if line.startswith(key + ":"):
            return round(int(line.split()[1]) / 1024)


def peak_mb():
    return status_mb("VmHWM")


def emit(**kw):
    print("RESULT " + json.dumps(kw), flush=True)


def lora_config(r=16, alpha=32):
    from peft import LoraConfig
    return LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", bias="none")


class Meter:
    """Wall and CPU time of a span, and how many cores other processes used in it."""

    @staticmethod
    def _busy():
        v = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
        return (v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own():
        t = os.times()
        return t.user + t.system + t.children_user + t.children_system

    def __enter__(self):
        self.b, self.o, self.t = self._busy(), self._own(), time.perf_counter()
        return self

    def __exit__(self, *x):
        self.wall = time.perf_counter() - self.t
        self.cpu = self._own() - self.o
        self.foreign = max(0.0, (self._busy() - self.b) - self.cpu) / max(self.wall, 1e-9)


def stats(meters, tokens=None):
    """best/median over spans; with the number of tokens of a span also tokens a second."""
    ts = [m.wall for m in meters]
    best, med = min(ts), statistics.median(ts)
    out = {"best_s": round(best, 4), "median_s": round(med, 4), "n": len(ts), "cpu_best_s": round(min(m.cpu for m in meters), 3),
           "foreign_cores": round(sum(m.foreign for m in meters) / len(meters), 2)}
    if tokens:
        out.update(tok_s_best=round(tokens / best, 1), tok_s_median=round(tokens / med, 1))
    return out
