#!/usr/bin/env python3
"""Lines and their BLEU, chrF2 and chrF2++ from sacrebleu, for tests/unit/test_score.c.

  score.py            (needs sacrebleu 2.x; writes tests/golden/score/{lines.jsonl,expected.json})

lines.jsonl holds {"hyp", "ref"}; expected.json holds the scores of runs of those lines ("first", "n") and one of a
single line each. Sentences are ours; hypotheses are references after random edits, and hand-made awkward cases.
"""
import json
import os
import random

from sacrebleu.metrics import BLEU, CHRF
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
]


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


def scores(pairs):
    hyp, ref = [h for h, _ in pairs], [[r for _, r in pairs]]
    return {"bleu": BLEU().corpus_score(hyp, ref).score, "chrf": CHRF().corpus_score(hyp, ref).score,
            "chrf_pp": CHRF(word_order=2).corpus_score(hyp, ref).score,
            "exact": 100 * sum(h == r for h, r in pairs) / len(pairs)}


def main():
    r = random.Random(11)
    lines = AWKWARD + [(edit(r, s), s) for s in SENTENCES * 10]
    runs = [(i, 1) for i in range(len(AWKWARD) + 2 * len(SENTENCES))]
    runs += [(0, len(AWKWARD)), (len(AWKWARD), 2), (len(AWKWARD), 25), (len(AWKWARD) + 25, 128), (0, len(lines)), (40, 3)]
    os.makedirs(OUT, exist_ok=True)
    with open(f"{OUT}/lines.jsonl", "w") as f:
        for h, ref in lines:
            f.write(json.dumps({"hyp": h, "ref": ref}, ensure_ascii=False) + "\n")
    cases = [{"first": i, "n": n, **scores(lines[i:i + n])} for i, n in runs]
    with open(f"{OUT}/expected.json", "w") as f:
        head = {"made_by": f"sacrebleu {sacrebleu.__version__}", "lines": len(lines)}
        f.write(json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")
    print(len(lines), "lines", len(cases), "cases")


main()
