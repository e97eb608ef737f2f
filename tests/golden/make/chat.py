"""Chat templates: what Python's jinja2 makes of real templates, and which bytes an assistant wrote.

Reads tests/golden/chat/*.jinja (their sources: chat/README.md), writes tests/golden/chat/expected.json:
  templates      name -> {bos, eos, end: the token that ends an assistant's turn}
  conversations  name -> [[role, content], ...]
  cases          [{template, conversation, text | error, prompt | prompt_error, spans: [[from, to], ...]}]
  corners        [{file, text | error}]: the seeds of tests/fuzz/corpus/jinja over the conversation "turns", bos "<s>", eos "</s>";
                 those that only our bounds end are left out
  expressions    [{source, text | null}]: the lines of expressions.txt over the same; null: Python refuses it
text is the whole conversation, prompt the same up to its last assistant's turn (the whole of it where it does not end with
one) with add_generation_prompt; error is the template's own message. spans are bytes of text.

The environment is transformers' own (utils/chat_template_utils.py): ImmutableSandboxedEnvironment, trim_blocks,
lstrip_blocks, loopcontrols, a generation tag, its tojson, raise_exception; strftime_now has a fixed date.

The spans are computed here in a way of their own: each word of each content is replaced by a marker word that occurs nowhere
else, and the template rendered again; the markers say where content stands. A span begins where the prompt made for that turn
(or what of it the text repeats) ends, and ends with the template's end token, which is written down below by hand. Where
the template has generation blocks, they are the spans, found by rendering with marks around them.

  python tests/golden/make/chat.py           writes expected.json
  python tests/golden/make/chat.py DIR OUT   the same over every template of another folder, for a look
"""
import glob
import json
import os
import re
import sys
from datetime import datetime

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "chat")
NOW = datetime(2025, 3, 5, 12, 0, 0)
IM = ("", "<|im_end|>", "<|im_end|>")
L3 = ("<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>")
MISTRAL = ("<s>", "</s>", "</s>")
GEMMA = ("<bos>", "<eos>", "<end_of_turn>")
DS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
TOKENS = {  # bos, eos, what ends a turn; "" is no such token
    "chatml": IM, "smollm2": ("<|im_start|>", "<|im_end|>", "<|im_end|>"), "smollm3": IM, "qwen2.5": IM, "qwen3": IM,
    "qwen2.5_training": IM, "qwen3_training": IM, "llama3": L3, "llama3.1": L3, "llama3.2": L3, "llama3_training": L3,
    "llama2": MISTRAL, "mistral_v0.2": MISTRAL, "mistral_v1": MISTRAL, "mistral_v3": MISTRAL, "mistral_nemo": MISTRAL,
    "mistral_v7": MISTRAL, "gemma2": GEMMA, "gemma3": GEMMA, "phi3": ("<s>", "<|endoftext|>", "<|end|>"),
    "phi3.5": ("<s>", "<|endoftext|>", "<|end|>"), "phi4": ("<|endoftext|>", "<|im_end|>", "<|im_end|>"),
    "deepseek_v2": DS, "deepseek_v3": DS, "deepseek_r1": DS, "command_r": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
}
S, U, A = "system", "user", "assistant"
CONVERSATIONS = {
    "system": [[S, "Be brief."], [U, "Name a river."], [A, "The Rhine."]],
    "plain": [[U, "Name a river."], [A, "The Rhine."]],
    "turns": [[U, "Hi!"], [A, "Hello."], [U, "And now?"], [A, "Bye, then."]],
    "system turns": [[S, "Be brief."], [U, "One?"], [A, "1"], [U, "Two?"], [A, "2"], [U, "Three?"], [A, "3"]],
    "unicode": [[S, "Ünïcödé"], [U, "日本語で「川」は？\u00a0"], [A, "かわ 🏞️ — naïve ß"]],
    "blanks": [[U, "  two before, a line after\n"], [A, "\n\n\tindented\n  twice  \n\n"], [U, " ok "], [A, " fine"]],
    "like a template": [[U, "{{ messages }} {% if x %} {# no #}"], [A, "{%- raw -%} 'quoted' \"twice\" \\n {{ bos_token }}"]],
    "thinking": [[U, "2+2?"], [A, "<think>\nadd them\n</think>\n\nIt is 4."], [U, "3+3?"], [A, "<think>\nagain\n</think>\n\nIt is 6."]],
    "empty user": [[U, ""], [A, "You said nothing."]],
    "empty system": [[S, ""], [U, "a"], [A, "b"]],
    "question": [[S, "Be brief."], [U, "Name a river."]],
    "two users": [[U, "One."], [U, "Two."], [A, "Three."]],
    "late system": [[U, "One."], [S, "Be brief."], [A, "Two."]],
    "begins with assistant": [[A, "How can I help?"], [U, "Not at all."], [A, "Fine."]],
}
OPEN, CLOSE = "\ue000", "\ue001"


class Generation(jinja2.ext.Extension):
    """The tag {% generation %}; marks what is inside when asked to."""
    tags = {"generation"}
    mark = False

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller):
        return OPEN + caller() + CLOSE if Generation.mark else caller()


def compiled(source):
    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda form: NOW.strftime(form)
    return env.from_string(source)


def render(template, talk, tokens, prompt):
    special = {k: v for k, v in (("bos_token", tokens[0]), ("eos_token", tokens[1])) if v}
    messages = [{"role": r, "content": c} for r, c in talk]
    return template.render(messages=messages, tools=None, documents=None, add_generation_prompt=prompt, **special)


MARKER = re.compile(r"Zq(\d+)k\d+z")


def marked(talk):
    """The same conversation in marker words, and what each stands for."""
    words = {}

    def one(i, text):
        def swap(m):
            if m.group() == "think":
                return m.group()
            word = f"Zq{i}k{len(words)}z"
            words[word] = m.group()
            return word
        return re.sub(r"\w+", swap, text)
    return [[r, one(i, c)] for i, (r, c) in enumerate(talk)], words


def common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def spans_of(template, talk, tokens, text):
    if Generation.used:
        Generation.mark = True
        shown = render(template, talk, tokens, False)
        Generation.mark = False
        out, at = [], 0
        for part in re.findall(f"[{OPEN}{CLOSE}]|[^{OPEN}{CLOSE}]+", shown):
            if part == OPEN:
                start = at
            elif part == CLOSE:
                out.append([start, at])
            else:
                at += len(part.encode())
        return out
    talk, words = marked(talk)
    shown = render(template, talk, tokens, False)
    back = lambda s: MARKER.sub(lambda m: words[m.group()], s)
    assert back(shown) == text, "markers change what the template does"
    places = [(m.start(), m.end(), int(m.group(1))) for m in MARKER.finditer(shown)]
    spans = []
    for i, (role, _) in enumerate(talk):
        own = [p for p in places if p[2] == i]
        if role != A or not own:
            continue
        before = max([p[1] for p in places if p[2] < i], default=0)
        gap = shown[before:own[0][0]]
        try:
            if i == 0:
                raise ValueError("nothing to answer")
            prompt = render(template, talk[:i], tokens, True)
            tail = prompt[max([m.end() for m in MARKER.finditer(prompt)], default=0):]
            start = before + common(gap, tail)
        except Exception:
            content = talk[i][1]
            lead = content[:MARKER.search(content).start()]
            start = own[0][0] - common(lead[::-1], gap[::-1])
        end = shown.index(tokens[2], own[-1][1]) + len(tokens[2])
        spans.append([len(back(shown[:start]).encode()), len(back(shown[:end]).encode())])
    return spans


def attempt(what):
    try:
        return what(), None
    except Exception as e:  # whatever the template raises is what is recorded
        return None, str(e) or type(e).__name__


def corners():
    folder, out = os.path.join(HERE, "..", "..", "fuzz", "corpus", "jinja"), []
    for name in sorted(os.listdir(folder)):
        if name in ("bounds", "double", "recursion", "cycle"):
            continue
        with open(os.path.join(folder, name), encoding="utf8", newline="") as f:
            source = f.read()
        text, error = attempt(lambda: render(compiled(source), CONVERSATIONS["turns"], ("<s>", "</s>"), False))
        out.append({"file": name, **({"text": text} if error is None else {"error": error})})
    return out


def expressions():
    with open(os.path.join(HERE, "expressions.txt"), encoding="utf8") as f:
        lines = f.read().rstrip("\n").split("\n")
    every = [attempt(lambda: render(compiled(line), CONVERSATIONS["turns"], ("<s>", "</s>"), False))[0] for line in lines]
    return [{"source": line, "text": text} for line, text in zip(lines, every)]


def main():
    folder, out = (sys.argv[1], sys.argv[2]) if len(sys.argv) > 2 else (HERE, os.path.join(HERE, "expected.json"))
    cases, names = [], sorted(os.path.basename(p)[:-6] for p in glob.glob(os.path.join(folder, "*.jinja")))
    for name in names:
        with open(os.path.join(folder, name + ".jinja"), encoding="utf8", newline="") as f:
            source = f.read()
        tokens, template = TOKENS.get(name, ("<s>", "</s>", "</s>")), compiled(source)
        Generation.used = re.search(r"{%[-+]?\s*generation\b", source) is not None
        for about, talk in CONVERSATIONS.items():
            case = {"template": name, "conversation": about}
            text, error = attempt(lambda: render(template, talk, tokens, False))
            case.update({"text": text} if error is None else {"error": error})
            if error is None and name in TOKENS:
                case["spans"] = spans_of(template, talk, tokens, text)
            prompt, error = attempt(lambda: render(template, talk[:-1] if talk[-1][0] == A else talk, tokens, True))
            case.update({"prompt": prompt} if error is None else {"prompt_error": error})
            cases.append(case)
    keys = ("bos", "eos", "end")
    with open(out, "w", encoding="utf8") as f:
        head = {n: dict(zip(keys, TOKENS.get(n, ("<s>", "</s>", "</s>")))) for n in names}
        f.write('{"templates": ' + json.dumps(head, ensure_ascii=False) + ',\n"conversations": ' + json.dumps(CONVERSATIONS, ensure_ascii=False) 
                + ',\n"corners": ' + json.dumps(corners() if folder == HERE else [], ensure_ascii=False)
                + ',\n"expressions": ' + json.dumps(expressions() if folder == HERE else [], ensure_ascii=False) + ',\n"cases": [\n')
        f.write(",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]}\n")
    print(f"{len(names)} templates, {len(cases)} cases, {sum('text' in c for c in cases)} rendered, {sum('spans' in c and len(c['spans']) > 0 for c in cases)} with spans")


if __name__ == "__main__":
    main()
