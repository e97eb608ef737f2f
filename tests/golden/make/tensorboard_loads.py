#!/usr/bin/env python3
"""Does TensorBoard read our event files? Trains a tiny MACCT twice, the second time stopped half-way and resumed, reads both with the `tensorboard`
package, and holds every number against metrics.jsonl. By hand: tools/check-loads.sh tensorboard.

  tensorboard_loads.py --binary build/release/cyclora"""
import argparse, json, pathlib, signal, subprocess, sys, tempfile, time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

root = pathlib.Path(__file__).resolve().parents[3]
cipher = root / "tests/golden/cipher"
CONFIG = f"""model: {cipher}
A: {{data: {cipher}/a.jsonl}}
B: {{data: {cipher}/b.jsonl}}
eval: {{data: {cipher}/test.jsonl, limit: 6}}
test: {{data: {cipher}/test.jsonl, limit: 4}}
report_to: tensorboard
max_length: 48
max_new_tokens: 12
max_steps: 12
eval_steps: 3
save_steps: 2
per_device_train_batch_size: 4
lora: {{r: 2}}
"""


def expected(out):
    want = {}
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        room = {None: "train", "test": "test"}.get(line.get("eval"), "eval")
        for k, v in line.items():
            if isinstance(v, (int, float)) and not isinstance(v, bool) and k != "step":
                want.setdefault(f"{room}/{k.removeprefix('eval_').removeprefix('train_')}", []).append((line["step"], v))
    return want


def check(out):
    acc = EventAccumulator(str(out / "runs"), size_guidance={"scalars": 0})
    acc.Reload()
    want, tags = expected(out), set(acc.Tags()["scalars"])
    assert tags == want.keys(), tags ^ want.keys()
    for tag, points in want.items():
        got = [(e.step, e.value) for e in acc.Scalars(tag)]
        assert [s for s, _ in got] == [s for s, _ in points], (tag, got, points)
        assert all(abs(g - w) <= 1e-6 * abs(w) + 1e-30 for (_, g), (_, w) in zip(got, points)), (tag, got, points)
    return len(tags), sum(map(len, want.values())), len(list((out / "runs").iterdir()))


a = argparse.ArgumentParser()
a.add_argument("--binary", default=root / "build/release/cyclora", type=pathlib.Path)
binary = a.parse_args().binary.resolve()
with tempfile.TemporaryDirectory() as folder:
    yaml, whole, cut = pathlib.Path(folder, "run.yaml"), pathlib.Path(folder, "whole"), pathlib.Path(folder, "cut")
    yaml.write_text(CONFIG)
    train = lambda out, *more: [binary, "train", yaml, "--quiet", "--set", f"output_dir={out}", *more]
    subprocess.run(train(whole), check=True, stdout=subprocess.DEVNULL)
    p = subprocess.Popen(train(cut), stdout=subprocess.DEVNULL)
    while not (cut / "checkpoint-4").exists():
        time.sleep(0.002)
    p.send_signal(signal.SIGKILL)
    p.wait()
    subprocess.run(train(cut, "--resume"), check=True, stdout=subprocess.DEVNULL)
    for name, out in (("a run", whole), ("a killed and resumed run", cut)):
        print("tensorboard reads {}: {} tags, {} numbers of {} file(s), all as in metrics.jsonl".format(name, *check(out)))
