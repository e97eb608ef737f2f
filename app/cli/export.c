/* `cyclora export`, `cyclora merge`, `cyclora convert` and `cyclora quantize`: four ways to ask for one thing, cyc_export(). What will be
 * written is said before, what was written and how its check went after; --json gives the library's answer as it is. */
#define _POSIX_C_SOURCE 200809L
#include "args.h"
#include "cli.h"
#include "exported.h"
#include "term.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTIONS                                                                                                                            \
    "  --type T         of the matrices: f32, f16, bf16, q8_0, q4_0, q4_1, ...; without it what loses least: a Hugging Face\n"             \
    "                   folder keeps a plain base's type (f16 for a quantised base), GGUF keeps what no adapter touches as\n"              \
    "                   it is and makes the rest f16 where it was quantised. Vectors are f32 in GGUF; the head gets 6 bits\n"              \
    "                   at least\n"                                                                                                        \
    "  --max-shard-size S   of safetensors: 5GB, 500MB (default 5GB)\n"                                                                    \
    "  --force          replaces what an earlier export left there\n"                                                                      \
    "  --no-check       leaves out the check by logits\n"                                                                                  \
    "  --json           what was written and the checks as one JSON object\n"

#define CHECK                                                                                                                              \
    "Tensors are streamed one by one, beside the place and under another name; then the result is opened again: rows of\n"                 \
    "every tensor are compared with the base and its deltas, and its logits on fixed tokens with those of base and adapter\n"              \
    "in the training graph. Beyond what the type's rounding explains it is removed and nothing is left (exit status 1);\n"                 \
    "else it appears under its name, whole. Printed: the worst differences and their places, and the mean KL divergence in\n"              \
    "nats beside the one that the adapter makes.\n"

const char help_export[] =
    "Writes trained adapters in the form that a loader reads, or merged into their base.\n"
    "\n"
    "Usage: cyclora export RUN --to peft|gguf-lora|mlx|hf|gguf [--out PATH] [--model BASE] [--side A|B] [--type T] ...\n"
    "\n"
    "  RUN              a run folder, a checkpoint, or one adapter's folder in PEFT's layout\n"
    "  --to peft        the adapter for PEFT, vLLM, ...: the keys that every version of PEFT knows\n"
    "  --to gguf-lora   the adapter for llama.cpp (--lora)\n"
    "  --to mlx         the adapter for mlx-lm\n"
    "  --to hf          the merged model as a Hugging Face folder\n"
    "  --to gguf        the merged model as one GGUF file\n"
    "  --out PATH       where to (default RUN/export/FORM); of a run with sides A and B a folder that gets both\n"
    "  --model BASE     the base model, where it is not what the adapter names\n"
    "  --side S         of a run with two sides only this one\n" OPTIONS "\n" CHECK "\n"
    "Examples:\n"
    "  cyclora export runs/mine --to gguf-lora\n"
    "  cyclora export runs/mine --to gguf --side A --type q8_0 --out mine-a.gguf\n"
    "  cyclora export runs/mine/A --to hf --model SmolLM2-135M-Instruct --out merged\n"
    "\n"
    "Exit status: 0; 1 where writing or its check failed; 2 for something that cannot be written so, with the reason; 130\n"
    "interrupted, with nothing left.\n";

const char help_merge[] =
    "Adds an adapter to its base: a model of its own, as a GGUF file or a Hugging Face folder, whatever the base is.\n"
    "\n"
    "Usage: cyclora merge --model BASE --adapter DIR --out PATH [--undo [--like BASE]] [--type T] ...\n"
    "\n"
    "  --model BASE     the base: a .gguf file or a Hugging Face folder\n"
    "  --adapter DIR    a LoRA adapter in PEFT's layout, or trained tensors of the base (full, bitfit, ln_tuning)\n"
    "  --out PATH       NAME.gguf for a GGUF file, anything else for a folder\n"
    "  --undo           BASE is a merged model (f32, f16, bf16): the adapter is taken off it again, W - sBA. Both roundings stay:\n"
    "                   printed is the worst difference to the base that it was merged from, --like BASE (the one that the\n"
    "                   adapter names, where it is here)\n" OPTIONS "\n" CHECK "\n"
    "Examples:\n"
    "  cyclora merge --model base.gguf --adapter runs/mine/A --out mine.gguf\n"
    "  cyclora merge --undo --model mine-hf --adapter runs/mine/A --like base-hf --out unmerged\n"
    "  cyclora merge --model base.gguf --adapter runs/mine/A --out mine-q4.gguf --type q4_0     see what 4 bits cost\n"
    "\n"
    "Exit status: as that of `cyclora export`.\n";

const char help_convert[] =
    "Writes a model in the other format, or in another type.\n"
    "\n"
    "Usage: cyclora convert IN OUT [--type T] ...\n"
    "\n"
    "  IN               a .gguf file or a Hugging Face folder; random:SEED[:TYPE] with --model-config for benchmarks\n"
    "  OUT              NAME.gguf for a GGUF file, anything else for a folder\n"
    "  --model-config C a config.json: the shape of random weights\n" OPTIONS "\n" CHECK "\n"
    "Examples:\n"
    "  cyclora convert SmolLM2-135M-Instruct smollm2-q8.gguf --type q8_0\n"
    "  cyclora convert base.gguf base-hf\n"
    "\n"
    "Exit status: as that of `cyclora export`.\n";

const char help_quantize[] =
    "Writes a model with its matrices quantised, once, to a file: what `quantization` of a run does each time that it starts.\n"
    "\n"
    "Usage: cyclora quantize MODEL --to TYPE -o OUT [--modules LIST] [--data FILE] ...\n"
    "\n"
    "  MODEL            a .gguf file or a Hugging Face folder, in f32, f16 or bf16\n"
    "  --to TYPE        of the layers' linear matrices: nf4 (a Hugging Face folder as bitsandbytes has it, which transformers\n"
    "                   and this program read), or q8_0, q6_k, q5_k, q4_k, q5_0, q4_0, ... (a GGUF file). A matrix whose rows a\n"
    "                   type's blocks do not fit gets the next larger type whose blocks do\n"
    "  -o, --out OUT    a folder for nf4, NAME.gguf for the others\n"
    "  --modules LIST   other types for some: lm_head=q8_0,down_proj=q6_k,k_proj=none, by a name's ending or a regular\n"
    "                   expression, the first that matches; none: as it is, as are embeddings, head, norms and biases that\n"
    "                   nothing names. A tied table is embed_tokens and lm_head\n"
    "  --no-double-quant  nf4: the scales stay f32 (4.5 bits a weight and not 4.127)\n"
    "  --data FILE      texts on which both models are compared: JSONL, CSV, JSON or plain lines; --field F names the field\n"
    "  --tokens N       so many tokens of them (default 4096)\n"
    "  --max-shard-size S, --force, --no-check, --json   as of `cyclora convert`\n"
    "\n"
    "Printed is what it costs: the mean KL divergence in nats of the quantised model's next-token distributions from the\n"
    "base's, on 64 fixed tokens and, with --data, on texts, where both models' perplexity is said too.\n"
    "\n" CHECK "\n"
    "Examples:\n"
    "  cyclora quantize SmolLM2-135M-Instruct --to nf4 -o smollm2-nf4 --data held-out.jsonl\n"
    "  cyclora quantize base-hf --to q4_k -o base-q4.gguf --modules embed_tokens=q6_k,lm_head=q6_k\n"
    "\n"
    "Exit status: as that of `cyclora export`.\n";

/* --- asking ---------------------------------------------------------------------------------------------------------- */
static int run(const char *from, cyc_export_options *o, bool json) {
    char *text = NULL;
    if (!json) o->on_plan = exported_plan, o->on_progress = exported_progress, o->on_done = exported_done;
    exported_signals();
    int code = cyc_export(from, o, &text);
    progress_clear();
    if (code) return cli_failed(code);
    if (json) json_line(json_take(text));
    else cyc_free(text);
    return STATUS_OK;
}

struct common {
    const char *type, *shard;
    bool force, unchecked, undo, json;
    int flags; /* more of them */
};
/* clang-format off */
#define COMMON(c)                                                                                                     \
    {"--type", ARG_TEXT, &(c).type, 0}, {"--max-shard-size", ARG_TEXT, &(c).shard, 0}, {"--force", ARG_FLAG, &(c).force, 0}, \
    {"--no-check", ARG_FLAG, &(c).unchecked, 0}, {"--json", ARG_FLAG, &(c).json, 0}
/* clang-format on */

static int finish(const char *from, cyc_export_options *o, const struct common *c) {
    int status = c->shard ? exported_shard(c->shard, &o->max_shard_bytes) : -1;
    if (status >= 0) return status;
    o->type = c->type;
    o->flags = (c->force ? CYC_EXPORT_FORCE : 0) | (c->unchecked ? CYC_EXPORT_UNCHECKED : 0) | (c->undo ? CYC_EXPORT_UNDO : 0) | c->flags;
    return run(from, o, c->json);
}

int cmd_export(int argc, char **argv) {
    const char *from = NULL;
    cyc_export_options o = {0};
    struct common c = {0};
    const struct arg args[] = {{"RUN", ARG_TEXT, &from, 0},
                               {"--to", ARG_TEXT, &o.to, 0},
                               {"--out", ARG_TEXT, &o.out, 0},
                               {"--model", ARG_TEXT, &o.model, 0},
                               {"--side", ARG_TEXT, &o.side, 0},
                               COMMON(c),
                               {0}};
    int status = args_parse("export", argc, argv, args);
    if (status >= 0) return status;
    if (!from) return args_missing("export", "RUN");
    if (!o.to) return args_missing("export", "--to");
    return finish(from, &o, &c);
}

int cmd_merge(int argc, char **argv) {
    const char *adapter = NULL;
    cyc_export_options o = {0};
    struct common c = {0};
    bool undo = false;
    const struct arg args[] = {
        {"--undo", ARG_FLAG, &undo, 0},     {"--like", ARG_TEXT, &o.like, 0},
        {"--model", ARG_TEXT, &o.model, 0}, {"--adapter", ARG_TEXT, &adapter, 0}, {"--out", ARG_TEXT, &o.out, 0}, COMMON(c), {0}};
    int status = args_parse("merge", argc, argv, args);
    if (status >= 0) return status;
    if (!o.model) return args_missing("merge", "--model");
    if (!adapter) return args_missing("merge", "--adapter");
    if (!o.out) return args_missing("merge", "--out");
    if (o.like && !undo) return cli_bad("merge: --like goes with --undo");
    c.undo = undo;
    return finish(adapter, &o, &c);
}

int cmd_convert(int argc, char **argv) {
    cyc_export_options o = {0};
    struct common c = {0};
    const struct arg args[] = {
        {"IN", ARG_TEXT, &o.model, 0}, {"OUT", ARG_TEXT, &o.out, 0}, {"--model-config", ARG_TEXT, &o.model_config, 0}, COMMON(c), {0}};
    int status = args_parse("convert", argc, argv, args);
    if (status >= 0) return status;
    if (!o.model) return args_missing("convert", "IN");
    if (!o.out) return args_missing("convert", "OUT");
    return finish(NULL, &o, &c);
}

/* "lm_head=q8_0,down_proj=none": the parts of a copy, which is freed with the list's first. */
static const char **split_list(const char *text, size_t *n) {
    const char **part = calloc(strlen(text) + 1, sizeof *part);
    char *p = part ? strdup(text) : NULL;
    for (*n = 0; p; *n += 1) {
        part[*n] = p;
        if ((p = strchr(p, ','))) *p++ = 0;
    }
    return part;
}

int cmd_quantize(int argc, char **argv) {
    cyc_export_options o = {0};
    struct common c = {0};
    const char *modules = NULL, **part = NULL;
    bool single = false;
    int tokens = 4096;
    const struct arg args[] = {{"MODEL", ARG_TEXT, &o.model, 0},
                               {"--to", ARG_TEXT, &c.type, 0},
                               {"-o", ARG_TEXT, &o.out, 0},
                               {"--out", ARG_TEXT, &o.out, 0},
                               {"--modules", ARG_TEXT, &modules, 0},
                               {"--no-double-quant", ARG_FLAG, &single, 0},
                               {"--data", ARG_TEXT, &o.data, 0},
                               {"--field", ARG_TEXT, &o.data_field, 0},
                               {"--tokens", ARG_INT, &tokens, 2},
                               {"--max-shard-size", ARG_TEXT, &c.shard, 0},
                               {"--force", ARG_FLAG, &c.force, 0},
                               {"--no-check", ARG_FLAG, &c.unchecked, 0},
                               {"--json", ARG_FLAG, &c.json, 0},
                               {0}};
    int status = args_parse("quantize", argc, argv, args);
    if (status >= 0) return status;
    if (!o.model) return args_missing("quantize", "MODEL");
    if (!c.type) return args_missing("quantize", "--to");
    if (!o.out) return args_missing("quantize", "--out");
    if (o.data_field && !o.data) return cli_bad("quantize: --field says what is read of --data");
    if (modules && !(part = split_list(modules, &o.n_modules))) return cli_bad("quantize: out of memory");
    o.modules = part, o.data_tokens = tokens;
    c.flags = CYC_EXPORT_QUANTIZE | (single ? CYC_EXPORT_SINGLE_QUANT : 0);
    status = finish(NULL, &o, &c);
    if (part) free((char *)(uintptr_t)part[0]);
    free(part);
    return status;
}
