#!/usr/bin/env python3
"""Tokenizers of every kind, small, and what Hugging Face's `tokenizers` makes of varied lines with them.

    tokenizer_families.py --sets         prints src/io/unicode_sets.def: asks the library about every character

(the rest follows)
"""
import sys
from tokenizers import normalizers as N, pre_tokenizers as P


def ranges(cps):
    out = []
    for c in sorted(cps):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def sets():
    """Which characters each step acts on, found by giving it every one."""
    clean = N.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    accents = N.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    lower, marks = N.Lowercase(), N.StripAccents()
    steps = {"SPACE": (P.WhitespaceSplit(), 2), "WORD": (P.Whitespace(), 1), "PUNCT": (P.Punctuation(), 3), "NUMERIC": (P.Digits(), 3)}
    found = {k: set() for k in ["SPACE", "WORD", "PUNCT", "NUMERIC", "CONTROL", "NONSPACING", "MARK"]}
    lowered = []
    for cp in range(0x110000):
        if 0xD800 <= cp < 0xE000:
            continue
        c = chr(cp)
        for name, (step, parts) in steps.items():
            if len(step.pre_tokenize_str("a" + c + "a")) == parts and not (name == "NUMERIC" and c == "a"):
                found[name].add(cp)
        if clean.normalize_str("a" + c + "b") == "ab" and cp not in (0, 0xFFFD):
            found["CONTROL"].add(cp)
        if accents.normalize_str(c) == "":
            found["NONSPACING"].add(cp)
        if marks.normalize_str(c) == "":
            found["MARK"].add(cp)
        low = lower.normalize_str(c)
        if low != c and cp != 0x130:  # which alone becomes two
            lowered.append((cp, ord(low) - cp))
    print("/* Made by tests/golden/make/tokenizer_families.py --sets; see src/io/unicode.c. Ascending. */")
    bit = {n: 1 << i for i, n in enumerate(["SPACE", "WORD", "MARK", "NONSPACING", "PUNCT", "NUMERIC", "CONTROL"])}
    print("#ifdef ASCII")
    for row in range(0, 128, 16):
        print("ASCII(%s)" % ", ".join(str(sum(b for n, b in bit.items() if c in found[n])) for c in range(row, row + 16)))
    print("#undef ASCII\n#endif")
    for name, cps in found.items():
        print("#ifdef %s" % name)
        rows = ["%s(0x%X, 0x%X)" % (name, a, b) for a, b in ranges(c for c in cps if c >= 128)]
        for i in range(0, len(rows), 5):
            print(" ".join(rows[i:i + 5]))
        print("#undef %s\n#endif" % name)
    print("#ifdef LOWER /* first, last, every how many, what is added */")
    rows, i = [], 0
    while i < len(lowered):
        best = (i, 1)
        for stride in (1, 2):
            j = i
            while j + 1 < len(lowered) and lowered[j + 1] == (lowered[j][0] + stride, lowered[i][1]):
                j += 1
            if j > best[0]:
                best = (j, stride)
        rows.append("LOWER(0x%X, 0x%X, %d, %d)" % (lowered[i][0], lowered[best[0]][0], best[1], lowered[i][1]))
        i = best[0] + 1
    for k in range(0, len(rows), 4):
        print(" ".join(rows[k:k + 4]))
    print("#undef LOWER\n#endif")


if __name__ == "__main__":
    if sys.argv[1:] == ["--sets"]:
        sets()
