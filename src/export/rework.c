/* See rework.h. */
#include "export/rework.h"
#include "base/philox.h"
#include "export/combine.h"
#include "export/items.h"
#include "export/pairs.h"
#include "export/place.h"
#include "export/rework_config.h"
#include "export/svd.h"
#include "io/tensors_out.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RANK = 4096, MOST_ADAPTERS = 64, PURPOSE_DARE = 0x4441, PURPOSE_ROWS = 0x524f };

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

static const struct way {
    const char *name;
    enum { BY_SVD, BY_CAT, BY_NUMBER } by;
    struct combining c;
} ways[] = {{"resize", BY_SVD, {0}},
            {"average", BY_SVD, {0}}, /* of LoRA svd, of others linear */
            {"svd", BY_SVD, {0}},
            {"cat", BY_CAT, {0}},
            {"linear", BY_NUMBER, {0}},
            {"ties", BY_NUMBER, {.thin = THIN_SMALLEST, .elect = true}},
            {"magnitude_prune", BY_NUMBER, {.thin = THIN_SMALLEST}},
            {"dare_linear", BY_NUMBER, {.thin = THIN_RANDOM}},
            {"dare_ties", BY_NUMBER, {.thin = THIN_RANDOM, .elect = true}}};

/* A module of the result, and each input's pair of it. */
struct made {
    const struct lora_pair **of; /* [n]; NULL: that input leaves the module alone */
    const char *module;
    bool table;
    int64_t in, out;
    int rank;
    double scale;
};

struct job {
    const struct rework_request *r;
    const struct way *way;
    bool resize, lora;
    struct combining c;
    arena mem;
    struct adapter_in *in;
    double *weight;
    struct made *made;
    int n_made;
    struct tensor *t; /* what is written, in this order */
    int n;
    json_t *modules;
    double kept, all, worst; /* squares; of the sizes */
    const char *worst_module;
};

/* --- what is asked for ------------------------------------------------------------------------------------------------- */
static err check_request(struct job *j) {
    const struct rework_request *r = j->r;
    for (size_t i = 0; i < sizeof ways / sizeof *ways && !j->way; i++)
        if (!strcmp(ways[i].name, r->how)) j->way = &ways[i];
    if (!j->way)
        return fail(
            E_USAGE,
            "there is no way '%s' to make an adapter of others (average, svd, cat, linear, ties, magnitude_prune, dare_linear, dare_ties)",
            r->how);
    j->resize = !strcmp(r->how, "resize");
    j->c = j->way->c;
    j->c.density = r->density, j->c.by_count = r->by_count, j->c.key = philox_key(r->seed, PURPOSE_DARE);
    if (r->n < 1 || r->n > (j->resize ? 1 : MOST_ADAPTERS))
        return fail(E_USAGE, "%s of %d adapters: it takes %s", r->how, r->n, j->resize ? "one" : "1 to 64");
    if (r->rank < j->resize || r->rank > MOST_RANK) return fail(E_USAGE, "a rank of %d: it must be 1 to %d", r->rank, MOST_RANK);
    if (r->rank && j->way->by != BY_SVD) return fail(E_USAGE, "%s has no use for a rank: resize has, and svd", r->how);
    if (r->n_weights && r->n_weights != r->n) return fail(E_USAGE, "%d weights for %d adapters", r->n_weights, r->n);
    for (int i = 0; i < r->n_weights; i++)
        if (!isfinite(r->weights[i])) return fail(E_USAGE, "weight %d is not a number", i + 1);
    if (j->c.thin && !(r->density > 0 && r->density <= 1))
        return fail(E_USAGE, "%s: the density, the part of the numbers that stays, must be above 0 and at most 1; it is %g", r->how, r->density);
    if (!j->c.thin && r->density != 0) return fail(E_USAGE, "%s leaves no numbers out: a density has no use there", r->how);
    return OK;
}

static err open_all(struct job *j) {
    const struct rework_request *r = j->r;
    j->in = arena_alloc(&j->mem, (size_t)r->n * sizeof *j->in);
    j->weight = arena_alloc(&j->mem, (size_t)r->n * sizeof *j->weight);
    if (!j->in || !j->weight) return out_of_memory();
    for (int i = 0; i < r->n; i++) {
        TRY(adapter_in_open(r->folders[i], &j->in[i]));
        j->weight[i] = r->n_weights ? r->weights[i] : j->c.elect || j->resize ? 1 : 1.0 / r->n;
    }
    j->lora = !strcmp(j->in[0].type, "LORA");
    for (int i = 0; i < r->n && (j->lora || j->resize); i++) {
        struct adapter_in *a = &j->in[i];
        if (!strcmp(a->type, j->in[0].type)) TRY(pairs_read(a->folder, a->config, a->path, &a->files, &(struct pairs_use){.why = j->resize ? NULL : " has no products that could be added up"}, &a->pairs));
    }
    return adapters_agree(j->in, r->n, r->base);
}

/* --- LoRA: what will be made --------------------------------------------------------------------------------------------- */
static struct made *made_of(struct job *j, const struct lora_pair *p, int hint) {
    for (int k = 0; k < j->n_made; k++) {
        struct made *m = &j->made[(hint + k) % j->n_made]; /* files have one order mostly */
        if (!strcmp(m->module, p->module) && m->table == p->table) return m;
    }
    struct made *m = &j->made[j->n_made];
    *m = (struct made){.of = arena_alloc(&j->mem, (size_t)j->r->n * sizeof *m->of), .module = p->module, .table = p->table, .in = p->a->d[1], .out = p->b->d[0]};
    return m->of ? j->made + j->n_made++ : NULL;
}

static err add_pair(struct job *j, int input, const struct lora_pair *p, int hint) {
    struct made *m = made_of(j, p, hint);
    if (!m) return out_of_memory();
    if (m->in != p->a->d[1] || m->out != p->b->d[0])
        return fail(E_USAGE, "%s is [%lld, %lld] in %s and [%lld, %lld] in another: they are for different bases", p->module,
                    (long long)p->b->d[0], (long long)p->a->d[1], j->in[input].folder, (long long)m->out, (long long)m->in);
    m->of[input] = p;
    return OK;
}

/* The one rank that numbers can be combined in. */
static err common_rank(const struct job *j, struct made *m) {
    int first = -1;
    for (int i = 0; i < j->r->n; i++) {
        if (!m->of[i]) continue;
        if (first < 0) first = i, m->rank = m->of[i]->rank;
        else if (m->of[i]->rank != m->rank)
            return fail(E_USAGE,
                        "%s has rank %d in %s and %d in %s, and %s wants one: give them one (`cyclora adapter resize`), or add the "
                        "products (svd, cat)",
                        m->module, m->rank, j->in[first].folder, m->of[i]->rank, j->in[i].folder, j->r->how);
    }
    return OK;
}

static err rank_of(const struct job *j, struct made *m) {
    const int64_t most = m->in < m->out ? m->in : m->out;
    int sum = 0, greatest = 0;
    for (int i = 0; i < j->r->n; i++) {
        sum += m->of[i] ? m->of[i]->rank : 0;
        if (j->in[i].pairs.max_rank > greatest) greatest = j->in[i].pairs.max_rank;
    }
    m->scale = j->resize ? m->of[0]->scale : 1;
    if (j->way->by == BY_NUMBER) return common_rank(j, m);
    if (sum > MOST_RANK) return fail(E_USAGE, "the ranks of %s sum to %d; more than %d are not taken", m->module, sum, MOST_RANK);
    if (j->r->rank > most)
        return fail(E_USAGE, "a rank of %d is more than %s has, which is [%lld, %lld]", j->r->rank, m->module, (long long)m->out,
                    (long long)m->in);
    m->rank = j->way->by == BY_CAT ? sum : j->r->rank ? j->r->rank : greatest > most ? (int)most : greatest;
    return OK;
}

static struct tensor *add_tensor(struct job *j, const char *name, int64_t rows, int64_t columns) {
    struct tensor *t = &j->t[j->n++];
    *t = (struct tensor){.name = name, .dt = DT_F32, .nd = 2, .d = {rows, columns}, .bytes = (size_t)(rows * columns) * sizeof(float)};
    return t;
}

static const char *name_of(const struct job *j, const struct made *m, bool b) {
    for (int i = 0; i < j->r->n; i++)
        if (m->of[i]) return b ? m->of[i]->b->name : m->of[i]->a->name;
    return NULL;
}

/* Pairs first, then what a resized adapter has beside them, as it is. */
static err plan_lora(struct job *j) {
    int most = 0, beside = 0;
    for (int i = 0; i < j->r->n; i++) {
        const struct lora_pairs *p = &j->in[i].pairs;
        if (!p->n) return fail(E_INPUT, "%s: the adapter holds no lora_A and lora_B", p->folder);
        if (!j->resize && p->dora)
            return fail(E_UNSUPPORTED, "%s: DoRA's lengths are no part of a sum: such adapters can be resized, not added up", p->folder);
        if (!j->resize && p->n_other)
            return fail(E_UNSUPPORTED, "%s: tensor %s is neither lora_A nor lora_B of a module: it cannot be added up", p->folder,
                        p->other[0]->name);
        most += p->n, beside += p->n + p->n_other;
    }
    j->made = arena_alloc(&j->mem, (size_t)most * sizeof *j->made);
    j->t = arena_alloc(&j->mem, (size_t)(2 * most + beside) * sizeof *j->t);
    if (!j->made || !j->t) return out_of_memory();
    for (int i = 0; i < j->r->n; i++)
        for (int k = 0; k < j->in[i].pairs.n; k++) TRY(add_pair(j, i, &j->in[i].pairs.p[k], k));
    for (int k = 0; k < j->n_made; k++) {
        struct made *m = &j->made[k];
        TRY(rank_of(j, m));
        add_tensor(j, name_of(j, m, false), m->rank, m->in);
        add_tensor(j, name_of(j, m, true), m->out, m->rank);
    }
    const struct lora_pairs *p = &j->in[0].pairs;
    for (int k = 0; k < p->n && j->resize; k++)
        if (p->p[k].m) j->t[j->n++] = *p->p[k].m;
    for (int k = 0; k < p->n_other && j->resize; k++) j->t[j->n++] = *p->other[k];
    return OK;
}

/* --- numbers --------------------------------------------------------------------------------------------------------------- */
static err load(const struct adapter_in *a, const struct tensor *t, float *to) {
    int64_t count = 1;
    for (int i = 0; i < t->nd; i++) count *= t->d[i];
    dequantise_row(t->dt, t->data, to, count); /* plain types: no blocks */
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(to[i])) return fail(E_NUMERIC, "%s: %s holds a number that is not finite (element %lld)", a->folder, t->name, (long long)i);
    pages_forget(t->data, t->bytes);
    return OK;
}

/* FNV-1a: one tensor's random numbers are another's in no order of files. */
static uint32_t id_of(const char *name) {
    uint32_t h = 2166136261u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
    return h;
}

/* A module's numbers: what is read, and what is made of it. */
struct workroom {
    float *x, *room;  /* inputs one after the other; room for one */
    float *a, *b;     /* [rank, in], [out, rank] */
    double *da, *db;  /* the stacked product, [r, in] and [r, out], and its approximation behind it */
    double *sizes;
};

static int stacked_rank(const struct job *j, const struct made *m) {
    int r = 0;
    for (int i = 0; i < j->r->n; i++) r += m->of[i] ? m->of[i]->rank : 0;
    return r;
}

/* Of A or B all inputs', combined; weights as PEFT has them: the root on each side, the sign on A's. */
static err by_number(const struct job *j, const struct made *m, bool b, struct workroom *z) {
    float *x[MOST_ADAPTERS], weights[MOST_ADAPTERS];
    const int64_t count = m->rank * (b ? m->out : m->in);
    int n = 0;
    for (int i = 0; i < j->r->n; i++) {
        const struct lora_pair *p = m->of[i];
        if (!p) continue;
        const double w = j->weight[i] * p->scale;
        x[n] = z->x + n * count;
        weights[n] = (float)(sqrt(fabs(w)) * (w < 0 && !b ? -1 : 1));
        TRY(load(&j->in[i], b ? p->b : p->a, x[n++]));
    }
    combine(&j->c, x, weights, n, count, id_of(name_of(j, m, b)), z->room, b ? z->b : z->a);
    return OK;
}

/* All pairs below each other: A times weight and scale, B's columns as rows. */
static err stack(const struct job *j, const struct made *m, struct workroom *z) {
    int64_t row = 0;
    for (int i = 0; i < j->r->n; i++) {
        const struct lora_pair *p = m->of[i];
        if (!p) continue;
        TRY(load(&j->in[i], p->a, z->x));
        for (int64_t k = 0; k < p->rank * m->in; k++)
            z->da[row * m->in + k] = j->way->by == BY_CAT ? (float)((float)(z->x[k] * (float)j->weight[i]) * (float)p->scale)
                                                          : z->x[k] * (j->weight[i] * p->scale);
        TRY(load(&j->in[i], p->b, z->x));
        for (int64_t o = 0; o < m->out; o++)
            for (int k = 0; k < p->rank; k++) z->db[(row + k) * m->out + o] = z->x[o * p->rank + k];
        row += p->rank;
    }
    return OK;
}

static void put_back(const struct made *m, const double *a, const double *b, int rank, double scale, struct workroom *z) {
    for (int64_t k = 0; k < rank * m->in; k++) z->a[k] = (float)a[k];
    for (int64_t o = 0; o < m->out; o++)
        for (int k = 0; k < m->rank; k++) z->b[o * m->rank + k] = k < rank ? (float)(b[k * m->out + o] / scale) : 0;
}

/* New rows of A begin as LoRA's do (PEFT's kaiming_uniform), so that they can learn; B's columns for them are zero. */
static void grow(const struct job *j, const struct made *m, int from, struct workroom *z) {
    const uint64_t key = philox_key(j->r->seed, PURPOSE_ROWS);
    const uint32_t id = id_of(name_of(j, m, false));
    for (int64_t i = from * m->in; i < m->rank * m->in; i++)
        z->a[i] = (2 * philox_unit(philox(key, id, (uint32_t)i, (uint32_t)(i >> 32), 0).v[0]) - 1) / sqrtf((float)m->in);
}

/* A greater rank: the pair as it is. */
static err enlarge(const struct job *j, const struct made *m, struct workroom *z) {
    const struct lora_pair *p = m->of[0];
    TRY(load(&j->in[0], p->a, z->a));
    TRY(load(&j->in[0], p->b, z->x));
    for (int64_t o = 0; o < m->out; o++)
        for (int k = 0; k < m->rank; k++) z->b[o * m->rank + k] = k < p->rank ? z->x[o * p->rank + k] : 0;
    grow(j, m, p->rank, z);
    return OK;
}

static err by_svd(struct job *j, const struct made *m, struct workroom *z, double *lost, double *all) {
    const int r = stacked_rank(j, m), kept = m->rank < r ? m->rank : r;
    *lost = *all = 0;
    if (j->resize && m->rank >= r) return enlarge(j, m, z);
    TRY(stack(j, m, z));
    double *a = z->da + r * m->in, *b = z->db + r * m->out;
    TRY(product_svd(&(struct product){m->in, m->out, r, z->da, z->db}, kept, a, b, z->sizes));
    for (int k = 0; k < r; k++) *all += z->sizes[k] * z->sizes[k], *lost += k < kept ? 0 : z->sizes[k] * z->sizes[k];
    put_back(m, a, b, kept, m->scale != 0 ? m->scale : 1, z);
    grow(j, m, kept, z);
    return OK;
}

static err room_for(const struct job *j, const struct made *m, struct workroom *z) {
    const size_t r = (size_t)stacked_rank(j, m), side = (size_t)(m->in > m->out ? m->in : m->out), rank = (size_t)m->rank;
    const bool by_number = j->way->by == BY_NUMBER;
    z->x = malloc((r + 1) * side * sizeof(float));
    z->room = by_number ? malloc(rank * side * sizeof(float)) : NULL;
    z->a = malloc(rank * (size_t)(m->in + m->out) * sizeof(float));
    z->da = by_number ? NULL : malloc((r + rank) * (size_t)(m->in + m->out) * sizeof(double));
    z->sizes = by_number ? NULL : malloc(r * sizeof(double));
    if (!z->x || !z->a || (by_number ? !z->room : !z->da || !z->sizes)) return out_of_memory();
    z->b = z->a + rank * (size_t)m->in;
    z->db = z->da ? z->da + (r + rank) * (size_t)m->in : NULL;
    return OK;
}

static void note(struct job *j, const struct made *m, double lost, double all) {
    json_t *ranks = json_array(), *o = json_pack("{s:s, s:i}", "module", m->module, "rank", m->rank);
    for (int i = 0; i < j->r->n; i++) json_array_append_new(ranks, m->of[i] ? json_integer(m->of[i]->rank) : json_null());
    json_object_set_new(o, "ranks", ranks);
    if (j->way->by == BY_SVD) {
        const double error = all > 0 ? sqrt(lost / all) : 0;
        json_object_set_new(o, "kept", json_real(1 - error * error));
        json_object_set_new(o, "error", json_real(error));
        j->kept += all - lost, j->all += all;
        if (!j->worst_module || error > j->worst) j->worst = error, j->worst_module = m->module;
    }
    json_array_append_new(j->modules, o);
}

static err make_module(struct job *j, const struct made *m, struct tensors_out *o) {
    struct workroom z = {0};
    double lost = 0, all = 0;
    err e = room_for(j, m, &z);
    if (!e && j->way->by == BY_NUMBER) {
        e = by_number(j, m, false, &z);
        if (!e) e = by_number(j, m, true, &z);
    } else if (!e && j->way->by == BY_CAT) {
        e = stack(j, m, &z);
        if (!e) put_back(m, z.da, z.db, m->rank, 1, &z);
    } else if (!e) e = by_svd(j, m, &z, &lost, &all);
    if (!e) e = tensors_out_put(o, z.a, (size_t)(m->rank * m->in) * sizeof(float));
    if (!e) e = tensors_out_put(o, z.b, (size_t)(m->rank * m->out) * sizeof(float));
    if (!e) note(j, m, lost, all);
    free(z.x), free(z.room), free(z.a), free(z.da), free(z.sizes);
    return e;
}

/* --- other methods --------------------------------------------------------------------------------------------------------- */
static err plan_whole(struct job *j) {
    double sum = 0;
    if (strcmp(j->r->how, "linear") && strcmp(j->r->how, "average"))
        return fail(E_UNSUPPORTED,
                    "%s is of products, which %s adapters (%s) do not hold: only the mean of their tensors can be taken (linear)",
                    j->r->how, j->in[0].type, j->in[0].folder);
    for (int i = 0; i < j->r->n; i++) sum += j->weight[i];
    if (j->r->rank) return fail(E_USAGE, "a rank has no use for %s adapters (%s)", j->in[0].type, j->in[0].folder);
    if (fabs(sum - 1) > 1e-6)
        return fail(E_USAGE, "the weights of %s adapters must sum to 1, for their tensors are no changes from zero; these sum to %g",
                    j->in[0].type, sum);
    TRY(adapters_alike(j->in, j->r->n));
    const struct tensors *ts = &j->in[0].files;
    j->t = arena_alloc(&j->mem, (size_t)ts->n * sizeof *j->t + 1);
    if (!j->t) return out_of_memory();
    for (; j->n < ts->n; j->n++) {
        struct tensor *t = &j->t[j->n];
        *t = ts->t[j->n], t->dt = DT_F32, t->bytes = sizeof(float);
        for (int i = 0; i < t->nd; i++) t->bytes *= (size_t)t->d[i];
    }
    return OK;
}

static err make_whole(const struct job *j, const struct tensor *t, struct tensors_out *o) {
    const size_t count = t->bytes / sizeof(float);
    float *x = malloc(2 * t->bytes + 1), *sum = x ? x + count : NULL;
    err e = x ? OK : out_of_memory();
    for (size_t k = 0; k < count && !e; k++) sum[k] = 0;
    for (int i = 0; i < j->r->n && !e; i++) {
        e = load(&j->in[i], tensors_find(&j->in[i].files, t->name), x);
        for (size_t k = 0; k < count && !e; k++) sum[k] += (float)j->weight[i] * x[k];
    }
    if (!e) e = tensors_out_put(o, sum, t->bytes);
    free(x);
    return e;
}

/* --- the whole ------------------------------------------------------------------------------------------------------------- */
static err write_tensors(struct job *j, struct tensors_out *o) {
    for (int k = 0; k < (j->lora ? j->n_made : j->n); k++) {
        if (j->r->stop && *j->r->stop) return fail(E_INTERRUPTED, "interrupted: nothing was left of %s", j->r->out);
        TRY(j->lora ? make_module(j, &j->made[k], o) : make_whole(j, &j->t[k], o));
    }
    for (int k = 2 * j->n_made; k < j->n && j->lora; k++) TRY(tensors_out_put(o, j->t[k].data, j->t[k].bytes));
    return OK;
}

static err write_config(struct job *j, const char *folder) {
    struct config_change c = {.base = j->r->base, .n = j->n_made, .modules = arena_alloc(&j->mem, (size_t)j->n_made * sizeof *c.modules + 1)};
    if (!c.modules) return out_of_memory();
    for (int k = 0; k < j->n_made; k++) c.modules[k] = (struct module_size){j->made[k].module, j->made[k].rank, j->made[k].scale};
    return rework_config_write(j->in, j->r->n, &c, folder);
}

static err write_all(struct job *j) {
    struct place place;
    struct tensors_out o;
    size_t bytes = 1 << 16;
    for (int i = 0; i < j->n; i++) bytes += j->t[i].bytes;
    for (int i = 0; i < j->r->n; i++) TRY(place_not_itself(j->r->out, j->in[i].folder));
    TRY(place_open(&place, j->r->out, true, j->r->force, bytes));
    char path[4096];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", place.tmp);
    err e = tensors_out_safetensors(&o, path, j->t, j->n, 0);
    if (!e) {
        e = write_tensors(j, &o);
        if (e) tensors_out_abandon(&o);
        else e = tensors_out_commit(&o);
    }
    if (!e) e = write_config(j, place.tmp);
    if (!e) e = place_publish(&place);
    else place_abandon(&place);
    return e;
}

static err tell(const struct job *j, json_t **report) {
    json_int_t parameters = 0, bytes = 0;
    json_t *adapters = json_array();
    for (int i = 0; i < j->n; i++) {
        json_int_t count = 1;
        for (int k = 0; k < j->t[i].nd; k++) count *= (json_int_t)j->t[i].d[k];
        parameters += count, bytes += (json_int_t)j->t[i].bytes;
    }
    for (int i = 0; i < j->r->n; i++) json_array_append_new(adapters, json_pack("{s:s, s:f}", "folder", j->in[i].folder, "weight", j->weight[i]));
    *report = json_pack("{s:s, s:s, s:s, s:I, s:I, s:i, s:o, s:O}", "out", j->r->out, "how", strcmp(j->r->how, "average") ? j->r->how : j->lora ? "svd" : "linear", "method", j->in[0].type, "parameters", parameters, "bytes", bytes, "tensors", j->n, "adapters",
                        adapters, "modules", j->modules);
    if (*report && j->worst_module) {
        json_object_set_new(*report, "kept", json_real(j->all > 0 ? j->kept / j->all : 1));
        json_object_set_new(*report, "worst", json_pack("{s:s, s:f}", "module", j->worst_module, "error", j->worst));
    }
    return *report ? OK : out_of_memory();
}

err rework(const struct rework_request *r, json_t **report) {
    struct job j = {.r = r, .modules = json_array()};
    err e = j.modules ? check_request(&j) : out_of_memory();
    *report = NULL;
    if (!e) e = open_all(&j);
    if (!e) e = j.lora ? plan_lora(&j) : plan_whole(&j);
    if (!e) e = write_all(&j);
    if (!e) e = tell(&j, report);
    for (int i = 0; i < r->n && j.in; i++) adapter_in_close(&j.in[i]);
    json_decref(j.modules);
    arena_free(&j.mem);
    return e;
}
