"""How transformers chooses tokens: logits processors, warpers, and beam search -> tests/golden/generation/expected.safetensors.

Run:  python tests/golden/make/generation.py            (torch, transformers, safetensors; some seconds, deterministic)

Distributions: random logits and ids that are there already, through the processors and warpers that generate() makes of a configuration, in its
order (double, so that no sum decides what is kept).
  logits[R,V] history[R,T] known[R] made[R]        of row r: history[r, :known[r]], of which the last made[r] are the answer's
  how[K,6]                                          penalty, min_new, temperature, top_k (0: off), top_p, min_p; eos is id 5
  p.<k>[R,V]                                        the distribution that is drawn from
Texts: what generate() writes behind each prompt, one at a time, models in double. llama.*: tiny_llama/tied_gqa; t5.*: families/t5.
  <m>.prompts[..] <m>.cu[n+1] <m>.eos[1] <m>.new[1]
  <m>.how[C,6]                                      num_beams, length_penalty, early_stopping (0 false, 1 true, 2 never), penalty, min_new, eos (0: none)
  <m>.ids.<c>[..] <m>.ids_cu.<c>[n+1]               without the EOS; <m>.ended.<c>[n]: there was one
"""
import os

import oracle
from oracle import f32, i32, torch
from transformers import GenerationConfig, LlamaForCausalLM, T5ForConditionalGeneration
from transformers.generation import logits_process as lp

OUT = os.path.join(oracle.GOLDEN, "generation")
EOS, R, V, T, NEW = 5, 6, 96, 24, 14
HOW = [(1, 0, 0.7, 0, 1, 0), (1.3, 0, 1, 0, 1, 0), (0.8, 4, 1, 0, 1, 0), (1, 0, 1.5, 7, 1, 0), (1, 0, 1, 0, 0.8, 0), (1, 0, 2, 0, 1, 0.2),
       (1, 0, 3, 0, 1, 1e-4), (1.2, 6, 2, 40, 0.9, 0.1)]
TEXTS = [(1, 1, 0, 1.3, 0, 1), (1, 1, 0, 0.8, 5, 1), (1, 1, 0, 1, 9, 1), (4, 1, 0, 1, 0, 1), (4, 2, 1, 1, 0, 1), (3, 0, 2, 1, 0, 1), (4, -0.5, 0, 1.2, 3, 1),
         (2, 1, 0, 1, 0, 0), (5, 1.5, 2, 1, 4, 1)]


def distributions(out):
    g = torch.Generator().manual_seed(7)
    z = 2 * torch.randn((R, V), generator=g)
    z[:, EOS] += 3
    history = torch.randint(0, V, (R, T), generator=g)
    known = torch.tensor([24, 1, 9, 17, 20, 24])
    made = torch.tensor([3, 0, 4, 8, 5, 7])
    out.update({"logits": f32(z), "history": i32(history), "known": i32(known), "made": i32(made), "how": f32(torch.tensor(HOW))})
    for k, (penalty, min_new, temperature, top_k, top_p, min_p) in enumerate(HOW):
        p = []
        for r in range(R):
            ids, n = history[r:r + 1, :known[r]], int(known[r] - made[r])
            steps = [lp.RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1 else []
            steps += [lp.MinNewTokensLengthLogitsProcessor(n, min_new, EOS)] if min_new else []
            steps += [lp.TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
            steps += [lp.TopKLogitsWarper(top_k)] if top_k else []
            steps += [lp.TopPLogitsWarper(float(top_p))] if top_p < 1 else []
            steps += [lp.MinPLogitsWarper(float(min_p))] if min_p else []
            p.append(lp.LogitsProcessorList(steps)(ids, z[r:r + 1].double()).softmax(-1)[0])
        out[f"p.{k}"] = f32(torch.stack(p))


def texts(out, name, m, prompts, start):
    def write(prompt, beams, length, early, penalty, min_new, eos):
        c = GenerationConfig(max_new_tokens=NEW, num_beams=beams, length_penalty=length, early_stopping=(False, True, "never")[early] if beams > 1 else False,
                             repetition_penalty=float(penalty), min_new_tokens=min_new or None, eos_token_id=eos, pad_token_id=0, do_sample=False,
                             decoder_start_token_id=start, bos_token_id=None,
                             use_cache=False)  # of as many layers as the encoder has, where t5 has more
        full = m.generate(torch.tensor([prompt]), attention_mask=torch.ones((1, len(prompt)), dtype=torch.long), generation_config=c)[0].tolist()
        ids = full[1:] if start is not None else full[len(prompt):]
        ended = eos in ids
        return ids[:ids.index(eos)] if ended else ids[:NEW], ended

    plain = [write(p, 1, 1, 0, 1, 0, None)[0] for p in prompts]
    eos = plain[0][2]  # an id that is written, so that texts end
    cu = [0]
    for p in prompts:
        cu.append(cu[-1] + len(p))
    out.update({f"{name}.prompts": i32(sum(prompts, [])), f"{name}.cu": i32(cu), f"{name}.eos": i32([eos]), f"{name}.new": i32([NEW]),
                f"{name}.how": f32(torch.tensor(TEXTS))})
    for c, how in enumerate(TEXTS):
        got = [write(p, *how[:5], eos if how[5] else None) for p in prompts]
        cu = [0]
        for ids, _ in got:
            cu.append(cu[-1] + len(ids))
        out.update({f"{name}.ids.{c}": i32(sum((ids for ids, _ in got), [])), f"{name}.ids_cu.{c}": i32(cu), f"{name}.ended.{c}": i32([int(e) for _, e in got])})
        print(name, how, [(len(ids), e) for ids, e in got])


def main():
    out = {}
    torch.set_num_threads(1)
    distributions(out)
    g = torch.Generator().manual_seed(8)
    prompts = [torch.randint(3, V, (n,), generator=g).tolist() for n in (4, 1, 6, 11, 3)]
    llama = LlamaForCausalLM.from_pretrained(os.path.join(oracle.GOLDEN, "tiny_llama", "tied_gqa"), dtype=torch.float64)
    texts(out, "llama", llama, prompts, None)
    t5 = T5ForConditionalGeneration.from_pretrained(os.path.join(oracle.GOLDEN, "families", "t5"), dtype=torch.float64)
    texts(out, "t5", t5, [[3 + i % (t5.config.vocab_size - 3) for i in p] for p in prompts], t5.config.decoder_start_token_id)
    oracle.save(os.path.join(OUT, "expected.safetensors"), out)


main()
