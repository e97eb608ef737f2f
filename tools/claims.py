#!/usr/bin/env python3
"""Is everything there that docs/claims.md names? Each `room.name/case` has to be a case that tests/room/test_name.c runs, each link a page with
that heading. What is not there is printed, and the exit status is 1."""
import os, re, sys

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))


def read(path):
    return open(path, encoding="utf-8").read() if os.path.isfile(path) else ""


def anchors(page):
    """Of a page's headings, as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page, re.M)}


text = read("docs/claims.md")
cases, links = re.findall(r"`([a-z]+)\.([a-z0-9_]+)/(\w+)`", text), re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text)
missing = [f"{r}.{n}/{c}" for r, n, c in cases if not re.search(rf"cmocka_unit_test\w*\({c}\b", read(f"tests/{r}/test_{n}.c"))]
missing += [f"{p}#{h}" if h else p for p, h in links if not read("docs/" + p) or h and h not in anchors(read("docs/" + p))]
for what in dict.fromkeys(missing):
    print(f"docs/claims.md names {what}, which is not there")
sys.exit(bool(missing or not cases or not links))
