"""SmolLM2-135M-Instruct (Q4_1 GGUF) through transformers -> tests/golden/smollm2/.

First convert the GGUF (weights dequantised to fp32), then run; about three minutes on one core:
  python bench/peers/convert.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --out cache/smollm2-hf
  python tests/golden/make/smollm2.py --model cache/smollm2-hf

text.txt                 the first 10,000 characters of Debian's GPL-3
nll.safetensors          text_ids[M] i32: the whole text.txt;  ids[4,500] i32: its first 2,000 tokens as four windows, no BOS;
                         nll[1996] f32: window w, position t predicting t+1 at [w*499+t] (reshape 4,499);
                         mean[1]
greedy.safetensors       for prompt p (00..19): prompt.p[..] i32, ids.p[64] i32 (plain argmax, nothing stops it, EOS is a
                         token like any other), gap.p[64] f32: top-1 minus top-2 logit at each position, second.p[64] i32: the
                         runner-up; top.ids[20,16] i32, top.logits[20,16] f32: the best 16 after each prompt
texts.json               {"prompts": [...], "continuations": [...]}
tokens.json              [{"text", "ids"}]: awkward strings for a tokenizer test (special tokens in the text are recognised)

nll, gaps and logits are computed in double from the dequantised weights (teacher-forced); the continuations by fp32 with a
KV cache, and checked to be the double model's argmax at every position. Engines that quantise activations will differ.
"""
import argparse
import os

import oracle
from oracle import f32, i32, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = os.path.join(oracle.GOLDEN, "smollm2")
PROMPTS = [
    "The capital of France is", "Once upon a time, there was a little girl who", "def fibonacci(n):\n    ",
    "Water freezes at 0 degrees Celsius, and", "On July 20, 1969, astronaut Neil", "The three primary colors are",
    "Dear Sir or Madam,\n\nI am writing to", "Q: What is 7 times 8?\nA:", "To be, or not to be, that is",
    "Photosynthesis is the process by which", "The quick brown fox", "Recipe: Pancakes\n\nIngredients:\n- ",
    "#include <stdio.h>\n\nint main(void)\n{\n", "The mitochondria", "Once again, the committee decided that",
    "Monday, Tuesday, Wednesday,", "She opened the door slowly and saw", "According to the theory of relativity,",
    "{\"name\": \"Alice\", \"age\": 30, \"city\":", "The largest planet in our solar system"]
AWKWARD = [
    "", " ", "  ", "\n", "\n\n\n", "\t\ta", "a  b   c    d", " leading", "trailing ", "trailing   \n", "Hello, world!",
    "don't I'll we've it's YOU'RE", "1234567890", " 12 345,678.90", "   3 x", "v1.2.3-rc4", "a1b2c3", "²³ Ⅷ ٣٤ 五",
    "naïve café Zürich", "cafe\u0301", "Привет, мир", "日本語のテキスト", "한국어", "שלום עולם", "🙂👍🏽👨‍👩‍👧", "a\u00a0b\u2003c",
    "\u200bzero\u200dwidth", "x_y-z+w=q;{}[]()<>", "...?!...", "http://example.com/a?b=c&d=e#f", "if (a<b && c>d) {\n\treturn 0;\n}\n",
    "MixedCASEWords andCamelCase", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|", "<|endoftext|>x<|endoftext|>",
    "line one\r\nline two\r\n", "\u0000\u0001\u007f", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "— “quoted” ‘text’ …", "\ufeffBOM", "tab\tand  two",
    "end with newline\n", "  \n  \n x"]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="cache/smollm2-hf")
    ap.add_argument("--text", default="/usr/share/common-licenses/GPL-3")
    a = ap.parse_args()
    os.makedirs(OUT, exist_ok=True)
    tok = AutoTokenizer.from_pretrained(a.model)
    text = open(a.text, encoding="utf-8").read()[:10000]
    open(os.path.join(OUT, "text.txt"), "w", encoding="utf-8").write(text)
    oracle.write_json(os.path.join(OUT, "tokens.json"),
                      [{"text": s, "ids": tok(s, add_special_tokens=False)["input_ids"]} for s in AWKWARD], ensure_ascii=True)
    m = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
    prompts, cont = [tok(p, add_special_tokens=False)["input_ids"] for p in PROMPTS], []
    for p in prompts:
        with torch.inference_mode():
            o = m.generate(input_ids=torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.long), do_sample=False,
                           max_new_tokens=64, min_new_tokens=None, eos_token_id=-1, pad_token_id=0)
        cont.append(o[0, len(p):].tolist())
        assert len(cont[-1]) == 64
    ids = tok(text, add_special_tokens=False)["input_ids"]
    win = torch.tensor(ids[:2000]).view(4, 500)
    ce = torch.nn.functional.cross_entropy
    with torch.inference_mode():
        n32 = torch.cat([ce(m(input_ids=w[None]).logits[0, :-1], w[1:], reduction="none") for w in win])
    oracle.exact(m)
    out, top_i, top_l, mism = {}, [], [], []
    with torch.inference_mode():
        nll = torch.cat([ce(m(input_ids=w[None], use_cache=False).logits[0, :-1], w[1:], reduction="none") for w in win])
        for k, (p, c) in enumerate(zip(prompts, cont)):
            lg = m(input_ids=torch.tensor([p + c[:-1]]), use_cache=False).logits[0, len(p) - 1:]
            v, i = lg.topk(2)
            mism += [(k, t, float(v[t, 0] - v[t, 1])) for t in range(64) if int(i[t, 0]) != c[t]]
            out.update({f"prompt.{k:02d}": i32(p), f"ids.{k:02d}": i32(c), f"gap.{k:02d}": f32(v[:, 0] - v[:, 1]),
                        f"second.{k:02d}": i[:, 1].int()})
            v, i = lg[0].topk(16)
            top_i.append(i.int())
            top_l.append(f32(v))
    assert not mism, mism  # fp32 and double disagree on an argmax: change that prompt
    out.update({"top.ids": torch.stack(top_i), "top.logits": torch.stack(top_l)})
    oracle.save(os.path.join(OUT, "nll.safetensors"), {"text_ids": i32(ids), "ids": win.int(), "nll": f32(nll), "mean": f32(nll.mean()[None])})
    oracle.save(os.path.join(OUT, "greedy.safetensors"), out)
    oracle.write_json(os.path.join(OUT, "texts.json"), {"prompts": PROMPTS, "continuations": [tok.decode(c) for c in cont]})
    gaps = torch.cat([out[f"gap.{k:02d}"] for k in range(20)])
    print("tokens", len(ids), "mean nll %.6f" % nll.mean(), "fp32 off by at most %.2e (mean %.2e)" % ((n32 - nll).abs().max(), (n32.mean() - nll.mean()).abs()))
    print("min gap %.5f; gaps under 0.05: %d of %d" % (gaps.min(), int((gaps < 0.05).sum()), len(gaps)),
          "min per prompt", [round(float(out[f"gap.{k:02d}"].min()), 4) for k in range(20)], "EOS in", [k for k, c in enumerate(cont) if 2 in c])


if __name__ == "__main__":
    main()
