/* Levels of recomputation, block by block, on models of seven blocks with dropout on: a decoder, an encoder-decoder (four and five) and an encoder
 * under a head. Whatever is recomputed, and wherever values wait, every gradient has the bits that it has when everything is kept, with the
 * arenas full of NaN first; and what is recomputed takes less memory. Then what is refused. On the reference kernels and the CPU's; with
 * CYC_TEST_DEVICE=cuda on the card, where what waits on the host is copied beside the work. */
#define _GNU_SOURCE
#include "support/folder.h"
#include "support/support.h"
#include "base/file.h"
#include "data/rows.h"
#include "ops/ops.h"
#include "peft/lora.h"
#include "train/learner.h"
#include <jansson.h>

enum { ROWS = 5, LONGEST = 9, SOURCE = 4, CAP = 64 };
static const struct backend *backends[] = {&backend_reference, &backend_cpu};
static int n_backends = 2; /* CYC_TEST_DEVICE=cuda: the card alone, in f32 */

enum kind { DECODER, ENCODER_DECODER, ENCODER, KINDS };
static const struct {
    const char *config, *adapter, *layers[2];
    int n[2];
} models[KINDS] = {
    {GOLDEN "/families/llama_linear/config.json", GOLDEN "/families/llama_linear/adapter", {"num_hidden_layers"}, {7}},
    {GOLDEN "/families/t5/config.json", GOLDEN "/families/t5/adapter", {"num_layers", "num_decoder_layers"}, {4, 5}},
    {GOLDEN "/families/bert/config.json", GOLDEN "/heads/bert/adapter", {"num_hidden_layers"}, {7}},
};
static int blocks_of(enum kind k) { return models[k].n[0] + models[k].n[1]; }

struct bench {
    arena mem;
    struct model model;
    struct structure st;
    struct program train;
    struct learner learner;
    struct workbench wb;
    struct row row[ROWS];
    const struct row *rows[ROWS];
};

/* The fixture's sizes with more layers. */
static const char *config_of(enum kind k) {
    char name[16];
    json_t *j = json_load_file(models[k].config, 0, NULL);
    for (int i = 0; i < 2 && models[k].layers[i]; i++) json_object_set_new(j, models[k].layers[i], json_integer(models[k].n[i]));
    snprintf(name, sizeof name, "config%d.json", (int)k);
    assert_int_equal(json_dump_file(j, at(name), 0), 0);
    json_decref(j);
    return at(name);
}

static void make_rows(struct bench *b, enum kind k) {
    const int vocab = (int)b->model.shape.vocab;
    for (int s = 0; s < ROWS; s++) {
        struct row *r = &b->row[s];
        *r = (struct row){.n = LONGEST - s % 3, .source = k == ENCODER_DECODER ? SOURCE : 0};
        r->ids = arena_alloc(&b->mem, (size_t)r->n * sizeof *r->ids);
        r->supervised = arena_alloc(&b->mem, (size_t)r->n);
        for (int i = 0; i < r->n; i++) {
            r->ids[i] = (int32_t)(philox(5, (uint32_t)s, (uint32_t)i, 0, 0).v[0] % (uint32_t)vocab);
            r->supervised[i] = k == ENCODER ? i == 0 : i > SOURCE;
        }
        r->label = k == ENCODER ? 1 + s % 3 : 0;
        b->rows[s] = r;
    }
}

/* LoRA with dropout whose B is not zero, or (with the head) all of the fixture's settings. */
static err start(struct bench *b, enum kind k, const struct backend *backend, const struct checkpoints *c) {
    *b = (struct bench){0};
    const struct peft_method *method;
    const void *settings;
    struct head head;
    must(model_open("random:3:f32", config_of(k), &b->model));
    must(adapter_read_config(models[k].adapter, &b->mem, &method, &settings));
    must(adapter_read_head(models[k].adapter, &b->mem, &head));
    struct lora lora = *(const struct lora *)settings;
    lora.dropout = 0.2;
    must(structure_init_head(&b->st, &b->model, method, &lora, &head, NULL));
    TRY(program_train(&b->train, &b->model, &b->st, (struct capacity){CAP, ROWS, 0, 0, DT_F32, DT_NONE, 0}, c, backend));
    model_fill(&b->model);
    must(memory_for(&b->wb.mem, (struct program *const[]){&b->train}, 1));
    must(learner_init(&b->learner, &b->st, &b->train, &(struct recipe){.learning_rate = 1e-2}));
    float *w = calloc(1, b->st.params.bytes);
    for (uint32_t i = 0; i < b->st.params.bytes / sizeof *w; i++) w[i] = 0.4f * (philox_unit(philox(9, i, 0, 0, 0).v[0]) - 0.5f);
    must(backend->mem->upload(b->learner.w, w, b->st.params.bytes));
    free(w);
    b->wb.grad = backend->mem->take(b->st.params.bytes);
    b->wb.threads = 1; /* no sum depends on it, and a busy machine makes threads wait */
    must(pack_init(&b->wb.pack, CAP, ROWS));
    make_rows(b, k);
    return OK;
}

static void finish(struct bench *b, const struct backend *backend) {
    if (b->wb.grad) backend->mem->give(b->wb.grad, b->st.params.bytes);
    pack_free(&b->wb.pack);
    free(b->wb.first);
    learner_free(&b->learner);
    memory_free(&b->wb.mem);
    program_free(&b->train);
    structure_free(&b->st);
    model_close(&b->model);
    arena_free(&b->mem);
}

struct took {
    size_t act, host, params;
    int linears, lows;
    double flops;
}; /* lows: of which T alone is wanted */

/* A step's gradient; the caller frees. */
static float *gradient(enum kind k, const struct backend *backend, const struct checkpoints *c, struct took *took) {
    struct bench b;
    double sums[4];
    must(start(&b, k, backend, c));
    /* what a step leaves behind must not matter to the next */
    must(backend->mem->fill(b.wb.mem.act, 0xFF, b.wb.mem.act_bytes));
    must(backend->mem->fill(b.wb.mem.scratch, 0xFF, b.wb.mem.scratch_bytes));
    memset(b.wb.mem.host ? b.wb.mem.host : (char *)sums, 0xFF, b.wb.mem.host ? b.wb.mem.host_bytes : sizeof sums);
    must(learner_gradient(&b.learner, &b.wb, b.rows, ROWS, 42, 7, sums));
    *took = (struct took){.act = b.train.plan.act, .host = b.train.plan.host, .params = b.st.params.bytes, .flops = b.train.plan.flops};
    for (int i = 0; i < b.train.p.ni; i++) {
        const struct inst *s = &b.train.p.in[i];
        if (s->op == &op_linear) ++*(has(s->out[0]) ? &took->linears : &took->lows);
    }
    float *g = to_host(backend, b.wb.grad, b.st.params.bytes);
    finish(&b, backend);
    return g;
}

static void same_gradient(enum kind k, const struct backend *backend, const struct checkpoints *c, const float *want, struct took *took) {
    float *have = gradient(k, backend, c, took);
    for (size_t i = 0; i < took->params / sizeof *have; i++)
        if (memcmp(&have[i], &want[i], sizeof *have))
            flunk("model %d on %s, level %d of %d blocks, rest %d, one for %d, offload %d: number %zu is %.9g, not %.9g", (int)k,
                  backend->name, (int)c->level, c->blocks, (int)c->rest, c->every, c->offload, i, (double)have[i], (double)want[i]);
    free(have);
}

static const struct checkpoints none = {0};

static void test_bits(void **state) {
    (void)state;
    for (int on = 0; on < n_backends; on++)
        for (enum kind k = 0; k < KINDS; k++) {
            const struct backend *backend = backends[on];
            const int L = blocks_of(k);
            struct took kept, took;
            float *want = gradient(k, backend, &none, &kept);
            double size = 0;
            for (size_t i = 0; i < kept.params / sizeof *want; i++) size += fabs((double)want[i]);
            assert_true(size > 0 && isfinite(size));
            for (int offload = 0; offload < 2; offload++) {
                for (int n = 0; n <= L; n += n < 3 || n > L - 3 ? 1 : 2) {
                    same_gradient(k, backend, &(struct checkpoints){.level = CHECKPOINT_BLOCK, .every = n, .offload = offload}, want,
                                  &took);
                    same_gradient(k, backend, &(struct checkpoints){CHECKPOINT_SELECTIVE, CHECKPOINT_NONE, n, 0, offload}, want, &took);
                    same_gradient(k, backend, &(struct checkpoints){CHECKPOINT_BLOCK, CHECKPOINT_SELECTIVE, n, 1, offload}, want, &took);
                    if (n > 1)
                        same_gradient(k, backend, &(struct checkpoints){CHECKPOINT_BLOCK, CHECKPOINT_NONE, n, 2, offload}, want, &took);
                }
                same_gradient(k, backend, &(struct checkpoints){.offload = offload}, want, &took);
            }
            free(want);
        }
}

/* More is recomputed, less is kept: of more blocks, then of whole blocks, then with fewer checkpoints; none of it twice but where there is one
 * checkpoint for several. */
static void test_memory(void **state) {
    (void)state;
    const struct backend *backend = backends[n_backends - 1];
    const int L = blocks_of(DECODER);
    struct took kept, selective, last, took, block;
    free(gradient(DECODER, backend, &none, &kept));
    last = kept;
    for (int n = 1; n <= L; n++, last = took) {
        free(gradient(DECODER, backend, &(struct checkpoints){CHECKPOINT_SELECTIVE, CHECKPOINT_NONE, n, 0, false}, &took));
        assert_true(took.act < last.act && took.flops > last.flops);
        assert_int_equal(took.linears, kept.linears);
    }
    selective = last;
    for (int n = 1; n <= L; n++, last = took) {
        free(gradient(DECODER, backend, &(struct checkpoints){CHECKPOINT_BLOCK, CHECKPOINT_SELECTIVE, n, 1, false}, &took));
        assert_true(took.act < last.act || n == L); /* the last block is there, whatever its level */
        assert_true(took.flops > last.flops || n == L);
    }
    free(gradient(DECODER, backend, &(struct checkpoints){.level = CHECKPOINT_BLOCK}, &block));
    assert_true(block.act < selective.act);
    /* all but the last block again, each once: of the last of its four products only the low-rank part is needed */
    assert_int_equal(block.linears, kept.linears + 3 * (L - 1));
    assert_int_equal(block.lows, L - 1);
    free(gradient(DECODER, backend, &(struct checkpoints){.level = CHECKPOINT_BLOCK, .every = 2}, &took));
    assert_true(took.act < block.act);
    /* blocks 1 and 2, 3 and 4, 5 and 6, then 7, which is the last: the first of each pair whole, to make the other's input */
    assert_int_equal(took.linears, block.linears + 4 * 3);
    assert_int_equal(took.lows, block.lows);
}

/* What blocks read is on the host: it takes that of the card's memory no more, but for what is under way, and the last block's never leaves. */
static void test_offload(void **state) {
    (void)state;
    const struct backend *backend = backends[n_backends - 1];
    for (enum kind k = 0; k < KINDS; k++) {
        const size_t row = 16 * sizeof(float), each = CAP * row; /* C is 16 in each, and rows are as many as the capacity */
        struct took block, off;
        free(gradient(k, backend, &(struct checkpoints){.level = CHECKPOINT_BLOCK}, &block));
        free(gradient(k, backend, &(struct checkpoints){.level = CHECKPOINT_BLOCK, .offload = true}, &off));
        assert_int_equal(block.host, 0);
        assert_true(off.host <= (size_t)(blocks_of(k) - 1) * each && off.host >= (size_t)(blocks_of(k) - 2) * each);
        assert_true(off.act + (size_t)(blocks_of(k) - 4) * each <= block.act);
        assert_int_equal(off.linears, block.linears);
    }
    struct took two, off;
    free(gradient(DECODER, backend, &(struct checkpoints){.level = CHECKPOINT_BLOCK, .every = 2}, &two));
    free(gradient(DECODER, backend, &(struct checkpoints){.level = CHECKPOINT_BLOCK, .every = 2, .offload = true}, &off));
    assert_int_equal(off.host, 3 * CAP * 16 * sizeof(float)); /* of blocks 1, 3 and 5 */
    assert_int_equal(off.linears, two.linears);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        struct checkpoints c;
        const char *says;
    } list[] = {
        {{CHECKPOINT_BLOCK, 0, 8, 1, false},
         "gradient_checkpointing_blocks is 8, and this model has 7 blocks: say at most that, or 0 for all"},
        {{CHECKPOINT_SELECTIVE, 0, 8, 0, false}, "gradient_checkpointing_blocks is 8"},
        {{CHECKPOINT_BLOCK, 0, 0, 8, false}, "gradient_checkpointing: one checkpoint for 8 blocks, and this model has 7 blocks"},
        {{CHECKPOINT_BLOCK, 0, 2, 3, false}, "gradient_checkpointing: one checkpoint for 3 blocks, and it is for 2 blocks"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct bench b;
        assert_int_equal(start(&b, DECODER, backends[0], &list[i].c), E_USAGE);
        if (!strstr(err_text(), list[i].says)) flunk("\"%s\" is not in: %s", list[i].says, err_text());
        finish(&b, backends[0]);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct backend *card = test_card();
    if (card) backends[0] = card, n_backends = 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bits), cmocka_unit_test(test_memory), cmocka_unit_test(test_offload),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, own_folder_make, own_folder_remove);
}
