#!/usr/bin/env python3
"""Tokenizers of every kind, small, and what Hugging Face's `tokenizers` and SentencePiece make of varied lines with them.

    tokenizer_families.py                writes tests/golden/tokenizer_families
    tokenizer_families.py --real         writes real.json there: the same sums for the real tokenizers in cache/ (MiniLM's
                                         tokenizer.json, and Gemma 3's GGUF as a SentencePiece model)
    tokenizer_families.py --sets         prints src/io/unicode_sets.def: asks the library about every character

The lines are those of tests/golden/tokenizer/lines.txt (tokenizer.py) and more.txt here: one JSON string a line, some
12,000. base_*.json are vocabularies trained here; families.json has pipelines over them:

    base        which vocabulary ("small" is ../tokenizer/small.json)
    patch       keys of the tokenizer.json that it replaces; "model" is merged; "charsmap.txt" stands for that file's text
    special     are special tokens in the text recognised?
    all         FNV-1a (64 bits) over the ids of all lines: of each line its count, then the ids, as 32-bit numbers
    decoded     the same over the bytes of the decoded lines, special tokens kept and then left out; a line whose text
                has U+FFFD counts as empty (there cyclora writes the bytes)
    some        32-bit FNV-1a of every 96th line's ids, to find where a difference begins
    around      the ids that the post-processor puts before and after a text
    gguf        name of the GGUF pre-tokenizer, or kind of GGUF model, that must give the same ids

norms.json has normalizers, each with the FNV-1a (64 bits) of what it makes of every character alone, one after another
in UTF-8 ("charsmap.txt" as above).

spm_*.gguf are models that SentencePiece trained, as llama.cpp's converter writes their vocabulary (no tensors);
spm.json has the same sums for them, by SentencePiece itself.

Training orders equal counts by hash, so another run trains other vocabularies: all files change together.

Made with tokenizers 0.23.3, sentencepiece 0.2.3, gguf 0.19.0.
"""
import base64
import json
import os
import random
import struct
import subprocess
import tempfile
import unicodedata
import sys
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers as N, pre_tokenizers as P, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "tokenizer_families")
OLD = os.path.join(HERE, "..", "tokenizer")
SIGN = "\u2581"


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
    found = {k: set() for k in ["SPACE", "WORD", "PUNCT", "NUMERIC", "CONTROL", "NONSPACING", "MARK", "EXTEND"]}
    # of a cluster whose beginning is replaced the rest is dropped: so shows what goes on one
    to_x = Tokenizer.from_str(json.dumps({"normalizer": T("Precompiled", precompiled_charsmap=compile_rules({"a": "X"})), "model": {"type": "BPE", "vocab": {}, "merges": []}})).normalizer
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
        if to_x.normalize_str("a" + c) == "X":
            found["EXTEND"].add(cp)
        low = lower.normalize_str(c)
        if low != c and cp != 0x130:  # which alone becomes two
            lowered.append((cp, ord(low) - cp))
    print("/* Made by tests/golden/make/tokenizer_families.py --sets; see src/io/unicode.c. Ascending. */")
    bit = {n: 1 << i for i, n in enumerate(["SPACE", "WORD", "MARK", "NONSPACING", "PUNCT", "NUMERIC", "CONTROL", "EXTEND"])}
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


# ---- lines ----
def read_lines(path):
    with open(path, encoding="utf-8", newline="\n") as f:
        return [json.loads(x) for x in f.read().split("\n") if x]


def more_lines(old):
    """What lines.txt has not: the families' own tokens and signs, spaces at the ends, marks in odd places."""
    r = random.Random(20261125)
    words = " ".join(old[:28]).split()
    own = ["<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<extra_id_0>", "[MASK]", "[CLS]", "[SEP]", "[UNK]", "##ing", "##", "<0x41>", "<0xE2>",
           SIGN, SIGN * 2, SIGN + "a", "<bos>", "<start_of_turn>", "<table>", "</table>", "<|user|>", "<|end|>", "``", "''", "\u00ad", "\u0130", "\u1e9e", "\ufb01", "\uff21", "\u00bd",
           "e\u0301", "\u1100\u1161\u11a8", "\u0345", "\u03c3\u03c2", "\u01c5", "\u2167", "\u24b6", "\ufffd", "\u0000", "\u007f", "don't", "can't", "I'm", "do not", " , ", " ."]
    out = ["", " ", "  ", SIGN, " " + SIGN, "a ", " a", "  a  b  ", "\n", "\na", "a\n", "\t", "\u3000", "\u0301", "\u0301a", "\u200ba", "\ufeffa", "\u0000a"]
    for _ in range(500):
        out.append("".join(r.choice(own + words[:60]) + r.choice(["", " ", "", "  ", "\n"]) for _ in range(r.randint(1, 6))))
    for _ in range(60):
        out.append(r.choice(["", " ", "\n", "  "]) + " ".join(r.choice(words) for _ in range(r.randint(10, 60))) + r.choice(["", " ", "\n\n", "   "]))
    out.append("x" * 101 + " " + "y" * 100 + " " + "\u00e9" * 101)
    return out


# ---- sums ----
def fnv32(ids):
    h = 0x811C9DC5
    for b in struct.pack("<%dI" % len(ids), *ids):
        h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return "%08x" % h


def fnv64(h, data):
    for b in data:
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def sums(lines, encode, decode):
    all_ids = decoded = 0xCBF29CE484222325
    some = []
    for i, line in enumerate(lines):
        ids = encode(line)
        all_ids = fnv64(all_ids, struct.pack("<%dI" % (len(ids) + 1), len(ids), *ids))
        for skip in (False, True):
            text = decode(ids, skip)
            decoded = fnv64(decoded, b"" if "\ufffd" in text else text.encode())
        if i % 96 == 0:
            some.append(fnv32(ids))
    return {"all": "%016x" % all_ids, "decoded": "%016x" % decoded, "some": " ".join(some)}


def tokenizer_sums(tok, lines, special, name=""):
    tok.encode_special_tokens = not special
    tok.no_padding()
    tok.no_truncation()
    row = sums(lines, lambda x: tok.encode(x, add_special_tokens=False).ids, lambda ids, skip: tok.decode(ids, skip_special_tokens=skip))
    if name in ("normalised tokens", "lower tokens"):  # of a normalised token it keeps only the normalised text, which is then not special
        row["decoded"] = None
    tok.encode_special_tokens = False
    bare, full = tok.encode("a", add_special_tokens=False).ids, tok.encode("a").ids
    at = next((i for i in range(len(full)) if full[i:i + len(bare)] == bare), 0)
    row["around"] = [full[:at], full[at + len(bare):]]
    return row


# ---- vocabularies ----
def bytes_vocab():
    return ["<0x%02X>" % b for b in range(256)]


def base_chars(text):
    tok = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tok.pre_tokenizer = P.Metaspace()
    tok.train_from_iterator(text, trainers.BpeTrainer(vocab_size=900, show_progress=False, limit_alphabet=180, special_tokens=["<unk>", "<s>", "</s>"] + bytes_vocab()))
    spec = json.loads(tok.to_str())
    spec["added_tokens"] = [x for x in spec["added_tokens"] if not x["content"].startswith("<0x")]
    return spec


def base_unigram(text):
    tok = Tokenizer(models.Unigram())
    tok.pre_tokenizer = P.Metaspace()
    tok.train_from_iterator(text, trainers.UnigramTrainer(vocab_size=700, show_progress=False, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"]))
    spec = json.loads(tok.to_str())
    spec["model"]["vocab"] = [[t, round(s, 6)] for t, s in spec["model"]["vocab"]]
    return spec


def base_wordpiece(text):
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = N.BertNormalizer(lowercase=False, strip_accents=False)
    tok.pre_tokenizer = P.BertPreTokenizer()
    tok.train_from_iterator(text, trainers.WordPieceTrainer(vocab_size=1000, show_progress=False, limit_alphabet=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    return json.loads(tok.to_str())


def charsmap():
    """SentencePiece compiles rules: compatibility forms, odd spaces, letters with their marks."""
    rules = {}
    for cp in list(range(0xA0, 0x180)) + list(range(0x2000, 0x2070)) + list(range(0x2100, 0x2190)) + list(range(0x2460, 0x2500)) + list(range(0xFB00, 0xFB07)) + list(range(0xFF01, 0xFF5F)) + [0x3000]:
        c = chr(cp)
        n = unicodedata.normalize("NFKC", c)
        if n != c and "\n" not in n:
            rules[c] = n
        d = unicodedata.normalize("NFD", c)
        if len(d) == 2:
            rules[d] = c
    rules.update({"\t": " ", "\n": " ", "\r": " ", "\u00ad": "", "\u200b": " ", "\ufeff": "", "\u0301": "", "\uff21\u0301": "X"})
    return compile_rules(rules)


def compile_rules(rules):
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/rules.tsv", "w") as f:
            for k, v in rules.items():
                f.write(" ".join("%X" % ord(c) for c in k) + "\t" + " ".join("%X" % ord(c) for c in v) + "\n")
        with open(d + "/text.txt", "w") as f:
            f.write("\n".join("abc def ghi %d" % i for i in range(200)))
        train(d, "m", input=d + "/text.txt", vocab_size=40, normalization_rule_tsv=d + "/rules.tsv", hard_vocab_limit=False)
        return base64.b64encode(read_model(d + "/m.model").normalizer_spec.precompiled_charsmap).decode()


def norm_rows(table):
    steps = [T(x) for x in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")] + [T("Strip", strip_left=True, strip_right=True), T("Precompiled", precompiled_charsmap="charsmap.txt")]
    flags = ((True, True, None, True), (True, True, None, False), (False, False, True, False))
    steps += [T("BertNormalizer", clean_text=a, handle_chinese_chars=b, strip_accents=c, lowercase=d) for a, b, c, d in flags]
    rows = []
    for step in steps:
        spec = json.dumps({"normalizer": step, "model": {"type": "BPE", "vocab": {}, "merges": []}}).replace("charsmap.txt", table)
        norm = Tokenizer.from_str(spec).normalizer
        made = "".join(norm.normalize_str(chr(c)) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
        rows.append({"normalizer": step, "all": "%016x" % fnv64(0xCBF29CE484222325, made.encode())})
    return rows


# ---- SentencePiece ----
def train(folder, name, **options):
    import sentencepiece
    sentencepiece.SentencePieceTrainer.train(model_prefix=os.path.join(folder, name), minloglevel=2, num_threads=1, **options)


def read_model(path):
    from sentencepiece import sentencepiece_model_pb2
    m = sentencepiece_model_pb2.ModelProto()
    with open(path, "rb") as f:
        m.ParseFromString(f.read())
    return m


def sentencepiece_models(text, lines):
    """BPE with byte fallback: with the space before a text (Llama 2) and without, with symbols of the user's (Gemma)."""
    import sentencepiece
    from gguf import GGUFWriter
    rows = []
    for name, prefix, own in (("llama", True, []), ("gemma", False, ["\n", "\n\n", SIGN * 2, SIGN * 3, "<table>"])):
        with tempfile.TemporaryDirectory() as d:
            with open(d + "/text.txt", "w") as f:
                f.write("\n".join(x.replace("\n", " ") for x in text))
            train(d, "m", input=d + "/text.txt", vocab_size=1000, model_type="bpe", byte_fallback=True, character_coverage=0.99, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, add_dummy_prefix=prefix, user_defined_symbols=own, allow_whitespace_only_pieces=True)
            m = read_model(d + "/m.model")
            sp = sentencepiece.SentencePieceProcessor(model_file=d + "/m.model")
        w = GGUFWriter(os.path.join(OUT, "spm_%s.gguf" % name), "llama")
        w.add_tokenizer_model("llama")
        w.add_token_list([p.piece.replace(SIGN, " ") if p.type == 4 else p.piece for p in m.pieces])
        w.add_token_scores([p.score for p in m.pieces])
        w.add_token_types([p.type for p in m.pieces])
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_unk_token_id(0)
        w.add_add_bos_token(True)
        w.add_add_space_prefix(prefix)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.close()
        row = sums(lines, sp.encode, lambda ids, skip: "\ufffd" if skip else sp.decode(ids))
        rows.append({"name": name, "file": "spm_%s.gguf" % name, "special": False, "around": [[1], []], **row})
    return rows


# ---- families ----
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^" "\r\n" r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[" "\r\n" r"]*|\s*[" "\r\n" r"]+|\s+(?!\S)|\s+")
LETTERS = ("A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉ"
           "ⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃")


def T(kind, **fields):
    return {"type": kind, **fields}


def seq(key, *steps):
    return {"type": "Sequence", key: list(steps)}


def split(pattern, behavior="Isolated", invert=False):
    return T("Split", pattern=pattern if isinstance(pattern, dict) else {"Regex": pattern}, behavior=behavior, invert=invert)


def replace(pattern, content):
    return T("Replace", pattern=pattern if isinstance(pattern, dict) else {"String": pattern}, content=content)


def template(before, after):
    tokens = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in before + after}
    special = lambda x: {"SpecialToken": {"id": x[0], "type_id": 0}}
    a, b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
    return T("TemplateProcessing", single=[special(x) for x in before] + [a] + [special(x) for x in after], pair=[a, b], special_tokens=tokens)


def token(i, content, **flags):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **flags}


def families(bases, table):
    B = lambda prefix=False, regex=False: T("ByteLevel", add_prefix_space=prefix, trim_offsets=True, use_regex=regex)
    digit = T("Digits", individual_digits=True)
    meta = lambda scheme="always", cut=True: T("Metaspace", replacement=SIGN, prepend_scheme=scheme, split=cut)
    pres = lambda *steps: seq("pretokenizers", *steps)
    norms = lambda *steps: seq("normalizers", *steps)
    decs = lambda *steps: seq("decoders", *steps)
    to_sign, from_sign = replace(" ", SIGN), replace(SIGN, " ")
    strip1 = T("Strip", content=" ", start=1, stop=0)
    charmap = T("Precompiled", precompiled_charsmap=table)
    bos = template([("<s>", 1)], [])
    rows = []

    def row(base, name, special=True, gguf=None, **patch):
        if base == "small":
            patch["added_tokens"] = [token(i, x, special=True) for i, x in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])]
        rows.append({"name": name, "base": base, "special": special, "gguf": gguf, "patch": patch})

    # bytes
    row("small", "gpt2", gguf="gpt-2", normalizer=None, pre_tokenizer=B(regex=True))
    row("small", "llama3", gguf="llama-bpe", normalizer=None, pre_tokenizer=pres(split(LLAMA3), B()), model={"ignore_merges": True},
        post_processor=seq("processors", B(), template([("<|endoftext|>", 0)], [])))
    row("small", "qwen2", gguf="qwen2", pre_tokenizer=pres(split(QWEN2), B()))
    row("small", "tekken", gguf="tekken", normalizer=None, pre_tokenizer=pres(split(TEKKEN), B()), model={"ignore_merges": True})
    row("small", "command-r", gguf="command-r", pre_tokenizer=pres(digit, B(regex=True)))
    row("small", "deepseek-llm", gguf="deepseek-llm", normalizer=None,
        pre_tokenizer=pres(split("[\r\n]"), split(r"\s?[%s]+" % LETTERS), split(r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"), split(r"\s+$"), split("[一-龥ࠀ-一가-\ud7ff]+"), digit, B()))
    row("small", "deepseek-coder", gguf="deepseek-coder", normalizer=None,
        pre_tokenizer=pres(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-\ud7ff]+"), digit, B()))
    row("small", "deepseek-v3", gguf="deepseek-v3", normalizer=None, pre_tokenizer=pres(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK3), B()))
    row("small", "roberta", normalizer=None, pre_tokenizer=B(prefix=True, regex=True),
        post_processor=T("RobertaProcessing", sep=["<|im_end|>", 2], cls=["<|endoftext|>", 0], trim_offsets=True, add_prefix_space=True))
    # characters
    llama2 = dict(normalizer=norms(T("Prepend", prepend=SIGN), to_sign), pre_tokenizer=None, decoder=decs(from_sign, T("ByteFallback"), T("Fuse"), strip1))
    row("chars", "llama2", post_processor=bos, **llama2)
    row("chars", "llama2 plain", special=False, **llama2)
    row("chars", "llama2 first", normalizer=None, pre_tokenizer=meta("first", False), decoder=llama2["decoder"], post_processor=bos)
    row("chars", "mistral", normalizer=None, pre_tokenizer=meta("always", True), decoder=llama2["decoder"],
        added_tokens=[token(0, "<unk>", special=True), token(1, "<s>", special=True), token(2, "</s>", special=True), token(900, "[INST]", special=True), token(901, "[/INST]", special=True, lstrip=True)])
    row("chars", "gemma", normalizer=to_sign, pre_tokenizer=split({"String": " "}, "MergedWithPrevious"), decoder=decs(from_sign, T("ByteFallback"), T("Fuse")), post_processor=bos,
        added_tokens=[token(0, "<unk>", special=True), token(1, "<s>", special=True), token(2, "</s>", special=True), token(900, "\n"), token(901, "\n\n"), token(902, "<table>"), token(903, "\u2581\u2581\u2581\u2581"),
                      token(904, "<start_of_turn>", special=True)])
    row("chars", "phi3", post_processor=bos, **llama2, added_tokens=[token(0, "<unk>", special=True), token(1, "<s>", special=True), token(2, "</s>", rstrip=True),
                                                                       token(900, "<|user|>", special=True, rstrip=True), token(901, "<|end|>", special=True, rstrip=True), token(902, "Rechten", single_word=True)])
    row("chars", "normalised tokens", **llama2, added_tokens=[token(0, "<unk>", special=True), token(1, "<s>", special=True, normalized=True), token(900, "<|end|>", special=True, normalized=True), token(901, "Wörd", single_word=True, normalized=True)])
    row("chars", "lower tokens", normalizer=norms(T("Lowercase"), T("NFD")), pre_tokenizer=meta("first"), decoder=llama2["decoder"], added_tokens=[token(900, "WÖRD", single_word=True, normalized=True), token(901, "AND", rstrip=True, lstrip=True, normalized=True)])
    row("chars", "unknown fused", model={"byte_fallback": False}, normalizer=to_sign, pre_tokenizer=None, decoder=decs(from_sign))
    row("chars", "unknown apart", model={"byte_fallback": False, "fuse_unk": False}, normalizer=to_sign, pre_tokenizer=meta("never", True), decoder=meta("never"))
    row("chars", "no unknown", model={"byte_fallback": False, "unk_token": None}, normalizer=norms(T("NFD"), T("StripAccents"), T("Lowercase")), pre_tokenizer=T("Whitespace"), decoder=None)
    row("chars", "whole words", model={"ignore_merges": True}, normalizer=T("Nmt"), pre_tokenizer=pres(T("WhitespaceSplit"), meta("first")), decoder=meta())
    row("chars", "stripped first", normalizer=T("Strip", strip_left=True, strip_right=True), pre_tokenizer=pres(meta("first", True), T("Digits", individual_digits=False)), decoder=decs(meta("first"), T("Fuse")))
    row("chars", "regexes", normalizer=norms(replace({"Regex": r"\s+"}, " "), replace({"Regex": "x*"}, "-"), T("Prepend", prepend=SIGN), replace("aa", "b")), pre_tokenizer=T("Punctuation", behavior="MergedWithNext"), decoder=decs(replace("b", "aa")))
    row("chars", "greedy tokens", normalizer=to_sign, pre_tokenizer=None, decoder=decs(T("ByteFallback"), T("WordPiece", prefix="##", cleanup=False)),
        added_tokens=[token(900, "  ", lstrip=True, rstrip=True), token(901, "Rechten", rstrip=True), token(902, "</table>", lstrip=True)])
    row("chars", "word characters", normalizer=norms(replace({"Regex": r"[^\w\s]"}, "-"), replace({"Regex": r"\W{3,}"}, " ")), pre_tokenizer=pres(split(r"\w+|[^\w\s]+", "Removed", True), split(r"\p{Han}+|\p{Hiragana}|\p{^Latin}\p{Greek}")), decoder=None)
    # Unigram
    ends = [token(0, "<pad>", special=True), token(1, "</s>", special=True), token(2, "<unk>", special=True)]
    row("unigram", "t5", gguf="t5", normalizer=charmap, pre_tokenizer=pres(T("WhitespaceSplit"), meta()), decoder=meta(), post_processor=template([], [("</s>", 1)]),
        added_tokens=ends)
    row("unigram", "t5 with extras", normalizer=charmap, pre_tokenizer=pres(T("WhitespaceSplit"), meta()), decoder=meta(), post_processor=template([], [("</s>", 1)]),
        added_tokens=ends + [token(700, "<extra_id_0>", special=True, lstrip=True)])
    row("unigram", "albert", normalizer=norms(replace("``", '"'), replace("''", '"'), T("NFKD"), T("StripAccents"), T("Lowercase"), charmap), pre_tokenizer=pres(T("WhitespaceSplit"), meta()), decoder=meta(),
        post_processor=template([("<pad>", 0)], [("</s>", 1)]))
    row("unigram", "xlm-r", normalizer=norms(charmap, T("Strip", strip_left=False, strip_right=True), replace({"Regex": " {2,}"}, SIGN)), pre_tokenizer=meta("first"), decoder=meta())
    row("unigram", "whole text", normalizer=to_sign, pre_tokenizer=None, decoder=decs(from_sign))
    row("unigram_bytes", "with bytes", normalizer=None, pre_tokenizer=meta("always", False), decoder=decs(T("ByteFallback"), meta()))
    # WordPiece
    cls = template([("[CLS]", 2)], [("[SEP]", 3)])
    bert = lambda **kw: T("BertNormalizer", **{"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True, **kw})
    words = T("BertPreTokenizer")
    dec = T("WordPiece", prefix="##", cleanup=True)
    row("wordpiece", "bert cased", gguf="bert", normalizer=bert(lowercase=False), pre_tokenizer=words, post_processor=cls, decoder=dec)
    row("wordpiece", "bert uncased", normalizer=bert(), pre_tokenizer=words, post_processor=T("BertProcessing", sep=["[SEP]", 3], cls=["[CLS]", 2]), decoder=dec, special=False)
    row("wordpiece", "accents kept", normalizer=bert(strip_accents=False), pre_tokenizer=words, decoder=T("WordPiece", prefix="##", cleanup=False))
    row("wordpiece", "accents gone", normalizer=bert(lowercase=False, strip_accents=True, clean_text=False, handle_chinese_chars=False), pre_tokenizer=words, decoder=dec)
    row("wordpiece", "short words", model={"max_input_chars_per_word": 5}, normalizer=T("Lowercase"), pre_tokenizer=pres(T("Whitespace"), T("Punctuation", behavior="Contiguous")), decoder=dec)
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext"):
        row("wordpiece", "marks " + behavior, normalizer=T("NFKC"), pre_tokenizer=pres(T("WhitespaceSplit"), T("Punctuation", behavior=behavior), T("Digits", individual_digits=behavior == "Removed")), decoder=dec)
    return rows


def patched(base, patch):
    spec = json.loads(json.dumps(base))
    for key, value in patch.items():
        if key == "model":
            spec["model"].update(value)
        else:
            spec[key] = value
    return spec


def main():
    os.makedirs(OUT, exist_ok=True)
    old = read_lines(os.path.join(OLD, "lines.txt"))
    more = more_lines(old)
    with open(os.path.join(OUT, "more.txt"), "w", encoding="utf-8", newline="\n") as f:
        f.write("".join(json.dumps(x) + "\n" for x in more))
    lines = old + more
    text = old[:45] * 4 + old[45:2345]
    bases = {"chars": base_chars(text), "unigram": base_unigram(text), "wordpiece": base_wordpiece(text)}
    bases["unigram_bytes"] = patched(bases["unigram"], {"model": {"byte_fallback": True, "vocab": bases["unigram"]["model"]["vocab"] + [[x, -30.0] for x in bytes_vocab()]}})
    trained = dict(bases)
    with open(os.path.join(OLD, "small.json"), encoding="utf-8") as f:
        bases["small"] = json.load(f)
    table = charsmap()
    rows = families(bases, "charsmap.txt")
    for r in rows:
        spec = json.dumps(patched(bases[r["base"]], r["patch"])).replace("charsmap.txt", table)
        r.update(tokenizer_sums(Tokenizer.from_str(spec), lines, r["special"], r["name"]))
        print(r["name"], r["all"], r["around"], file=sys.stderr)
    for name, spec in trained.items():
        with open(os.path.join(OUT, "base_%s.json" % name), "w", encoding="utf-8") as f:
            json.dump(spec, f, ensure_ascii=False, separators=(",", ":"))
    with open(os.path.join(OUT, "charsmap.txt"), "w") as f:
        f.write(table)
    for name, content in (("families", rows), ("norms", norm_rows(table)), ("spm", sentencepiece_models(text, lines))):
        with open(os.path.join(OUT, name + ".json"), "w", encoding="utf-8") as f:
            f.write("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in content) + "\n]\n")


def gemma_sums(path, lines):
    """The vocabulary of a GGUF file as the SentencePiece model that it was made from."""
    import sentencepiece
    from gguf import GGUFReader
    from sentencepiece import sentencepiece_model_pb2
    field = {k: f.contents() for k, f in GGUFReader(path).fields.items() if k.startswith("tokenizer.ggml.")}
    m = sentencepiece_model_pb2.ModelProto()
    for text, kind, score in zip(*(field["tokenizer.ggml." + k] for k in ("tokens", "token_type", "scores"))):
        m.pieces.add(piece=text.replace(" ", SIGN) if kind == 4 else text, type=kind, score=score)
    unk = field["tokenizer.ggml.unknown_token_id"]
    m.pieces[unk].type = 2
    t, n = m.trainer_spec, m.normalizer_spec
    t.model_type, t.byte_fallback, t.vocab_size, t.unk_id, t.bos_id, t.eos_id, t.pad_id = 2, True, len(m.pieces), unk, 2, 1, 0
    n.name, n.add_dummy_prefix, n.remove_extra_whitespaces, n.escape_whitespaces = "identity", False, False, True
    sp = sentencepiece.SentencePieceProcessor(model_proto=m.SerializeToString())
    return {"special": False, "around": [[2], []], **sums(lines, sp.encode, lambda ids, skip: "\ufffd" if skip else sp.decode(ids))}


def real():
    lines = read_lines(os.path.join(OLD, "lines.txt")) + read_lines(os.path.join(OUT, "more.txt"))
    minilm, gemma = "cache/minilm/tokenizer.json", "cache/gemma-3-270m.Q4_K_M.gguf"
    rows = [{"name": "MiniLM", "file": minilm, "both": True, "special": True, **tokenizer_sums(Tokenizer.from_file(minilm), lines, True)},
            {"name": "Gemma 3", "file": gemma, "both": False, **gemma_sums(gemma, lines)}]
    with open(os.path.join(OUT, "real.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--sets"]:
        sets()
    elif sys.argv[1:] == ["--real"]:
        real()
    else:
        main()
