"""A cycle's prompts in a chat's turns: SmolLM2's template and tokenizer through transformers -> tests/golden/smollm2/turns.json.

  python tests/golden/make/turns.py --model cache/smollm2-hf      (bench/peers/convert.py makes it)

[{"form", "text", "answer", "prompt_ids", "answer_ids"}]: `form` with the text in place of {text} is what a user says; prompt_ids are
apply_chat_template's with the head of the assistant's turn, tokenised as one string; answer_ids what the whole conversation has behind them,
up to its <|im_end|>. No text has white space around it, and no two newlines are before it: there the whole string's tokenisation goes across where text and template meet, ours never."""
import argparse
import json
import os

from transformers import AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
FORMS = ["{text}", "Say it in modern English:\n{text}", "{text}\n\nIn modern English, please.", "Old:\n{text}\nModern?"]
TEXTS = [("Two things have I required of thee; deny me them not before I die:", "Two things I have asked of you."),
         ("thou", "you"), ("3,000 men\u2014and Zürich's \U0001f642", "a space at the end "), ("a\nb", "TurnOn | area = attic")]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="cache/smollm2-hf")
    tok = AutoTokenizer.from_pretrained(ap.parse_args().model)
    encode = lambda said, **how: tok(tok.apply_chat_template(said, tokenize=False, **how), add_special_tokens=False).input_ids
    out = []
    for form in FORMS:
        for text, answer in TEXTS:
            said = [{"role": "user", "content": form.replace("{text}", text)}]
            prompt = encode(said, add_generation_prompt=True)
            whole = encode(said + [{"role": "assistant", "content": answer}])
            assert whole[:len(prompt)] == prompt
            out.append({"form": form, "text": text, "answer": answer, "prompt_ids": prompt, "answer_ids": whole[len(prompt):whole.index(tok.eos_token_id, len(prompt))]})
    with open(os.path.join(HERE, "..", "smollm2", "turns.json"), "w") as f:
        f.write("[" + ",\n ".join(json.dumps(case) for case in out) + "]\n")


if __name__ == "__main__":
    main()
