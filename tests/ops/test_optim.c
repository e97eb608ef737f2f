/* Every optimizer against its reference (tests/golden/make/optimizers.py: torch, transformers, bitsandbytes), a hundred steps over matrices that lie
 * in one parameter, matrices of whole and of broken blocks, an embedding and a vector; on the processor, and under `cuda.optim` on a card. Then: how
 * many bytes the states take, that results depend neither on threads nor on pages that are stepped one after the other, that scaling the gradient
 * is grad_scale's, rates and decay by parameter, and the maps of 8-bit states. */
#include "base/arena.h"
#include "base/dynamic_map.h"
#include "optim/optim.h"
#include "support/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS = 9, STEPS = 100, KEEP = 5, POISON = 0xFF, PAGE = 9984 /* bytes: no whole number of rows */ };
static int steps = STEPS; /* `test_optim 1`: the first alone, for tools under which a step takes seconds (racecheck) */
static const struct optim_settings usual = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1};

/* optimizers.py's numbers(step, tensor)[i] */
static float number(int step, int tensor, uint32_t i) {
    uint32_t h = i * 2654435761u + (uint32_t)(step * 40503 + tensor * 9176 + 1);
    h = (h ^ h >> 15) * 2246822519u;
    h = (h ^ h >> 13) * 3266489917u;
    return (float)((int)(h >> 16) - 32768) / 32768;
}

static void add(struct param_set *set, const char *name, int64_t rows, int64_t columns, int parts) {
    struct param_slice slice[3] = {{0}};
    const int64_t d[2] = {rows, columns};
    for (int i = 0; i < parts; i++) slice[i] = (struct param_slice){.name = name, .row0 = rows / parts * i, .rows = rows / parts};
    assert_true(param_get(set, name, columns ? 2 : 1, d, INIT_ZERO, 0, slice, parts) >= 0);
}

/* The SHAPES of optimizers.py; a vector is added first, since sealing puts it last. */
static void make_set(struct param_set *set) {
    *set = (struct param_set){0};
    add(set, "blk.0.norm", 40, 0, 1);
    add(set, "blk.0.wide", 128, 72, 2);
    add(set, "blk.0.attn_qkv.lora_A", 24, 20, 3);
    add(set, "blk.1.tall", 75, 61, 1);
    add(set, "blk.1.ffn_up.lora_B", 24, 8, 1);
    add(set, "token_embd.weight", 30, 8, 1);
    param_seal(set);
}

struct bench {
    const struct backend *backend;
    const struct optimizer *z;
    struct optim_settings how;
    struct param_set set;
    struct optim_state state[OPTIM_STATES];
    int states, threads;
    size_t page;         /* 0: a step is of the whole */
    float *w, *g, *host; /* on the backend; on the host */
    void *scratch;
    size_t scratch_bytes;
};

static struct optim_walk walk_of(const struct param_set *set) {
    const struct optim_part all = optim_whole(set);
    return optim_walk(&all);
}

static void each(struct bench *b, int step, float scale, float *to) {
    struct optim_walk w = walk_of(&b->set);
    struct optim_tensor t;
    memset(b->host, 0, b->set.bytes);
    for (int k = 0; optim_next(&w, &t); k++)
        for (int64_t i = 0; i < t.n; i++)
            b->host[t.at + (size_t)i] = number(step, k, (uint32_t)i) * (step ? scale * ldexpf(1, -(k % 4)) : 1);
    must(b->backend->mem->upload(to, b->host, b->set.bytes));
}

static void begin(struct bench *b, const struct backend *backend, const struct optimizer *z, struct optim_settings how) {
    const struct mem_ops *mem = backend->mem;
    *b = (struct bench){.backend = backend, .z = z, .how = how, .threads = 2};
    make_set(&b->set);
    if (backend->open) must(backend->open());
    b->states = optim_states(z, &b->how, &b->set, b->state);
    for (int i = 0; i < b->states; i++) assert_non_null(b->state[i].p = mem->take(b->state[i].bytes));
    b->scratch_bytes = z->scratch ? z->scratch(&b->set, backend->flat) : 0;
    b->w = mem->take(b->set.bytes), b->g = mem->take(b->set.bytes), b->scratch = mem->take(b->scratch_bytes),
    b->host = malloc(b->set.bytes);
    assert_true(b->w && b->g && b->scratch && b->host);
    each(b, 0, 1, b->w);
}

static void end(struct bench *b) {
    const struct mem_ops *mem = b->backend->mem;
    for (int i = 0; i < b->states; i++) mem->give(b->state[i].p, b->state[i].bytes);
    mem->give(b->w, b->set.bytes), mem->give(b->g, b->set.bytes), mem->give(b->scratch, b->scratch_bytes);
    free(b->host);
    param_free(&b->set);
}

/* Page by page; returns how many. */
static int step_by_pages(const struct optimizer *z, const struct optim_step *whole, size_t page) {
    int n = 0;
    struct optim_state left[OPTIM_STATES], state[OPTIM_STATES];
    memcpy(left, whole->state, (size_t)whole->states * sizeof *left);
    for (size_t from = whole->of.first; from < whole->of.end; n++) {
        struct optim_step o = *whole;
        o.of.first = from;
        o.of.end = optim_page(z, &o.of, page);
        const size_t at = (from - whole->of.first) / sizeof(float);
        o.states = optim_states_take(z, o.how, &o.of, left, whole->states, state);
        o.w = whole->w + at, o.g = whole->g + at, o.state = state;
        must(z->step(&o));
        from = o.of.end;
    }
    return n;
}

/* Step t; `scale` is put into the gradient and taken out again by grad_scale. */
static void step(struct bench *b, int t, float scale) {
    each(b, t, scale, b->g);
    must(b->backend->mem->fill(b->scratch, POISON, b->scratch_bytes));
    double lr = b->z->rate ? b->z->rate(&b->how, 3e-3, t) : 3e-3;
    const struct optim_step o = {.backend = b->backend,
                                 .of = optim_whole(&b->set),
                                 .how = &b->how,
                                 .w = b->w,
                                 .g = b->g,
                                 .state = b->state,
                                 .states = b->states,
                                 .scratch = b->scratch,
                                 .lr = lr,
                                 .t = t,
                                 .grad_scale = 1 / scale,
                                 .threads = b->threads};
    if (!b->page) must(b->z->step(&o));
    else assert_true(step_by_pages(b->z, &o, b->page) >= 4);
}

static const float *weights(struct bench *b) {
    must(b->backend->mem->download(b->host, b->w, b->set.bytes));
    return b->host;
}

/* Within `share` of how far the reference has moved on average, and the rounding of the weights themselves. loose: so many may lie further off. */
static void compare(struct bench *b, const struct tensors *want, const char *name, int t, double share, int loose) {
    char key[64];
    snprintf(key, sizeof key, "%s.%d", name, t);
    const struct tensor *x = tensors_find(want, key);
    assert_non_null(x);
    const float *ref = x->data, *w = weights(b);
    struct optim_walk walk = walk_of(&b->set);
    struct optim_tensor tensor;
    int64_t at = 0;
    int off = 0;
    for (int k = 0; optim_next(&walk, &tensor); at += tensor.n, k++) {
        double moved = 0;
        int n = 0;
        for (int64_t i = (KEEP - at % KEEP) % KEEP; i < tensor.n; i += KEEP, n++)
            moved += fabs((double)ref[(at + i) / KEEP] - (double)number(0, k, (uint32_t)i));
        for (int64_t i = (KEEP - at % KEEP) % KEEP; i < tensor.n; i += KEEP) {
            const double got = (double)w[tensor.at + (size_t)i], is = (double)ref[(at + i) / KEEP];
            if (fabs(got - is) <= share * moved / n + t * 0x1p-24 * fmax(1, fabs(is)) || ++off <= loose) continue;
            flunk("%s on %s, step %d: tensor %d element %lld is %.9g, the reference has %.9g (%d off)", name, b->backend->name, t, k,
                  (long long)i, got, is, off);
        }
    }
    assert_int_equal((at + KEEP - 1) / KEEP, x->d[0]);
}

/* f32: a share of some roundings. Muon's five steps magnify small singular values, and a card rounds them to bf16 as torch does. Lion knows two steps
 * alone, so a direction within rounding of zero may have the other sign. Codes of 8 bits may fall the other way at a tie, which moves an element by
 * a part of a step. */
static const struct reference {
    const char *name;
    const struct optimizer *z;
    struct optim_settings more;
    double share, on_card;
    int loose;
} references[] = {
    {"sgd", &optimizer_sgd, {.momentum = 0.9}, 1e-5, 1e-5, 0},
    {"sgd_plain", &optimizer_sgd, {.momentum = 0}, 1e-5, 1e-5, 0},
    {"sgd_nesterov", &optimizer_sgd, {.momentum = 0.9, .nesterov = true}, 1e-5, 1e-5, 0},
    {"lion_32bit", &optimizer_lion_32bit, {.momentum = 0}, 1e-5, 1e-5, 0},
    {"adafactor", &optimizer_adafactor, {.momentum = 0}, 2e-5, 2e-5, 0},
    {"adafactor_relative", &optimizer_adafactor, {.scale_parameter = true, .relative_step = true}, 2e-5, 2e-5, 0},
    {"muon", &optimizer_muon, {.momentum = 0.95, .match_rms = true}, 1e-4, 0.1, 0},
    {"muon_original", &optimizer_muon, {.momentum = 0.95}, 1e-4, 0.1, 0},
    {"adamw_8bit", &optimizer_adamw_8bit, {.momentum = 0}, 1e-3, 1e-3, 0},
};
enum { REFERENCES = sizeof references / sizeof *references };

static struct optim_settings settings_of(const struct reference *r) {
    struct optim_settings how = r->more;
    how.beta1 = usual.beta1, how.beta2 = usual.beta2, how.epsilon = usual.epsilon, how.weight_decay = usual.weight_decay;
    return how;
}

static void references_hold(void **state) {
    (void)state;
    struct tensors want;
    must(tensors_open("tests/golden/optim/expected.safetensors", &want));
    const struct backend *card = test_card(), *on = card ? card : &backend_cpu;
    for (int k = 0; k < REFERENCES; k++) {
        const struct reference *r = &references[k];
        struct bench b;
        begin(&b, on, r->z, settings_of(r));
        for (int t = 1; t <= steps; t++) {
            step(&b, t, t % 2 ? 4 : 0.5f);
            if (t == 1 || t == STEPS) compare(&b, &want, r->name, t, card ? r->on_card : r->share, r->loose);
        }
        end(&b);
    }
    tensors_close(&want);
}

static void threads_and_pages_do_not_show(void **state) {
    (void)state;
    for (int k = 0; k < REFERENCES && !test_card(); k++) {
        struct bench b[3];
        for (int i = 0; i < 3; i++) {
            begin(&b[i], &backend_cpu, references[k].z, settings_of(&references[k]));
            b[i].threads = i + 1;
            b[i].page = i == 2 ? PAGE : 0;
            for (int t = 1; t <= 3; t++) step(&b[i], t, 1);
        }
        for (int i = 1; i < 3; i++) {
            assert_memory_equal(b[0].w, b[i].w, b[0].set.bytes);
            for (int s = 0; s < b[0].states; s++) assert_memory_equal(b[0].state[s].p, b[i].state[s].p, b[0].state[s].bytes);
        }
        for (int i = 0; i < 3; i++) end(&b[i]);
    }
}

/* Weights and states there and back, the gradient once; what looks more than once says so. */
static void work_of_steps(const struct param_set *set) {
    const double n = (double)param_count(set);
    assert_true(optim_cost(&optimizer_adamw_torch, &usual, set).bytes == 28 * n);
    assert_true(optim_cost(&optimizer_lion_32bit, &usual, set).bytes == 20 * n);
    assert_true(optim_cost(&optimizer_sgd, &usual, set).bytes == 12 * n);
    const double factors = 2.0 * (double)optim_bytes(&optimizer_adafactor, &usual, set);
    assert_true(optim_cost(&optimizer_adafactor, &usual, set).bytes == 24 * n + factors);
    assert_true(optim_cost(&optimizer_muon, &usual, set).flops == 5 * (4.0 * 64 * 64 * 3 * 256 + 3 * 2.0 * 64 * 64 * 64));
}

/* Issue 7: the states of 8-bit AdamW are exactly a quarter of AdamW's, and the blocks' numbers; what is small stays. */
static void bytes_of_states(void **state) {
    (void)state;
    struct param_set set = {0};
    add(&set, "blk.0.a", 64, 256, 1);
    add(&set, "blk.0.b", 512, 64, 2);
    param_seal(&set);
    const int64_t n = param_count(&set);
    assert_int_equal(optim_bytes(&optimizer_adamw_torch, &usual, &set), 8 * n);
    assert_int_equal(optim_bytes(&optimizer_adamw_8bit, &usual, &set), 8 * n / 4 + 2 * n / 256 * 4);
    assert_int_equal(optim_bytes(&optimizer_lion_32bit, &usual, &set), 4 * n);
    assert_int_equal(optim_bytes(&optimizer_sgd, &usual, &set), 0);
    assert_int_equal(optim_bytes(&optimizer_adafactor, &usual, &set), 4 * (64 + 256 + 512 + 2 * 64));
    assert_int_equal(optim_bytes(&optimizer_muon, &usual, &set), 4 * n);
    work_of_steps(&set);
    param_free(&set);
    make_set(&set); /* three of its tensors have 4096 elements or more, of 18, 18 and a part of an 18th block */
    const int64_t coded = 2 * 64 * 72 + 75 * 61, small = param_count(&set) - coded;
    assert_int_equal(optim_bytes(&optimizer_adamw_8bit, &usual, &set), 2 * ((coded + 3) / 4 * 4) + 2 * 54 * 4 + 8 * small);
    param_free(&set);
}

/* Two rates: what learns twice as fast moves twice as far, whichever way the arena is cut, between parameters or inside. */
static void rates(void **state) {
    (void)state;
    static const struct optimizer *const list[] = {&optimizer_adamw_torch, &optimizer_adamw_8bit, &optimizer_adafactor,
                                                   &optimizer_lion_32bit,  &optimizer_sgd,        &optimizer_muon};
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        struct param_set set = {0};
        for (int i = 0; i < 4; i++) {
            char name[32];
            snprintf(name, sizeof name, "blk.%d.w", i);
            add(&set, name, 64, 64, 1);
            param_rate(&set, i, i % 2 ? 2 : 1);
        }
        param_seal(&set);
        const int64_t n = 64 * 64;
        float *w = calloc(4 * (size_t)n, sizeof *w), *g = calloc(4 * (size_t)n, sizeof *g);
        struct optim_settings how = usual;
        struct optim_state s[OPTIM_STATES];
        const int states = optim_states(list[k], &how, &set, s);
        const size_t bytes = list[k]->scratch ? list[k]->scratch(&set, backend_cpu.flat) : 0;
        void *scratch = pages_take(bytes);
        for (int i = 0; i < states; i++) s[i].p = pages_take(s[i].bytes);
        for (int64_t i = 0; i < 4 * n; i++) g[i] = number(1, 0, (uint32_t)(i % n));
        const struct optim_step o = {.backend = &backend_cpu,
                                     .of = optim_whole(&set),
                                     .how = &how,
                                     .w = w,
                                     .g = g,
                                     .state = s,
                                     .states = states,
                                     .scratch = scratch,
                                     .lr = 1e-3,
                                     .t = 1,
                                     .grad_scale = 1,
                                     .threads = 1};
        assert_true(step_by_pages(list[k], &o, PAGE) >= 4);
        for (int64_t i = 0; i < n; i++)
            for (int p = 0; p < 4; p++) {
                const float slow = w[set.p[0].off / 4 + (size_t)i], its = w[set.p[p].off / 4 + (size_t)i];
                assert_true(slow != 0 && fabsf(its - (p % 2 ? 2 : 1) * slow) <= 1e-6f * fabsf(slow));
            }
        for (int i = 0; i < states; i++) pages_give(s[i].p, s[i].bytes);
        pages_give(scratch, bytes);
        free(w), free(g);
        param_free(&set);
    }
}

static void maps(void **state) {
    (void)state;
    struct tensors want;
    must(tensors_open("tests/golden/optim/expected.safetensors", &want));
    for (int sign = 0; sign < 2; sign++) {
        float map[DYNAMIC_CODES];
        dynamic_map(sign, map);
        assert_memory_equal(map, tensors_find(&want, sign ? "map.signed" : "map.unsigned")->data, sizeof map);
    }
    tensors_close(&want);
}

int main(int argc, char **argv) {
    if (argc > 1) steps = atoi(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references_hold),
        cmocka_unit_test(threads_and_pages_do_not_show),
        cmocka_unit_test(bytes_of_states),
        cmocka_unit_test(rates),
        cmocka_unit_test(maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
