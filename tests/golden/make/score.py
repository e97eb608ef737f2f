#!/usr/bin/env python3
"""Lines and their BLEU, chrF2, chrF2++ and TER from sacrebleu and ROUGE-L from rouge-score; lists of entities and triples with F1 from
seqeval and nervaluate. For tests/unit/test_score.c.

  score.py            (needs sacrebleu 2.x, rouge-score, seqeval, nervaluate; writes tests/golden/score/{lines.jsonl,expected.json,items.json})

lines.jsonl holds {"hyp", "ref"}; expected.json holds the scores of runs of those lines ("first", "n") and one of a
single line each. Sentences are ours; hypotheses are references after random edits, and hand-made awkward cases.
items.json: sentences of words that are all different, tagged at random and with some tags changed, as the lists that our recipe writes.
"""
import json
import os
import random

from nervaluate import Evaluator
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER
from seqeval.metrics import f1_score
import sacrebleu

OUT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "score")

SENTENCES = """
The cat sat on the mat, and the dog - a big one - barked.
In 1999, 3.14 and 2,718 were not yet 100% certain (so they said).
"Who is there?" asked the man; nobody answered...
Prices rose by $1,000.50 in the U.S.A. last year, didn't they?
A state-of-the-art 10-20 year-old 5-star hotel.
E-mail me at someone@example.org or see http://example.org/a_b?c=d&e=f#g.
x = y * (z + 1) / {a[0]} ^ 2 ~ b | c \\ d `e` <f>
It costs 5,- euros, or 6.- francs, .5 or 5. or ,5 or 5,
Größe, Übermut und Straße: schöne Wörter aus dem Süden.
L'été dernier, l'œuvre « naïve » coûtait déjà 12,50 €.
¿Dónde está la biblioteca? ¡Allí, señor!
Съешь же ещё этих мягких французских булок, да выпей чаю.
私は昨日、東京で新しい本を三冊買いました。
今天天气很好,我们去公园散步吧!你觉得怎么样?
오늘은 날씨가 정말 좋아서 산책을 갔습니다.
שלום עולם, מה שלומך היום?
مرحبا بالعالم، كيف حالك اليوم؟
नमस्ते दुनिया, आप कैसे हैं?
Emoji are fun 😀👍🏽 and flags 🇫🇷🇩🇪 too!
One word
Yes.
TurnOn | area = attic | domain = light
And God said, Let there be light: and there was light.
the the the the the the the
a b c d e f g h i j k l m n o p
""".strip().split("\n")

AWKWARD = [
    ("", "an empty hypothesis"), ("an empty reference", ""), ("", ""), ("   ", "only spaces"), ("a", "a"), ("a", "b"),
    ("a b", "a b"), ("a b c", "a b c"), ("a b c d", "a b c d"), (".", "."), ("...", ". . ."), ("a..", "a.."), ("1..2", "1..2"),
    (",,,,", ",,,"), ("1,2.3,4", "1 , 2 . 3 , 4"), ("a,b.c", "a , b . c"), ("1-2 a-b 3-c d-4", "1 - 2 a - b 3 - c d - 4"),
    ("--- 5-- 5---6", "- - - 5- - 5 - - - 6"), ("&quot;hi&quot; &amp; &lt;b&gt;", '"hi" & <b>'), ("&amp;quot; &amp;lt;", '&quot; &lt;'),
    ("a <skipped> b <skipped>", "a b"), ("<ski<skipped>pped>", "<skipped>"), ("tabs\tand\tmore", "tabs and more"),
    ("trailing spaces    ", "trailing spaces"), ("   leading spaces", "leading spaces"), ("many     inner    spaces", "many inner spaces"),
    ("no\u00a0break\u2003em\u3000wide", "no break em wide"), ("zero\u200bwidth", "zero width"), ("next\u0085line", "next line"),
    ("line\nbreak in-\nside", "line break inside"), ("carriage\rreturn", "carriage return"), ("end\n", "end"), ("vt\x0bff\x0cfs\x1cus\x1f.", "vt ff fs us ."),
    ("(hi)", "( hi )"), ("((hi))", "(hi)"), ("'tis 'twas'", "tis twas"), ("it's dogs' _x_ -y-", "its dogs x y"), ("!", "!!"), ("!!", "!"),
    ("cafe\u0301", "caf\u00e9"), ("\ufb01ne", "fine"), ("\U0001d538\U0001d539", "AB"), ("٣٫١٤ و ١٬٠٠٠", "3.14 و 1,000"), ("5\u066b5 ５．５", "5.5 5.5"),
    ("word " * 60, "word " * 50), ("ab" * 100, "ba" * 100), ("The quick brown fox", "jumps over the lazy dog"),
    ("$%#@!&*()[]{}|\\/<>?:;\"'`~^_+=-.,", "$ % # @ ! & * ( ) [ ] { } | \\ / < > ? : ; \" ' ` ~ ^ _ + = - . ,"),
    ("I see .5 and 5. and ,6 and 6, .", "I see . 5 and 5 . and , 6 and 6 , ."), ("a.b,c.d", "a.b,c.d"), ("3.a 3,a a.3 a,3", "3. a 3, a a .3 a ,3"),
    ("ΟΔΟΣ ΣΟΦΟΣ ΑΣ, Σ", "οδος σοφος ας, σ"), ("ΟΔΟΣ.", "οδος."), ("İstanbul IĞDIR", "i\u0307stanbul iğdir"), ("\u212aelvin 2\u212a", "kelvin 2k"),
    ("d e f a b c", "a b c d e f"), ("b a d c", "a b c d"), ("f e d c b a", "a b c d e f"), ("a a a b", "b a a a a"), ("x y", "z " * 120 + "x y"), ("z " * 120 + "x y", "x y"),
]


def moved(r, words, vocabulary):
    """Blocks moved, words lost, added and changed: what TER's search is about."""
    w = list(words)
    for _ in range(r.randrange(1, 6)):
        k, i, n = r.randrange(6), r.randrange(len(w)), r.randrange(1, 13)
        if k < 3:
            block, w = w[i:i + n], w[:i] + w[i + n:]
            j = r.randrange(len(w) + 1)
            w[j:j] = block
        elif k == 3:
            w[i:i + r.randrange(1, 3)] = []
        elif k == 4:
            w[i:i] = [r.choice(vocabulary)]
        else:
            w[i] = r.choice(vocabulary)
        w = w or ["a"]
    return w


def moves(r):
    out = []
    for length, many in ((8, 14), (25, 14), (60, 5), (130, 2)):
        for _ in range(many):
            vocabulary = [f"w{i}" for i in range(r.choice((6, 20, 200)))]
            ref = [r.choice(vocabulary) for _ in range(length)]
            out.append((" ".join(moved(r, ref, vocabulary)), " ".join(ref)))
    names = [f"w{i}" for i in range(80)]
    out.append((" ".join(names[20:35] + names[:20] + names[35:]), " ".join(names)))  # a block longer than may move at once
    out.append((" ".join(["z"] * 27 + names[:27]), " ".join(names[:27] + ["y"] * 27)))  # right words beyond the beam
    out += [(" ".join(r.choice("abc") for _ in range(40)), " ".join(r.choice("abc") for _ in range(40))) for _ in range(6)]  # more tries than allowed
    return out


def edit(r, s):
    words = s.split(" ")
    for _ in range(r.randrange(0, 1 + len(words) // 2)):
        k, i = r.randrange(7), r.randrange(len(words)) if words else 0
        if not words:
            break
        if k == 0:
            del words[i]
        elif k == 1:
            words.insert(i, r.choice(SENTENCES).split(" ")[0])
        elif k == 2:
            words[i] = words[i][::-1]
        elif k == 3:
            words[i] = words[i] + r.choice(".,!?-;:'\"")
        elif k == 4:
            j = r.randrange(len(words))
            words[i], words[j] = words[j], words[i]
        elif k == 5:
            words[i] = words[i].upper()
        else:
            words[i] = str(r.choice((7, 1.5, "1,000", "3-4", "٤", "½")))
    return r.choice((" ", " ", " ", "  ")).join(words)


ROUGE = RougeScorer(["rougeL"], use_stemmer=False)


def scores(pairs):
    hyp, ref = [h for h, _ in pairs], [[r for _, r in pairs]]
    return {"bleu": BLEU().corpus_score(hyp, ref).score, "chrf": CHRF().corpus_score(hyp, ref).score,
            "chrf_pp": CHRF(word_order=2).corpus_score(hyp, ref).score,
            "ter": TER().corpus_score(hyp, ref).score, "rougeL": 100 * sum(ROUGE.score(r, h)["rougeL"].fmeasure for h, r in pairs) / len(pairs),
            "exact": 100 * sum(h == r for h, r in pairs) / len(pairs)}


def tagged(r, n):
    tags, i = ["O"] * n, 0
    while i < n:
        if r.random() < 0.35:
            kind, end = r.choice(("PER", "LOC", "ORG")), min(n, i + r.randrange(1, 4))
            tags[i:end] = ["B-" + kind] + ["I-" + kind] * (end - i - 1)
            i = end
        i += 1
    return tags


def changed(r, tags):
    """Spans that grow, shrink, change their type, vanish or appear."""
    spans = spans_of(tags)
    out = ["O"] * len(tags)
    for kind, a, b in spans + [("LOC", i, i + 1) for i in range(len(tags)) if r.random() < 0.05]:
        k = r.randrange(8)
        if k == 0:
            continue
        a, b = (max(0, a - 1), b) if k == 1 else (a, min(len(tags), b + 1)) if k == 2 else (a + (b - a > 1), b) if k == 3 else (a, b)
        kind = r.choice(("PER", "LOC", "ORG")) if k == 4 else kind
        if set(out[a:b]) == {"O"}:
            out[a:b] = ["B-" + kind] + ["I-" + kind] * (b - a - 1)
    return out


def spans_of(tags):
    spans = []
    for i, t in enumerate(tags):
        if t[0] == "B":
            spans.append([t[2:], i, i + 1])
        elif t[0] == "I":
            spans[-1][2] = i + 1
    return [tuple(s) for s in spans]


def listed(words, tags):
    return " | ".join(f"{k}: {' '.join(words[a:b])}" for k, a, b in spans_of(tags)) or "none"


def items(r):
    truth, said, rows = [], [], []
    for _ in range(120):
        words = r.sample([f"w{i}" for i in range(400)], r.randrange(1, 16))
        t = tagged(r, len(words))
        s = changed(r, t)
        truth.append(t), said.append(s), rows.append({"hyp": listed(words, s), "ref": listed(words, t)})
    cases = []
    for a, n in [(0, len(rows)), (0, 40), (40, 7)] + [(i, 1) for i in range(30)]:
        t, s = truth[a:a + n], said[a:a + n]
        if not any(map(spans_of, t)):
            continue
        got = Evaluator(t, s, tags=["PER", "LOC", "ORG"], loader="list").evaluate()
        cases.append({"first": a, "n": n, "entity_f1": 100 * f1_score(t, s), "entity_f1_partial": 100 * got["overall"]["partial"].f1})
    return {"rows": rows, "cases": cases}


def main():
    r = random.Random(11)
    lines = AWKWARD + [(edit(r, s), s) for s in SENTENCES * 10] + moves(r)
    runs = [(i, 1) for i in range(len(AWKWARD) + 2 * len(SENTENCES))]
    runs += [(0, len(AWKWARD)), (len(AWKWARD), 2), (len(AWKWARD), 25), (len(AWKWARD) + 25, 128), (0, len(lines)), (40, 3)]
    runs += [(i, 1) for i in range(len(lines) - 43, len(lines))]
    os.makedirs(OUT, exist_ok=True)
    with open(f"{OUT}/lines.jsonl", "w") as f:
        for h, ref in lines:
            f.write(json.dumps({"hyp": h, "ref": ref}, ensure_ascii=False) + "\n")
    cases = [{"first": i, "n": n, **scores(lines[i:i + n])} for i, n in runs]
    with open(f"{OUT}/expected.json", "w") as f:
        head = {"made_by": f"sacrebleu {sacrebleu.__version__}", "lines": len(lines)}
        f.write(json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")
    it = items(r)
    with open(f"{OUT}/items.json", "w") as f:
        f.write('{"rows": [\n' + ",\n".join(map(json.dumps, it["rows"])) + '\n], "cases": [\n' + ",\n".join(map(json.dumps, it["cases"])) + "\n]}\n")
    print(len(lines), "lines", len(cases), "cases")


main()
