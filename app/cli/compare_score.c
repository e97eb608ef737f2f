/* What a run's completions score: an adapter's held-out prompts are completed greedily by `cyclora generate`, another child, and held against
 * the file's own completions. Made once a run (folder/scores.json). See compare.h. */
#define _GNU_SOURCE
#include "base/file.h"
#include "compare.h"
#include <cyclora/cyclora.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64 };

/* Texts with nothing around them. */
static const char *trimmed(arena *mem, const char *s) {
    static const char space[] = " \t\r\n";
    s += strspn(s, space);
    size_t n = strlen(s);
    while (n && strchr(space, s[n - 1])) n--;
    return arena_strn(mem, s, n);
}

struct texts {
    arena *mem;
    const char **v;
    int n, most;
};

static void on_completion(void *ctx, const char *line) {
    struct texts *t = ctx;
    json_t *j = json_loads(line, 0, NULL);
    if (json_object_get(j, "text") && t->n < t->most) t->v[t->n++] = trimmed(t->mem, json_text(j, "text"));
    json_decref(j);
}

/* The first rows of data as prompts in `to`; their completions. Fewer than one: not a file of such pairs. */
static void read_pairs(const char *data, struct texts *want, str *to) {
    FILE *f = fopen(data, "re");
    char *line = NULL;
    size_t room = 0;
    while (f && want->n < want->most && getline(&line, &room, f) > 0) {
        json_t *j = json_loads(line, 0, NULL), *prompt = json_object_get(j, "prompt");
        const char *completion = json_string_value(json_object_get(j, "completion"));
        char *text = json_is_string(prompt) && completion ? json_dumps(prompt, JSON_ENCODE_ANY) : NULL;
        if (text) str_addf(to, "{\"prompt\": %s}\n", text), want->v[want->n++] = trimmed(want->mem, completion);
        free(text);
        json_decref(j);
    }
    free(line);
    if (f) fclose(f);
}

json_t *completions_score(const struct comparison *c, const char *folder) {
    arena mem = {0};
    str prompts = {0};
    struct texts want = {&mem, NULL, 0, c->score}, got = want;
    const char *kept = arena_printf(&mem, "%s/scores.json", folder), *asked = arena_printf(&mem, "%s/prompts.jsonl", folder);
    json_t *j = path_exists(kept) ? json_load_file(kept, 0, NULL) : NULL;
    if (json_num(j, "rows") == c->score) {
        json_object_del(j, "rows");
        arena_free(&mem);
        return j;
    }
    json_decref(j), j = NULL;
    want.v = arena_alloc(&mem, (size_t)c->score * sizeof *want.v);
    got.v = arena_alloc(&mem, (size_t)c->score * sizeof *got.v);
    if (want.v && got.v && *c->scored.data) read_pairs(c->scored.data, &want, &prompts);
    const char *argv[] = {"cyclora", "generate", "--model", c->scored.model, "--adapter", arena_printf(&mem, "%s/adapter", folder), "--file", asked, "--batch", arena_printf(&mem, "%d", BATCH), "--max-new-tokens", c->scored.max_new,
                          "--device", c->scored.device, "--dtype", c->scored.dtype, "--json", NULL};
    cyc_scores s;
    if (want.n && !prompts.failed && !file_write(asked, prompts.p, prompts.n) &&
        !child_run(argv, arena_printf(&mem, "%s/generate.log", folder), on_completion, &got) && got.n == want.n &&
        !cyc_score_texts(got.v, want.v, got.n, &s)) {
        j = json_pack("{s:f, s:f, s:f}", "bleu", s.bleu, "chrf", s.chrf, "exact", s.exact);
        json_t *with = json_deep_copy(j);
        json_object_set_new(with, "rows", json_integer(c->score));
        json_dump_file(with, kept, JSON_REAL_PRECISION(10));
        json_decref(with);
    }
    if (want.n && !j) cli_warn(arena_printf(&mem, "%s: completions were not scored; generate.log says why", folder));
    str_free(&prompts);
    arena_free(&mem);
    return j;
}
