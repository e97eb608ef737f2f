/* MACCT through cyclora's public API, outside its tree: two LoRA adapters on one frozen base learn to translate between two
 * piles of unpaired text, and then one of them writes.
 *
 *     cc macct.c $(pkg-config --cflags --libs --static cyclora) -o macct
 *     ./macct MODEL A.jsonl B.jsonl RUN_DIR [key=value]...      (keys: `cyclora help config`) */
#include <cyclora/cyclora.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static int complain(void) { return fprintf(stderr, "macct: %s\n", cyc_error()), 1; }
static void on_signal(int sig) { (void)sig, cyc_stop(); }

static void on_step(void *ctx, const cyc_step *s) {
    (void)ctx;
    printf("step %d/%d  loss A %.3f  B %.3f  (%.1f s, %.1f of them writing)\n", s->step, s->max_steps, s->loss[0], s->loss[1], s->seconds, s->generate_s);
}

static int set(cyc_config *c, const char *key, const char *value) {
    char line[4096];
    snprintf(line, sizeof line, "%s%s%s", key, *key ? "=" : "", value);
    return cyc_config_set(c, line);
}

/* What adapter A makes of one text of side A. */
static int show(const char *base, const char *run, const char *text) {
    char folder[4096], *out = NULL;
    cyc_model *m = NULL;
    cyc_adapter *a = NULL;
    int32_t *ids = NULL;
    size_t n;
    cyc_generation g = {0};
    snprintf(folder, sizeof folder, "%s/A", run);
    int bad = cyc_model_open(base, &m) || cyc_adapter_open(m, folder, &a) || cyc_tokenize(m, text, strlen(text), &ids, &n) ||
              cyc_generate(m, a, (const int32_t *const *)&ids, &n, 1, &(cyc_generate_options){.max_new_tokens = 16}, &g, NULL) ||
              cyc_detokenize(m, g.ids, g.n, 1, &out);
    if (!bad) printf("A: %s -> %s\n", text, out);
    cyc_free(out), cyc_free(g.ids), cyc_free(ids);
    cyc_adapter_close(a), cyc_model_close(m);
    return bad ? complain() : 0;
}

int main(int argc, char **argv) {
    if (argc < 5) return fprintf(stderr, "usage: macct MODEL A.jsonl B.jsonl RUN_DIR [key=value]...\n"), 2;
    signal(SIGINT, on_signal);
    cyc_config *c = cyc_config_new();
    int bad = !c || set(c, "model", argv[1]) || set(c, "A.data", argv[2]) || set(c, "B.data", argv[3]) || set(c, "output_dir", argv[4]);
    for (int i = 5; i < argc && !bad; i++) bad = set(c, "", argv[i]);
    int code = bad ? CYC_BAD_INPUT : cyc_train(c, 0, &(cyc_callbacks){.on_step = on_step}, NULL);
    if (c) cyc_config_free(c);
    return code ? complain() : show(argv[1], argv[4], "abc\n");
}
