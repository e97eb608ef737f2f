#!/usr/bin/env python3
"""Makes tests/golden/tokenizer: text, and the ids that Hugging Face's `tokenizers` gives it.

    tokenizer.py SMOLLM2.gguf        lines.txt, small.json, small.sums, variants.json, smollm2.sums
    tokenizer.py --ages              prints src/io/unicode_ages.def
    tokenizer.py --save DIR GGUF     writes the oracle's SmolLM2 tokenizer.json to DIR, for checks by hand

lines.txt has one JSON string a line; a .sums file has, for each line, the FNV-1a hash (32 bits, hexadecimal) of its
ids as little-endian 32-bit numbers. Special tokens in the text are recognised, none are added.

The SmolLM2 oracle: transformers makes a tokenizer from a GGUF file's vocabulary and merges, but its converter knows
no pre-tokeniser names and always builds a lone ByteLevel. SmolLM2 was trained with (its own tokenizer.json)
Sequence[Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)], which is also what
llama.cpp does for the name "smollm" (a split at every \\p{N} before GPT-2's pattern). So that is put in place.

small.json is trained here: Qwen2's pattern, NFC, a few added tokens with every flag. variants.json has other
pipelines over the same vocabulary, each with the hashes of every eighth line.

Made with tokenizers 0.23.3, transformers 5.23.0, Python 3.11 (whose unicodedata is Unicode 14, as PCRE2 10.42's;
--ages compares the two).
"""
import json
import os
import random
import struct
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "tokenizer")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")

# ---- text: written or drawn for this file; article 1 of the Universal Declaration of Human Rights is public domain ----
SENTENCES = """All human beings are born free and equal in dignity and rights.
They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.
Tous les êtres humains naissent libres et égaux en dignité et en droits.
Alle Menschen sind frei und gleich an Würde und Rechten geboren; größer, süßer, Straße.
Todos los seres humanos nacen libres e iguales en dignidad y derechos. ¿Verdad? ¡Sí!
Todos os seres humanos nascem livres e iguais em dignidade e em direitos, não é?
Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti: perché no?
Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.
Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.
Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İstanbul ılık.
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.
Все люди рождаются свободными и равными в своем достоинстве и правах.
Всі люди народжуються вільними і рівними у своїй гідності та правах, чи не так?
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق، وقد وهبوا عقلًا وضميرًا.
כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।
সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।
மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.
Բոլոր մարդիկ ծնվում են ազատ ու հավասար՝ իրենց արժանապատվությամբ ու իրավունքներով։
ሰዎች ሁሉ ነጻና እኩል ሆነው ተወልደዋል።
I'm sure they've said we'll do what he'd do; it's Bob's, isn't it? DON'T SHOUT, YOU'RE LOUD, I'LL GO!
“Smart quotes” — dashes – and ellipses… cost €5, £7.50, ¥900 or $3½; see §4, ¶2 © ® ™ †.
The quick brown fox jumps over the lazy dog, then writes e-mail to a.b+c@example.org via https://example.org/?q=1&r=%20.
She sells sea-shells (by the sea-shore), doesn't she? The shells she sells are sea-shells, I'm sure.""".split("\n")
CODE = ["for (int i = 0; i < n; i++) { sum += a[i] * b[i]; }", "def f(x, *args, **kw):\n    return x if x is not None else args[0]",
        "#include <stdio.h>\nint main(void) {\n\tprintf(\"%d\\n\", 0x1F);\n\treturn 0;\n}", "SELECT id, name FROM t WHERE x >= 10 AND y != 'a';",
        "<div class=\"a b\">\n  <p>text &amp; more</p>\n</div>", "$ git log --oneline | head -n 20 && echo \"done: $?\"",
        "let v: Vec<u32> = (0..10).map(|i| i * i).collect();", "{\"key\": [1, 2.5e-3, null, true], \"s\": \"\\u00e9\"}",
        "\\begin{equation} \\frac{a}{b} = \\sum_{i=1}^{n} x_i^2 \\end{equation}", "if __name__ == '__main__':\n        main()  # run",
        "x\t=\ty ? z : ~w;\t/* tabs */", "std::map<std::string, int>::const_iterator it = m.find(\"k\");", "@property\n\n\n    def a(self): ...",
        "a->b.c[3]++ <<= 2; // !!! ??? ===", "Makefile:\n\t$(CC) -O2 -o $@ $^"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool>", "wörd", "wo\u0308rd", "<repo_name>", "<jupyter_start>", "<|im_", "<file_sep>"]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "🇯🇵", "1️⃣", "#️⃣", "❤️", "❤️‍🔥", "🧑🏿‍🚀", "👨🏻‍🦰", "🫠", "🫨", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "☺", "✈︎", "🀄", "‼️", "🧌", "🫱🏼‍🫲🏿"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", "\u00a0", "\u3000", "\u2003", "\u200b", "\u2028", "\u0085", "\u180e", "\u202f", "\x0b", "\x0c", "\ufeff", "\u1680"]


def scripts():
    """Characters by the first word of their name: near enough to scripts, and every one of them."""
    found = {}
    for cp in range(0x80, 0x110000):
        c = chr(cp)
        if unicodedata.category(c)[0] in "LMN":
            found.setdefault(unicodedata.name(c, "X").split()[0], []).append(c)
    return {k: v for k, v in sorted(found.items()) if len(v) >= 4}


def word(r, chars, least=1, most=8):
    return "".join(r.choice(chars) for _ in range(r.randint(least, most)))


def text_lines():
    r = random.Random(20250207)
    out = []
    marks = [chr(c) for c in range(0x300, 0x370)] + [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.combining(chr(c)) and c > 0x370]
    anything = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    newer = [0x1C89, 0xA7DA, 0x10D4A, 0x11BC0, 0x13460, 0x16100, 0x1E5D0, 0x2EBF0, 0x31350, 0x11DE0, 0x16FF4, 0x10D40, 0x1CCF0, 0x1FAE9, 0x897]
    words = " ".join(SENTENCES).split()
    out += SENTENCES + CODE
    for _ in range(2300):
        out.append(" ".join(r.choice(words) for _ in range(r.randint(3, 14))))
    for name, chars in scripts().items():
        for _ in range(11):
            out.append(r.choice(["", " ", "x ", "12 "]) + r.choice([" ", " ", ", ", "-", "\u200c"]).join(word(r, chars) for _ in range(r.randint(1, 6))))
    for _ in range(700):
        out.append("".join(r.choice(EMOJI) + r.choice(["", "", " ", "a", "!", "5"]) for _ in range(r.randint(1, 8))))
    for _ in range(900):
        base = r.choice([words, ["a", "e", "o", "각", "가", "ᄀ", "ᅡ", "ᆨ", "क", "น", "ا"]])
        line = "".join(r.choice(base) + word(r, marks, 0, 3) + r.choice(["", " "]) for _ in range(r.randint(1, 7)))
        out.append(unicodedata.normalize(r.choice(["NFC", "NFD", "NFKC", "NFKD"]), line) if r.random() < 0.6 else line)
    for _ in range(1200):
        line = r.choice(CODE)
        cut = r.randint(0, len(line))
        out.append(line[cut:] + r.choice(SPACES) + r.choice(CODE)[: r.randint(1, 40)])
    for _ in range(1100):
        out.append("".join(r.choice(SPACES) * r.randint(1, 3) + r.choice(["", "", r.choice(words), "7", ".", "'s", "é"]) for _ in range(r.randint(1, 7))))
    for _ in range(300):
        out.append("".join(chr(r.choice(list(range(32)) + [127] + list(range(128, 160)))) + r.choice(["", "a", "9", " "]) for _ in range(r.randint(1, 9))))
    for _ in range(800):
        out.append("".join(r.choice(SPECIAL + words + SPACES + ["_", "x", "  "]) + r.choice(["", "", " "]) for _ in range(r.randint(1, 7))))
    digits = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c))[0] == "N"]
    for _ in range(700):
        out.append(r.choice(["", " ", "n="]) + r.choice([word(r, "0123456789", 1, 18), word(r, "0123456789.,-e+", 2, 14), word(r, digits, 1, 6) + r.choice(["", "a"]), "%d/%d/%d %d:%02d" % (r.randint(1, 31), r.randint(1, 12), r.randint(1900, 2100), r.randint(0, 23), r.randint(0, 59))]))
    for _ in range(500):
        quote = r.choice(["'", "’", "ʼ", " '", "''"])
        out.append("".join(r.choice(words) + quote + r.choice(["s", "S", "t", "re", "RE", "Ve", "ll", "lL", "d", "m", "M", "ſ", "x", "ſt", "K"]) + r.choice(["", " "]) for _ in range(r.randint(1, 4))))
    for n in (200, 700, 3000):
        out += ["a" * n, "ab" * (n // 2), word(r, "abcdefghij", n, n), " " * n + "x", "é" * n, "1" * n, "!" * n, "\n" * n, word(r, [chr(c) for c in range(0x4E00, 0x9FA5)], n // 4, n // 4)]
    for _ in range(700):
        out.append("".join(chr(r.choice(anything)) + r.choice(["", "a", "1", " "]) for _ in range(r.randint(1, 6))))
    for _ in range(300):
        out.append("".join(chr(r.choice(newer) + r.randint(0, 5)) + r.choice(["", "a", "1", " ", "\u0301", "."]) for _ in range(r.randint(1, 6))))
    return out


# ---- oracles ----
def fnv(ids):
    h = 0x811C9DC5
    for b in struct.pack("<%dI" % len(ids), *ids):
        h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return "%08x" % h


def sums(tok, lines):
    return [fnv(tok.encode(x, add_special_tokens=False).ids) for x in lines]


def write(name, rows):
    with open(os.path.join(OUT, name), "w", encoding="utf-8", newline="\n") as f:
        f.write("\n".join(rows) + "\n")


def small(lines):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.train_from_iterator((SENTENCES + CODE) * 4 + lines[:2400], trainer)
    tok.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False), AddedToken("wörd", single_word=True, normalized=True),
                    AddedToken("<|im_", normalized=False)])
    return tok


def variants(base, lines):
    S = lambda p, b, inv=False: {"type": "Split", "pattern": p, "behavior": b, "invert": inv}
    B = lambda prefix, regex: {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}
    seq = lambda *a: {"type": "Sequence", "pretokenizers": list(a)}
    R, L = lambda x: {"Regex": x}, lambda x: {"String": x}
    D = lambda each: {"type": "Digits", "individual_digits": each}
    nf = lambda x: {"type": x}
    llama3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    gpt4o = (rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    rows = [("gpt2", B(False, True), None), ("gpt2 prefix", B(True, True), nf("NFD")), ("smollm", seq(D(True), B(False, True)), None),
            ("digits", seq(D(False), B(True, True)), nf("NFKC")), ("llama3", seq(S(R(llama3), "Isolated"), B(False, False)), None),
            ("gpt4o", seq(S(R(gpt4o), "Isolated"), B(False, False)), None),
            ("no split", B(False, False), {"type": "Sequence", "normalizers": [nf("NFKD"), nf("NFC")]}),
            ("removed", seq(S(R(r"\s+"), "Removed"), B(False, False)), None), ("kept", seq(S(R(r"\w+|[^\w\s]+"), "Removed", True), B(False, True)), None),
            ("previous", seq(S(R(r"[\p{P}\s]"), "MergedWithPrevious"), B(False, False)), None),
            ("next", seq(S(R(r"[\p{P}\s]"), "MergedWithNext"), B(False, False)), None), ("next inverted", seq(S(R(r"\p{L}"), "MergedWithNext", True), B(False, False)), None),
            ("contiguous", seq(S(R(r"\s|\d"), "Contiguous"), B(False, False)), None), ("literal", seq(S(L("e"), "MergedWithPrevious"), S(L(" "), "Removed"), B(False, False)), None),
            ("empty matches", seq(S(R(r"x*"), "Isolated"), B(False, False)), None), ("lines", seq(S(R(r"^.|.$|\u0061{,2}b"), "Isolated"), B(False, True)), None),
            ("lookbehind", seq(S(R(r"(?<=[\p{Ll}])(?=\p{Lu})|(?<!\d)\d{2,3}?"), "Isolated"), B(False, False)), None)]
    out = []
    for i, (name, pre, norm) in enumerate(rows):
        spec = json.loads(base.to_str())
        spec["pre_tokenizer"], spec["normalizer"] = pre, norm
        spec["model"]["ignore_merges"] = ignore = i % 2 == 1
        tok = Tokenizer.from_str(json.dumps(spec))
        tok.encode_special_tokens = plain = i % 3 == 1
        out.append({"name": name, "pre_tokenizer": pre, "normalizer": norm, "ignore_merges": ignore, "special": not plain,
                    "sums": " ".join(sums(tok, lines[::8]))})
    return out


def smollm2(gguf):
    from transformers import AutoTokenizer
    tok = AutoTokenizer.from_pretrained(os.path.dirname(gguf), gguf_file=os.path.basename(gguf)).backend_tokenizer
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return tok


# ---- tables of src/io/unicode_ages.def ----
def matches(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    return [cp for cp in range(0x110000) if not 0xD800 <= cp < 0xE000 and not split.pre_tokenize_str(chr(cp))]


def ranges(rows):
    out = []
    for cp, value in sorted(rows):
        if out and out[-1][1] == cp - 1 and out[-1][2] == value:
            out[-1][1] = cp
        else:
            out.append([cp, cp, value])
    return out


def ages():
    names = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf".split()
    theirs = {cp: n for n in names for cp in matches(r"\p{%s}" % n)}
    # of the same category and length, and on the same side of the sets that DeepSeek's patterns write out and of common scripts
    import tokenizer_families as families
    written = [matches(x) for x in ("[%s]" % families.LETTERS, "[一-龥\u0800-一가-\ud7ff]", "[一-龥\u3040-ゟ゠-ヿ]", "[!-/:-~！-／：-～‘-‟\u3000-。]")]
    written = [set(x) for x in written]
    written += [set(matches(r"\p{%s}" % x)) for x in ("Han", "Hiragana", "Katakana", "Hangul", "Latin", "Cyrillic", "Greek", "Arabic")]
    kind = lambda cp, c: (c, cp >= 0x10000) + tuple(cp in x for x in written)
    known = {}
    for cp in range(0x800, 0x110000):
        c = unicodedata.category(chr(cp))
        if theirs.get(cp) == c:
            known.setdefault(kind(cp, c), []).append(cp)

    def nearest(cp, n):  # where no character agrees in all, the written-out sets count before the scripts
        want = kind(cp, n)
        miss = lambda k: sum((20 if i < 6 else 1) * (a != b) for i, (a, b) in enumerate(zip(k, want)))
        return known[min((k for k in known if k[:2] == want[:2]), key=lambda k: (miss(k), known[k][0]))][0]
    rows = [(cp, nearest(cp, n)) for cp, n in theirs.items() if unicodedata.category(chr(cp)) != n]
    rows.append((0x180E, 0x200B))  # white space to PCRE2 alone; the zero width space is to neither
    print("/* Made by tests/golden/make/tokenizer.py --ages; see src/io/unicode.h.\n * NEWER(first, last, stand-in), UNNORMALISED(first, last): ascending. */")
    print("#ifdef NEWER")
    for a, b, s in ranges(rows):
        print("NEWER(0x%04X, 0x%04X, 0x%04X)" % (a, b, s))
    print("#undef NEWER\n#endif\n#ifdef UNNORMALISED")
    forms = [getattr(normalizers, n)() for n in ("NFC", "NFD", "NFKC", "NFKD")]
    untouched = lambda c: all(f.normalize_str(c) == c for f in forms)
    nfd = forms[1].normalize_str
    fixed = lambda c: nfd("a\u0345" + c) == "a\u0345" + c and nfd("a" + c + "\u0334") == "a" + c + "\u0334"
    ours = lambda c: any(unicodedata.normalize(n, c) != c for n in ("NFC", "NFD", "NFKC", "NFKD")) or unicodedata.combining(c)
    rows = [(cp, 0) for cp in range(0x80, 0x110000) if not 0xD800 <= cp < 0xE000 and ours(chr(cp)) and untouched(chr(cp)) and fixed(chr(cp))]
    rows = [x for x in rows if not 0xAC00 <= x[0] < 0xD7A4]
    rows += [(cp, 0) for cp in AFTER_14]
    for a, b, _ in ranges(rows):
        print("UNNORMALISED(0x%04X, 0x%04X)" % (a, b))
    print("#undef UNNORMALISED\n#endif")


# What utf8proc 2.8 (Unicode 15) changes and Python's Unicode 14 does not know yet; U+11930 is the second half of a pair
# that only Unicode 13 composes.
AFTER_14 = ([0x11930, 0x11F41, 0x11F42, 0x1E08F] + list(range(0x10EFD, 0x10F00)) + list(range(0x1E030, 0x1E06E)) + list(range(0x1E4EC, 0x1E4F0)))


def main():
    if sys.argv[1] == "--ages":
        return ages()
    if sys.argv[1] == "--save":
        return smollm2(sys.argv[3]).save(os.path.join(sys.argv[2], "tokenizer.json"))
    lines = text_lines()
    os.makedirs(OUT, exist_ok=True)
    write("lines.txt", [json.dumps(x, ensure_ascii=False) for x in lines])
    tok = small(lines)
    tok.save(os.path.join(OUT, "small.json"), pretty=False)
    write("small.sums", sums(tok, lines))
    write("variants.json", ["[" + ",\n".join(json.dumps(v) for v in variants(tok, lines)) + "]"])
    write("smollm2.sums", sums(smollm2(sys.argv[1]), lines))
    print(len(lines), "lines")


main()
