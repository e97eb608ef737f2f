/* `cyclora prune`: cyc_prune(). Printed: what each block is worth and which go, what part of the activations stays, then what was
 * written and what it has cost on texts that were held out; --json gives the library's answer as it is. */
#include "args.h"
#include "cli.h"
#include "exported.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char help_prune[] =
    "Makes a smaller model of a larger one: what texts make least use of is left out. Nothing is trained: what comes out is worse\n"
    "than its base, by how much is printed, and the place where distillation or further training begins.\n"
    "\n"
    "Usage: cyclora prune MODEL --text FILE [--layers N] [--ffn N] [--heads N] [--hidden N] -o OUT ...\n"
    "       cyclora prune MODEL --drop-layers 3,7-9 [--text FILE] -o OUT ...\n"
    "\n"
    "  MODEL            a .gguf file or a Hugging Face folder: llama (SmolLM2), mistral, qwen2, qwen3, smollm3, gemma2, gemma3\n"
    "  -o, --out OUT    NAME.gguf for a GGUF file, anything else for a folder; --to hf|gguf says it too\n"
    "  --layers N       so many blocks stay\n"
    "  --drop-layers L  these blocks go, counted from 0: 3,7-9\n"
    "  --contiguous     the blocks that go are neighbours: the run whose loss counts least as a whole\n"
    "  --ffn N          so many channels of each feed-forward stay, each block's own\n"
    "  --heads N        so many query heads of each block stay; those that read one key/value head stay or go together\n"
    "  --hidden N       so many columns between blocks stay, the same everywhere (not of gemma, whose width scales its\n"
    "                   embeddings)\n"
    "  --by MEASURE     of blocks: block-influence (default), 1 - the cosine of what goes in and what comes out, one pass over\n"
    "                   the texts; perplexity, of the model without each block, a pass for each. Widths go by activation: the\n"
    "                   magnitude of what a channel, head or column carries, in the same one pass\n"
    "  --text FILE      texts to measure on: plain lines, JSONL, CSV, JSON; --data is the same; --field F names the texts' field\n"
    "  --tokens N       measured on at most so many tokens (default 20000); a quarter as many behind them, of fewer the last\n"
    "                   fifth, are held out, and tell both models' perplexity and their KL divergence\n"
    "  --type T         of the matrices, as of `cyclora convert`; without it blocks that stay whole are copied as they are, and\n"
    "                   what has lost columns of a quantised type becomes f16\n"
    "  --max-shard-size S, --force, --no-check, --json   as of `cyclora convert`\n"
    "\n"
    "The result is opened again and compared tensor by tensor with the part of the base that it should be; where only blocks have\n"
    "gone by logits too. docs/recipes/pruning.md has figures.\n"
    "\n"
    "Examples:\n"
    "  cyclora prune SmolLM2-135M-Instruct --layers 24 --text calibration.txt -o smollm2-24\n"
    "  cyclora prune base.gguf --ffn 1024 --heads 6 --data texts.jsonl --type q8_0 -o small.gguf\n"
    "  cyclora prune base-hf --drop-layers 20-25 -o base-24\n"
    "\n"
    "Exit status: 0; 1 where writing or its check failed; 2 for something that cannot be left out so, with the reason; 130\n"
    "interrupted, with nothing left.\n";

/* --- printing -------------------------------------------------------------------------------------------------------- */
static void print_blocks(const json_t *o) {
    const double span = json_num(o, "span");
    const json_t *list = json_object_get(o, "by_block"), *b;
    const char *by = isnan(json_num(json_array_get(list, 0), "perplexity")) ? "influence" : "perplexity";
    size_t i;
    if (isnan(json_num(json_array_get(list, 0), by))) return; /* nothing was measured */
    if (span > 1) printf("  block   %s of %.0f blocks from here on\n", by, span);
    else printf("  block   %s\n", by);
    json_array_foreach(list, i, b) {
        const double worth = json_num(b, by);
        printf("  %5zu   ", i);
        if (!isnan(worth)) printf(*by == 'i' ? "%10.4f" : "%10.3f", worth);
        printf("%s\n", json_is_true(json_object_get(b, "dropped")) ? "   goes" : "");
    }
}

static void print_units(const json_t *o, const char *name, const char *what, const char *of) {
    const json_t *u = json_object_get(o, name);
    if (!u) return;
    printf("  %-9s %.0f -> %.0f %s: %.1f %% of the %s' magnitude stay", name, json_num(u, "before"), json_num(u, "after"), what,
           100 * json_num(u, "share"), of);
    if (json_num(u, "share") != json_num(u, "least_share"))
        printf(" (least in block %.0f: %.1f %%)", json_num(u, "least_block"), 100 * json_num(u, "least_share"));
    putchar('\n');
}

static void on_measured(void *ctx, const char *text) {
    (void)ctx;
    json_t *o = json_loads(text, 0, NULL);
    if (json_num(o, "tokens") > 0)
        printf("%s%s%s  %s, %.0f blocks; measured on %.0f tokens in %.0f rows, memory %s\n", term_bold(), json_text(o, "model"), term_off(),
               json_text(o, "architecture"), json_num(o, "blocks"), json_num(o, "tokens"), json_num(o, "rows"),
               show_bytes(json_num(o, "memory")));
    if (json_num(o, "blocks_after") < json_num(o, "blocks")) {
        print_blocks(o);
        printf("  %-9s %.0f -> %.0f\n", "blocks", json_num(o, "blocks"), json_num(o, "blocks_after"));
    }
    print_units(o, "ffn", "channels of each block", "activations");
    print_units(o, "kv_heads", "key/value heads of each block, with their query heads", "attention outputs");
    print_units(o, "hidden", "columns", "norms' outputs");
    fflush(stdout);
    json_decref(o);
}

/* --- asking ---------------------------------------------------------------------------------------------------------- */
static int run(cyc_prune_options *o, bool json) {
    char *text = NULL;
    if (!json) o->on_measured = on_measured, o->on_plan = exported_plan, o->on_progress = exported_progress, o->on_done = exported_done;
    exported_signals();
    const int code = cyc_prune(o, &text);
    progress_clear();
    if (code) return cli_failed(code);
    if (json) json_line(json_take(text));
    else cyc_free(text);
    return STATUS_OK;
}

int cmd_prune(int argc, char **argv) {
    cyc_prune_options o = {0};
    const char *shard = NULL;
    bool contiguous = false, force = false, unchecked = false, json = false;
    int layers = 0, ffn = 0, heads = 0, hidden = 0, tokens = CYC_PRUNE_TOKENS;
    const struct arg args[] = {{"MODEL", ARG_TEXT, &o.model, 0},
                               {"-o", ARG_TEXT, &o.out, 0},
                               {"--out", ARG_TEXT, &o.out, 0},
                               {"--to", ARG_TEXT, &o.to, 0},
                               {"--layers", ARG_INT, &layers, 1},
                               {"--drop-layers", ARG_TEXT, &o.drop_layers, 0},
                               {"--contiguous", ARG_FLAG, &contiguous, 0},
                               {"--ffn", ARG_INT, &ffn, 1},
                               {"--heads", ARG_INT, &heads, 1},
                               {"--hidden", ARG_INT, &hidden, 1},
                               {"--by", ARG_TEXT, &o.by, 0},
                               {"--text", ARG_TEXT, &o.data, 0},
                               {"--data", ARG_TEXT, &o.data, 0},
                               {"--field", ARG_TEXT, &o.data_field, 0},
                               {"--tokens", ARG_INT, &tokens, 1},
                               {"--type", ARG_TEXT, &o.type, 0},
                               {"--max-shard-size", ARG_TEXT, &shard, 0},
                               {"--force", ARG_FLAG, &force, 0},
                               {"--no-check", ARG_FLAG, &unchecked, 0},
                               {"--json", ARG_FLAG, &json, 0},
                               {0}};
    int status = args_parse("prune", argc, argv, args);
    if (status >= 0) return status;
    if (!o.model) return args_missing("prune", "MODEL");
    if (!o.out) return args_missing("prune", "--out");
    if (o.data_field && !o.data) return cli_bad("prune: --field says what is read of --text");
    if (shard && (status = exported_shard(shard, &o.max_shard_bytes)) >= 0) return status;
    o.layers = layers, o.ffn = ffn, o.heads = heads, o.hidden = hidden, o.tokens = tokens, o.contiguous = contiguous;
    o.flags = (force ? CYC_EXPORT_FORCE : 0) | (unchecked ? CYC_EXPORT_UNCHECKED : 0);
    return run(&o, json);
}
