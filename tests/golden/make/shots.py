#!/usr/bin/env python3
"""Zero and few shots as EleutherAI's lm-evaluation-harness counts them (pip install lm_eval), for tests/model/test_shots.c: tests/golden/shots/.

A small Llama in double over the byte tokenizer of rows.py, taught the tasks' own kind of text so that it writes letters; two tasks as the harness's
YAML has them (multiple_choice, 20 records; generate_until, 10) with no and two examples, the first of the training file, plain and (choice) in the
model's chat template, and with two adapters of PEFT's. expected.json: of each record the options' log-likelihoods or the text, and the harness's metrics. The F1 and exact match
of SQuAD are torchmetrics', which has its official script's.

Run from the source root: the tasks' YAML names its data from there.
"""
import json
import os
import random
import shutil

os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"shots-{os.getpid()}")
from oracle import GOLDEN, exact, randomise_lora, save, save_adapter, torch, write_json
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from torchmetrics.functional.text import squad

OUT = os.path.join(GOLDEN, "shots")
COLOURS = ["red", "blue", "green", "cyan", "café au lait", "coral red", "black"]
THINGS = ["cat", "cab", "the cape", "a crab", "cup", "car", "an arc", "abacus"]


def jsonl(name, rows):
    with open(os.path.join(OUT, name), "w") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def data(rnd):
    def choice():
        options = rnd.sample(COLOURS, rnd.choice([2, 3, 4]))
        return {"question": f" What colour is {rnd.choice(THINGS)}? ", "options": options, "answer": rnd.randrange(len(options))}

    def write():
        thing = rnd.choice(THINGS)
        return {"question": f"Say {thing}", "answer": thing if rnd.random() < 0.7 else rnd.choice(COLOURS)}
    jsonl("choice.jsonl", [choice() for _ in range(20)])
    jsonl("choice_train.jsonl", [choice() for _ in range(4)])
    jsonl("write.jsonl", [write() for _ in range(10)])
    jsonl("write_train.jsonl", [write() for _ in range(4)])


def model_and_tokenizer(rnd):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(GOLDEN, "rows", name), OUT)
    tok = PreTrainedTokenizerFast.from_pretrained(OUT)
    torch.manual_seed(9)
    m = LlamaForCausalLM(LlamaConfig(vocab_size=262, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                     num_key_value_heads=2, max_position_embeddings=1024, rope_theta=1000.0, eos_token_id=258, bos_token_id=None,
                                     tie_word_embeddings=True))
    opt = torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(300):
        lines = [f"Q: What colour is {rnd.choice(THINGS)}?\nA: {rnd.choice(COLOURS)}" if rnd.random() < 0.4 else f"Q: Say {(t := rnd.choice(THINGS))}\nA: {t}."
                 for _ in range(24)]
        ids = torch.tensor([tok.encode("\n\n".join(lines))[:512]])
        loss = m(input_ids=ids, labels=ids).loss
        opt.zero_grad()
        loss.backward()
        opt.step()
    save(os.path.join(OUT, "model.safetensors"), {k: v.float() for k, v in m.state_dict().items() if k != "lm_head.weight"}, {"format": "pt"})
    config = json.loads(m.config.to_json_string())
    write_json(os.path.join(OUT, "config.json"), config)
    return exact(m.eval()), tok


def adapter(name, config):
    m = LlamaForCausalLM.from_pretrained(OUT)
    gen = torch.Generator().manual_seed(4)
    torch.manual_seed(4)
    p = get_peft_model(m, config)
    randomise_lora(p, gen)
    save_adapter(p, os.path.join(OUT, name))
    exact(p.eval())
    return p


def run(lm, task, shots, chat, adapter=None):
    got = lm_eval.simple_evaluate(model=lm, tasks=[task], num_fewshot=shots, task_manager=TaskManager(include_path=OUT, include_defaults=False),
                                  log_samples=True, bootstrap_iters=0 if task == "shots_write" else 100, apply_chat_template=chat, verbosity="ERROR")
    rows = sorted(got["samples"][task], key=lambda s: s["doc_id"])
    metrics = {k.split(",")[0]: v for k, v in got["results"][task].items() if isinstance(v, float)}
    case = {"task": task, "shots": shots, "chat": chat, "adapter": adapter, "metrics": metrics}
    if task == "shots_choice":
        case["log_likelihoods"] = [[float(r[0]) for r in s["filtered_resps"]] for s in rows]
    else:
        case["texts"] = [s["filtered_resps"][0] for s in rows]
        case["squad"] = [squad_of(t, [s["doc"]["answer"]]) for s, t in zip(rows, case["texts"])]
    return case


def squad_of(text, answers):
    got = squad({"prediction_text": text, "id": "0"}, {"answers": {"answer_start": [0] * len(answers), "text": answers}, "id": "0"})
    return [float(got["exact_match"]), float(got["f1"])]


ANSWERS = [("The  Eiffel tower!", ["eiffel tower"]), ("a cat, an ape", ["cat ape the"]), ("", [""]), ("", ["x"]), ("the", ["an"]), ("Ünder the ÉTÉ", ["ünder été"]),
           ("one two two", ["two two three"]), ("nothing", ["of this"]), ("red. Green", ["blue", "green red", "red green black"]), ("theater", ["ater"]),
           ("it's 1,000", ["its 1000"]), ("x\u2019s", ["xs"]), ("a\u00a0b", ["b"])]


def main():
    rnd = random.Random(5)
    data(rnd)
    m, tok = model_and_tokenizer(rnd)
    def harness(of):
        return HFLM(pretrained=of, tokenizer=tok, batch_size=1, max_length=1024)
    lm = harness(m)
    cases = [run(lm, "shots_choice", k, chat) for k in (0, 2) for chat in (False, True)]
    cases += [run(lm, "shots_write", k, False) for k in (0, 2)]
    for name, config in (("lora", LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])),
                         ("prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))):
        cases.append(run(harness(adapter(name, config)), "shots_choice", 2, False, name))
    write_json(os.path.join(OUT, "expected.json"), {"cases": cases, "squad": [[t, a, squad_of(t, a)] for t, a in ANSWERS], "version": lm_eval.__version__}, ensure_ascii=True)
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


main()
