#!/usr/bin/env python3
"""A byte-level tokenizer small enough to know by heart, for tests/unit/test_rows.c: tests/golden/rows/.

Printable ASCII c is id ord(c); the other bytes fill the rest of 0..255. 256 "ab" and 257 " c" are the only merges;
258 <|endoftext|>, 259 <|im_start|>, 260 <|im_end|>, 261 <s> are control tokens. Standard library only. bos/ holds the same with
<s> as a BOS that the model expects.
"""
import json
import os

OUT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "rows")
SPECIAL = {258: "<|endoftext|>", 259: "<|im_start|>", 260: "<|im_end|>", 261: "<s>"}
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def letters():
    """GPT-2's printable stand-in for each byte."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(other)}


def main():
    of = letters()
    merges = [("a", "b"), (of[32], "c")]
    vocab = {of[b]: b for b in range(256)} | {x + y: 256 + i for i, (x, y) in enumerate(merges)}
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, s in SPECIAL.items()]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": level, "post_processor": None, "decoder": level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                           "vocab": vocab, "merges": [" ".join(m) for m in merges]}}
    for folder, config in (("", {"add_bos_token": False}), ("bos", {"add_bos_token": True, "bos_token": "<s>"})):
        os.makedirs(os.path.join(OUT, folder), exist_ok=True)
        config |= {"eos_token": "<|endoftext|>", "chat_template": CHATML, "tokenizer_class": "PreTrainedTokenizerFast"}
        for name, what in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
            with open(os.path.join(OUT, folder, name), "w") as f:
                json.dump(what, f, ensure_ascii=True)
                f.write("\n")


main()
