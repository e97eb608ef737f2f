/* Our side of the comparison with PyTorch+PEFT: the same base, the same token ids, the same settings as bench/peers/.
 *
 *   bench_cyclora MODEL.gguf DATA sft 8 128 [steps]       a LoRA step: batch x sequence, r 16 alpha 32 all-linear, no decay, no clip
 *   bench_cyclora MODEL.gguf DATA generate 8 [reps [int15]]  greedy, prompts of 32 tokens, 64 new, EOS ignored, with an adapter
 *   bench_cyclora MODEL.gguf DATA kl                      what integer activations change: KL(f32 || int15), 8 rows of 512 tokens
 *   bench_cyclora MODEL.gguf DATA macct [steps [int15]]   both halves of a cycle: 8 rows a side, 32 + 30 tokens
 *
 * Prints one RESULT {json} line: best and median seconds, tokens/s, peak resident memory of this process, losses, and for
 * training GFLOP/s (4 flops per matrix parameter and token, attention besides), for decoding GFLOP/s and GB/s of its weights. */
#include "base/process.h"
#include "base/str.h"
#include "ops/ops.h"
#include "train/run.h"
#include "peft/lora.h"
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { NEW = 64, CYCLE_NEW = 30, MOST = 4096 };

struct bench {
    struct run r;
    struct config cfg;
    arena mem;
};

static void die(err e) {
    if (!e) return;
    fprintf(stderr, "bench: %s\n", err_text());
    exit(1);
}

/* DATA/name: one row a line, ids separated by spaces. */
static struct ids *read_rows(struct bench *b, const char *data, const char *name, int *n) {
    str text = {0};
    die(file_read(arena_printf(&b->mem, "%s/%s", data, name), &text));
    struct ids *rows = arena_alloc(&b->mem, MOST * sizeof *rows);
    *n = 0;
    for (char *line = strtok(text.p, "\n"); line && *n < MOST; line = strtok(NULL, "\n"), (*n)++)
        for (char *p = line, *end; *p; p = end) {
            long id = strtol(p, &end, 10);
            if (end == p) break;
            die(ids_push(&rows[*n], (int32_t)id));
        }
    str_free(&text);
    return rows;
}

/* A run without a tokenizer: the data are ids. */
static void start(struct bench *b, const char *model, int sides, bool generates, struct capacity cap) {
    struct run *r = &b->r;
    die(config_init(&b->cfg));
    *r = (struct run){.cfg = &b->cfg, .objective = sides > 1 ? &objective_macct : &objective_sft, .backend = &backend_cpu, .threads = omp_get_max_threads(), .n_plans = 1, .n_bases = 1, .n_sides = sides, .cap = cap};
    struct model *m = &r->base[0].model;
    r->base[0].eos = -1;
    die(model_open(model, NULL, m));
    struct lora lora = {.r = 16, .alpha = 32, .targets.of.take = TAKE_ALL_LINEAR};
    struct plans *p = &r->plans[0];
    die(structure_init(&p->st, m, &method_lora, &lora, &p->modules));
    struct program *list[3];
    int n = 0;
    if (!generates || sides > 1) {
        die(program_build(&p->train, m, MODE_TRAIN, &p->st, cap, CHECKPOINT_SELECTIVE, r->backend, false));
        list[n++] = &p->train;
    }
    if (generates) {
        die(generator_build(&p->gen, m, &p->st, cap, r->backend));
        list[n++] = &p->gen.prefill;
        list[n++] = &p->gen.decode;
    }
    die(memory_for(&r->wb.mem, list, n));
    die(pack_init(&r->wb.pack, cap.tokens, cap.sequences));
    r->wb.threads = r->threads;
    r->wb.grad = arena_f32(p->st.params.bytes);
    for (int i = 0; i < sides; i++) {
        struct recipe q = {.learning_rate = 2e-4, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
        r->side[i] = (struct side){.name = i ? "B" : "A", .cfg = &b->cfg.side[i], .base = &r->base[0], .plans = p};
        r->side[i].next = r->side[i].from = &r->side[!i];
        die(learner_init(&r->side[i].learner, &p->st, &p->train, &q));
        die(param_fill(&p->st.params, (uint64_t)i + 1, r->side[i].learner.w));
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void result(const char *item, double *seconds, int n, double tokens, const char *more) {
    qsort(seconds, (size_t)n, sizeof *seconds, ascending);
    double best = seconds[0], median = seconds[n / 2];
    printf("RESULT {\"engine\": \"cyclora\", \"item\": \"%s\", \"threads\": %d, \"best_s\": %.4f, \"median_s\": %.4f, \"n\": %d, "
           "\"tok_s_best\": %.1f, \"tok_s_median\": %.1f, \"peak_mb\": %zu%s}\n",
           item, omp_get_max_threads(), best, median, n, tokens / best, tokens / median, resident_bytes("VmHWM") / 1000000, more);
}

static void bench_sft(struct bench *b, const char *model, const char *data, int batch, int seq, int steps) {
    start(b, model, 1, false, (struct capacity){seq > 256 ? seq : 256, 64, 1, 1, DT_NONE, DT_NONE, 0});
    int n;
    struct ids *ids = read_rows(b, data, seq == 512 ? "sft_512.ids.txt" : "sft_128.ids.txt", &n);
    double seconds[256];
    str more = {0};
    str_adds(&more, ", \"losses\": [");
    for (int s = 0; s < steps; s++) {
        struct row row[64], *list[64];
        for (int i = 0; i < batch; i++) {
            struct ids *t = &ids[(s * batch + i) % n];
            row[i] = (struct row){.ids = t->v, .n = (int)t->n, .supervised = arena_alloc(&b->mem, t->n)};
            memset(row[i].supervised + 1, 1, t->n - 1);
            list[i] = &row[i];
        }
        struct step_result out;
        double t0 = seconds_now();
        die(learner_step(&b->r.side[0].learner, &b->r.wb, (const struct row *const *)list, batch, 1, (uint64_t)s, &out));
        if (s) seconds[s - 1] = seconds_now() - t0;
        str_addf(&more, "%s%.4f", s ? ", " : "", out.loss);
    }
    const struct shape *z = &b->r.base[0].model.shape;
    double matrix = (double)b->r.base[0].model.parameters, tokens = batch * seq;
    double flops = tokens * (4 * matrix + 6.0 * (double)param_count(&b->r.plans[0].st.params)) +
                   12.0 * batch * 0.5 * seq * seq * (double)(z->layers * z->heads * z->head_dim);
    char item[64];
    snprintf(item, sizeof item, "sft %dx%d", batch, seq);
    qsort(seconds, (size_t)steps - 1, sizeof *seconds, ascending);
    str_addf(&more, "], \"gflops_best\": %.1f", flops / seconds[0] / 1e9);
    result(item, seconds, steps - 1, tokens, more.p);
}

static void bench_generate(struct bench *b, const char *model, const char *data, int batch, int reps, bool ints) {
    start(b, model, 1, true, (struct capacity){batch * 32, batch, batch, 32 + NEW, DT_NONE, DT_NONE, 0});
    int n;
    struct ids *prompt = read_rows(b, data, "prompt_32.ids.txt", &n);
    struct generation out[64];
    struct generate_stats st = {0};
    double seconds[64], decode = 1e9;
    for (int k = 0; k <= reps; k++) {
        struct generate_stats one = {0};
        struct generate_request rq = {.prompt = prompt, .n = batch, .max_new = NEW, .eos = -1, .run = {.threads = b->r.threads, .int_activations = ints}};
        double t0 = seconds_now();
        die(generate(&b->r.plans[0].gen, &b->r.wb.mem, b->r.side[0].learner.w, &rq, out, &one));
        if (k) seconds[k - 1] = seconds_now() - t0;
        if (k && one.decode_s < decode) decode = one.decode_s, st = one;
        for (int i = 0; i < batch; i++) free(out[i].ids);
    }
    char item[64], more[256];
    double step = st.decode_s / (NEW - 1), adapter = (double)param_count(&b->r.plans[0].st.params);
    snprintf(item, sizeof item, "generate %d%s", batch, ints ? " int15" : "");
    snprintf(more, sizeof more, ", \"decode_tok_s_best\": %.1f, \"prefill_tok_s\": %.1f, \"gflops_best\": %.1f, \"gb_s_best\": %.1f",
             batch / step, (double)st.prompt_tokens / st.prefill_s, 2 * batch * ((double)b->r.base[0].model.parameters + adapter) / step / 1e9,
             ((double)b->r.base[0].model.bytes + 4 * adapter) / step / 1e9);
    result(item, seconds, reps, batch * NEW, more);
}

/* One decode step of token `pos` of every row; the logits, [rows, vocabulary]. */
static const float *decode_at(struct bench *b, const struct program *decode, const struct memory *mem, const struct ids *row, int rows,
                              int pos, bool ints) {
    int32_t ids[8], at[8], slot[8];
    for (int i = 0; i < rows; i++) ids[i] = row[i].v[pos], at[i] = pos, slot[i] = i;
    struct feed f = {.ids = ids, .pos = at, .slot = slot, .sample = slot, .n = rows};
    struct run_ctx run = {.threads = b->r.threads, .int_activations = ints};
    die(program_run(decode, mem, b->r.side[0].learner.w, NULL, &f, &run, false));
    return program_out(decode, mem, decode->logits, rows, 0).p;
}

static double log_sum(const float *z, int64_t n, int64_t *best) {
    double sum = 0;
    *best = 0;
    for (int64_t i = 0; i < n; i++) *best = z[i] > z[*best] ? i : *best;
    for (int64_t i = 0; i < n; i++) sum += exp((double)(z[i] - z[*best]));
    return z[*best] + log(sum);
}

static double divergence(const float *p, const float *q, int64_t n, int *flips) {
    int64_t best_p, best_q;
    double zp = log_sum(p, n, &best_p), zq = log_sum(q, n, &best_q), kl = 0;
    *flips += best_p != best_q;
    for (int64_t i = 0; i < n; i++) kl += exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
    return kl;
}

/* Eight rows of 512 tokens, teacher-forced, each setting with a KV cache of its own. */
static void bench_kl(struct bench *b, const char *model, const char *data) {
    enum { ROWS = 8, LENGTH = 512 };
    struct capacity cap = {ROWS, ROWS, ROWS, LENGTH, DT_NONE, DT_NONE, 0};
    start(b, model, 1, true, cap);
    struct program decode;
    struct memory mem[2] = {0};
    int n, flips = 0;
    die(program_build(&decode, &b->r.base[0].model, MODE_DECODE, &b->r.plans[0].st, cap, CHECKPOINT_NONE, b->r.backend, true));
    for (int i = 0; i < 2; i++) die(memory_for(&mem[i], (struct program *const[]){&decode}, 1));
    struct ids *ids = read_rows(b, data, "sft_512.ids.txt", &n);
    int64_t vocabulary = b->r.base[0].model.shape.vocab;
    double sum = 0, most = 0;
    for (int pos = 0; pos < LENGTH; pos++) {
        const float *p = decode_at(b, &decode, &mem[0], ids, ROWS, pos, false), *q = decode_at(b, &decode, &mem[1], ids, ROWS, pos, true);
        for (int i = 0; i < ROWS; i++) {
            double kl = divergence(p + i * vocabulary, q + i * vocabulary, vocabulary, &flips);
            sum += kl;
            most = kl > most ? kl : most;
        }
    }
    printf("RESULT {\"engine\": \"cyclora\", \"item\": \"kl int15\", \"tokens\": %d, \"kl_mean\": %.3g, \"kl_max\": %.3g, "
           "\"argmax_differs\": %d}\n",
           ROWS * LENGTH, sum / (ROWS * LENGTH), most, flips);
}

static void bench_macct(struct bench *b, const char *model, const char *data, int steps, bool ints) {
    start(b, model, 2, true, (struct capacity){256, 64, 8, 64, DT_NONE, DT_NONE, 0});
    static const char *const files[] = {"cycle_A.ids.txt", "cycle_B.ids.txt"};
    int32_t *sep = NULL;
    b->cfg.side[0].max_new_tokens = b->cfg.side[1].max_new_tokens = CYCLE_NEW;
    if (ints) die(config_set(&b->cfg, "generation.activations=int15"));
    for (int i = 0; i < 2; i++) {
        struct side *s = &b->r.side[i];
        s->texts = read_rows(b, data, files[i], &s->n_texts);
        b->cfg.side[i].batch = 8;
        for (int k = 0; k < s->n_texts; k++) s->texts[k].n--; /* the separator is the prompt form's tail */
        sep = &s->texts[0].v[s->texts[0].n];
        s->form.tail = (struct ids){sep, 1, 0};
        die(order_init(&s->order, s->n_texts, 1, (uint32_t)i, false));
    }
    double seconds[64], gen[64], train[64];
    str more = {0};
    str_adds(&more, ", \"losses\": [");
    b->r.base[0].eos = 2; /* the answer ends with it; generations are not stopped by it below */
    for (int k = 0; k < steps; k++) {
        struct step_info info = {0};
        double t0 = seconds_now();
        die(objective_macct.step(&b->r, &info));
        if (k) seconds[k - 1] = seconds_now() - t0, gen[k - 1] = info.generate_s, train[k - 1] = info.train_s;
        str_addf(&more, "%s[%.3f, %.3f, %lld]", k ? ", " : "", info.side[0].loss, info.side[1].loss, (long long)info.generated);
        b->r.step++;
    }
    qsort(gen, (size_t)steps - 1, sizeof *gen, ascending);
    qsort(train, (size_t)steps - 1, sizeof *train, ascending);
    str_addf(&more, "], \"generate_s\": %.3f, \"train_s\": %.3f", gen[(steps - 1) / 2], train[(steps - 1) / 2]);
    result(ints ? "macct 8 int15" : "macct 8", seconds, steps - 1, 2 * 8 * (CYCLE_NEW + 63), more.p);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(
            stderr,
            "usage: bench_cyclora MODEL.gguf DATA (sft BATCH SEQ [STEPS] | generate BATCH [REPS [int15]] | kl | macct [STEPS [int15]])\n");
        return 2;
    }
    static struct bench b;
    const char *what = argv[3];
    int a1 = argc > 4 ? atoi(argv[4]) : 0, a2 = argc > 5 ? atoi(argv[5]) : 0, a3 = argc > 6 ? atoi(argv[6]) : 0;
    if (!strcmp(what, "sft")) bench_sft(&b, argv[1], argv[2], a1 ? a1 : 8, a2 ? a2 : 128, a3 ? a3 : 6);
    else if (!strcmp(what, "generate")) bench_generate(&b, argv[1], argv[2], a1 ? a1 : 8, a2 ? a2 : 5, argc > 6 && !strcmp(argv[6], "int15"));
    else if (!strcmp(what, "kl")) bench_kl(&b, argv[1], argv[2]);
    else if (!strcmp(what, "macct")) bench_macct(&b, argv[1], argv[2], a1 ? a1 : 6, argc > 5 && !strcmp(argv[5], "int15"));
    else return 2;
    return 0;
}
