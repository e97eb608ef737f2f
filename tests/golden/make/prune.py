"""What PyTorch says of pruned models -> tests/golden/prune/NAME.safetensors, for test_prune.c.

Run:  python tests/golden/make/prune.py            (torch, transformers, safetensors; seconds, deterministic)

For a tiny checkpoint NAME of tiny_llama/ or families/, of two rows of random ids:
  ids[N] cu_seqlens[3] pos[N]
  layers[L'] channels[L, F'] heads[L, K'] columns[C']   what stays, drawn at random, ascending; int32. heads: key/value heads. columns: not of Gemma
  logits.CUT[N, V]      of the model that transformers makes of a configuration with the smaller sizes and of the tensors' slices;
                        CUT: depth, ffn, heads, hidden or all of these at once
  influence.SPAN[L - SPAN + 1]   mean over tokens of 1 - cos(input of block l, output of block l + SPAN - 1), by forward hooks
  channel[L, F] head[L, K] column[C]   L2 over rows of the mean over a row's positions: |input of down_proj|; the norm of a key/value head's share of
                        o_proj's input; |output| of both norms that a block reads through, summed over norms
  nll[1] nll_without[L] mean loss of a token; and without block l
All in double from the stored weights (tiny_llama: exact(), elsewhere transformers' own f32 parts)."""
import copy
import os

import oracle
from oracle import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

CASES = {"tied_gqa": ("tiny_llama/tied_gqa", ("depth", "ffn", "heads", "hidden", "all")), "bias": ("tiny_llama/bias", ("all",)),
         "untied_mha": ("tiny_llama/untied_mha", ("all",)), "qwen2": ("families/qwen2", ("all",)), "qwen3": ("families/qwen3", ("all",)),
         "smollm3": ("families/smollm3", ("all",)), "mistral": ("families/mistral_full", ("all",)), "gemma2": ("families/gemma2", ("all",)),
         "gemma3": ("families/gemma3", ("all",))}
LENS = (9, 7)


def exact(m):
    return oracle.exact(m) if type(m).__name__.startswith("Llama") else m.double()


def load(path):
    return exact(AutoModelForCausalLM.from_pretrained(os.path.join(oracle.GOLDEN, path), dtype=torch.float32, attn_implementation="eager").eval())


def rows_of(heads, each):
    return torch.cat([torch.arange(h * each, (h + 1) * each) for h in heads.tolist()])


def shrink(path, m, keep):
    """keep: layers, channels, heads, columns; each may be missing. By slices of the state dict, into a model that was made small."""
    c = copy.deepcopy(m.config)
    L, D, group = c.num_hidden_layers, getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads, c.num_attention_heads // c.num_key_value_heads
    layers = keep.get("layers", torch.arange(L)).tolist()
    columns = keep.get("columns", torch.arange(c.hidden_size))
    c.head_dim = D
    c.num_hidden_layers, c.hidden_size = len(layers), len(columns)
    if "channels" in keep:
        c.intermediate_size = keep["channels"].shape[1]
    if "heads" in keep:
        c.num_key_value_heads = keep["heads"].shape[1]
        c.num_attention_heads = group * c.num_key_value_heads
    for name in ("layer_types", "no_rope_layers"):
        if getattr(c, name, None):
            setattr(c, name, [getattr(c, name)[l] for l in layers])
    out = {}
    for name, w in m.state_dict().items():
        part = name.split(".")
        if part[1] == "layers":
            l = int(part[2])
            if l not in layers:
                continue
            rows, cols = slice(None), slice(None)
            channels = keep["channels"][l] if "channels" in keep else slice(None)
            kv = rows_of(keep["heads"][l], D) if "heads" in keep else slice(None)
            q = rows_of(keep["heads"][l], group * D) if "heads" in keep else slice(None)
            what = part[-2]
            rows, cols = {"q_proj": (q, columns), "k_proj": (kv, columns), "v_proj": (kv, columns), "o_proj": (columns, q), "gate_proj": (channels, columns),
                          "up_proj": (channels, columns), "down_proj": (columns, channels)}.get(what, (columns if what not in ("q_norm", "k_norm") else rows, cols))
            name = ".".join(part[:2] + [str(layers.index(l))] + part[3:])
            w = w[rows][:, cols] if w.dim() == 2 else w[rows]
        else:
            w = w[:, columns] if w.dim() == 2 else w[columns]
        out[name] = w.clone()
    small = exact(AutoModelForCausalLM.from_config(c, dtype=torch.float32, attn_implementation="eager").eval())
    small.load_state_dict(out, strict=True)
    return small


def logits(m, rows):
    with torch.no_grad():
        return torch.cat([m(input_ids=torch.tensor([r]), use_cache=False).logits[0] for r in rows])


def nll(m, rows):
    at, sums, n = 0, 0.0, 0
    z = torch.log_softmax(logits(m, rows), -1)
    for r in rows:
        sums -= sum(z[at + i, r[i + 1]] for i in range(len(r) - 1))
        n, at = n + len(r) - 1, at + len(r)
    return sums / n


def importances(m, rows):
    c = m.config
    L, K = c.num_hidden_layers, c.num_key_value_heads
    block, last, channel, head, column = [[] for _ in range(L)], [], [[] for _ in range(L)], [[] for _ in range(L)], {}

    def see(module, to, of):
        return module.register_forward_hook(lambda _, x, y: to.append(of(x, y)))
    first = lambda x, y: x[0][0]
    after = lambda x, y: (y[0] if isinstance(y, tuple) else y).reshape(-1, c.hidden_size)
    hooks = []
    for l, layer in enumerate(m.model.layers):
        norms = (layer.input_layernorm, getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm))
        hooks += [see(layer, block[l], first), see(layer.mlp.down_proj, channel[l], first), see(layer.self_attn.o_proj, head[l], first)]
        hooks += [see(n, column.setdefault((l, i), []), after) for i, n in enumerate(norms)]
    hooks.append(see(m.model.layers[-1], last, after))
    logits(m, rows)
    for h in hooks:
        h.remove()
    x = [torch.cat(b) for b in block] + [torch.cat(last)]
    over = lambda parts: torch.stack([p.mean(0) for p in parts]).norm(dim=0)
    out = {f"influence.{s}": torch.stack([(1 - torch.cosine_similarity(x[l], x[l + s], dim=-1)).mean() for l in range(L - s + 1)]) for s in (1, 2)}
    out["channel"] = torch.stack([over([p.abs() for p in channel[l]]) for l in range(L)])
    out["head"] = torch.stack([over([p.reshape(len(p), K, -1).norm(dim=-1) for p in head[l]]) for l in range(L)])
    out["column"] = sum(over([p.abs() for p in parts]) for parts in column.values())
    return out


def drawn(g, n, keep):
    return torch.randperm(n, generator=g)[:keep].sort().values


def case(name, path, cuts):
    m, c = load(path), AutoConfig.from_pretrained(os.path.join(oracle.GOLDEN, path))
    g = torch.Generator().manual_seed(len(name) + 77)
    L, F, K, C = c.num_hidden_layers, c.intermediate_size, c.num_key_value_heads, c.hidden_size
    rows = [torch.randint(3, c.vocab_size, (n,), generator=g).tolist() for n in LENS]
    keep = {"layers": drawn(g, L, L - 1), "channels": torch.stack([drawn(g, F, F * 5 // 8) for _ in range(L)])}
    if K > 1:
        keep["heads"] = torch.stack([drawn(g, K, K // 2) for _ in range(L)])
    if not name.startswith("gemma"):
        keep["columns"] = drawn(g, C, C * 3 // 4)
    of = {"depth": ("layers",), "ffn": ("channels",), "heads": ("heads",), "hidden": ("columns",), "all": tuple(keep)}
    out = {"ids": torch.tensor(sum(rows, [])), "cu_seqlens": torch.tensor([0, LENS[0], sum(LENS)]), "pos": torch.cat([torch.arange(n) for n in LENS]), **keep}
    out = {k: v.to(torch.int32).contiguous() for k, v in out.items()}
    said = {f"logits.{cut}": logits(shrink(path, m, {k: keep[k] for k in of[cut]}), rows) for cut in cuts}
    said |= importances(m, rows)
    said["nll"] = nll(m, rows)[None]
    if name == "tied_gqa":
        said["nll_without"] = torch.stack([nll(shrink(path, m, {"layers": torch.tensor([k for k in range(L) if k != l])}), rows) for l in range(L)])
    out |= {k: v.detach().to(torch.float32).contiguous() for k, v in said.items()}
    save_file(out, os.path.join(oracle.GOLDEN, "prune", name + ".safetensors"))
    print(name, {k: tuple(v.shape) for k, v in out.items()})


os.makedirs(os.path.join(oracle.GOLDEN, "prune"), exist_ok=True)
for name, (path, cuts) in CASES.items():
    case(name, path, cuts)
