/* The lists of items: which tensor of the base becomes which tensor of the output, in which type and row order. See items.h.
 *
 * Where formats are equal the base's own list is walked, in the order of its file, so that tensors which no family knows are copied
 * too. Where they differ the family's list is, with both names of each weight (struct weight). */
#include "export/crossing.h"
#include "export/items.h"
#include "export/nf4_out.h"
#include "export/positions.h"
#include "export/untie.h"
#include <stdlib.h>
#include <string.h>

static err out_of_memory(void) { return fail(E_MEMORY, "out of memory"); }

/* --- lists ----------------------------------------------------------------------------------------------------------- */
static err list_init(struct items *l, int most) {
    *l = (struct items){0};
    l->v = arena_alloc(&l->mem, (size_t)most * sizeof *l->v + 1);
    l->t = arena_alloc(&l->mem, (size_t)most * NF4_TENSORS * sizeof *l->t + 1);
    return l->v && l->t ? OK : out_of_memory();
}

static err list_add(struct items *l, struct item it) {
    it.t.bytes = dtype_row_bytes(it.t.dt, it.cols) * (size_t)it.rows;
    if (it.cols > l->widest) l->widest = it.cols;
    if (it.pick.cols > l->widest) l->widest = it.pick.cols;
    l->v[l->n++] = it;
    const int n = it.t.dt == DT_NF4 ? nf4_out_tensors(&it, l->nested, &l->mem, l->t + l->n_t) : 1;
    if (it.t.dt != DT_NF4) l->t[l->n_t] = it.t;
    l->n_t += n;
    return n ? OK : out_of_memory();
}

/* What the choices say of a tensor of the base; NULL: nothing was chosen. */
static dtype chosen(const struct model *m, const struct weight *w, const dtype *to, dtype otherwise) {
    return to && w && to[w - m->w] ? to[w - m->w] : otherwise;
}

static int by_place(const void *a, const void *b) {
    const char *p = (*(const struct tensor *const *)a)->data, *q = (*(const struct tensor *const *)b)->data;
    return (p > q) - (p < q);
}

/* The base's tensors in the order of its file. */
static const struct tensor **in_order(struct items *l, const struct tensors *files) {
    const struct tensor **t = arena_alloc(&l->mem, (size_t)files->n * sizeof *t + 1);
    for (int i = 0; t && i < files->n; i++) t[i] = &files->t[i];
    if (t) qsort(t, (size_t)files->n, sizeof *t, by_place);
    return t;
}

/* Whose the tensor of the file is. Some files hold a tied table under its other names too. */
static const struct weight *weight_in(const struct model *m, const struct tensor *t) {
    const struct weight *w = weight_of_tensor(m, t);
    const bool again = str_ends(t->name, "lm_head.weight") || str_ends(t->name, "coder.embed_tokens.weight"); /* encoder, decoder */
    return w || !again || !m->shape.tied ? w : model_weight(m, "token_embd.weight");
}

/* An encoder without a head is saved under its own names, not as a part ("bert.") of a model with one. */
static const char *hf_name(const struct model *m, arena *mem, const struct weight *w, bool headed) {
    const char *dot = m->family->encoder && !headed ? strchr(w->module, '.') : NULL;
    return arena_printf(mem, "%s%s", dot ? dot + 1 : w->module, str_ends(w->name, ".bias") ? ".bias" : ".weight");
}

/* Which part of the tensor it is. A vector is a row here, and its numbers are columns. */
static void take_pick(struct item *it, const struct weight *w) {
    if (!w || !w->pick) return;
    it->pick = w->nd == 2 ? *w->pick : (struct picked){.rows = 1, .cols = w->pick->rows, .col = w->pick->row};
    it->changed = it->pick.col != NULL; /* blocks of a type are not what they were */
}

/* What the adapter does to it. w NULL: nobody's. */
static void take_delta(struct item *it, const struct deltas *d, const struct weight *w) {
    const struct delta *x = deltas_of(d, w);
    it->changed = x != NULL;
    it->delta = x && !x->whole ? x : NULL;
}

/* A tensor of the base's file that stays in its format. */
static struct item from_tensor(const struct tensor *t, const struct weight *w, const struct deltas *d, dtype to) {
    struct item it = {.t = *t,
                      .data = t->data,
                      .dt = t->dt,
                      .mapped = true,
                      .rows = 1,
                      .cols = t->d[t->nd - 1]};
    take_delta(&it, d, w);
    take_pick(&it, w);
    for (int i = 0; i < t->nd - 1; i++) it.rows *= t->d[i];
    if (w && w->rope_heads && t->nd == 2) it.head = it.rows / w->rope_heads, it.from_pairs = it.to_pairs = true;
    it.t.dt = to;
    it.transposed = w && w->nd == 2 && t->nd == 2 && w->data != t->data && t->d[0] == w->d[1] && t->d[1] == w->d[0];
    return it;
}

/* What to add to a vector: Hugging Face's files hold Gemma's norms less 1; ours in memory, and GGUF's, do not. */
static float shift_of(const struct model *m, const struct weight *w, bool from_file, bool to_gguf) {
    if (!m->shape.norm_plus_one || w->nd != 1 || str_ends(w->name, ".bias")) return 0;
    return (float)to_gguf - (float)(m->gguf || !from_file);
}

/* A weight of the base that changes its format. A matrix that was turned when it was opened is taken from where it lies so. */
static struct item from_weight(const struct model *m, const struct weight *w, const char *name, const struct deltas *d, dtype to,
                               bool to_gguf) {
    const struct tensor *file = w->turned && !m->gguf ? NULL : tensor_of_weight(m, w);
    if (file && file->dt == DT_NONE) file = NULL; /* packed: what the model made of it */
    struct item it = {.t = {.name = name, .dt = to, .nd = w->nd},
                      .data = file ? file->data : w->data,
                      .dt = file ? file->dt : w->dt,
                      .mapped = file != NULL,
                      .rows = w->nd == 2 ? w->d[0] : 1,
                      .cols = w->d[w->nd - 1],
                      .shift = shift_of(m, w, file != NULL, to_gguf)};
    take_delta(&it, d, w);
    take_pick(&it, w);
    memcpy(it.t.d, w->d, sizeof it.t.d);
    return it;
}

/* Rows that move: of a vector each number is a row. */
static void move_rows(struct item *it, int heads, bool to_pairs) {
    if (!heads) return;
    if (it->t.nd == 1) it->rows = it->cols, it->cols = 1;
    if (it->t.nd == 1 && it->pick.col) it->pick = (struct picked){.rows = it->pick.cols, .cols = 1, .row = it->pick.col};
    it->head = it->rows / heads;
    it->to_pairs = to_pairs;
    it->from_pairs = !to_pairs;
}

/* The adapter's own tensor, where it has one, in place of the base's: the item is one of a base that has the form of Hugging Face's files,
 * as the adapter does. heads: of the output, with rows in pairs. Comes last: the type is the item's as planned without it. False: none. */
static bool take_whole(struct item *it, const struct deltas *d, const struct weight *w, bool to_gguf, int heads) {
    const struct delta *x = deltas_of(d, w);
    if (!x || !x->whole) return false;
    memcpy(it->t.d, to_gguf ? w->d : x->whole->d, sizeof it->t.d);
    it->data = x->whole->data;
    it->dt = x->whole->dt;
    it->mapped = true;
    it->rows = w->nd == 2 ? it->t.d[0] : 1;
    it->cols = it->t.d[w->nd - 1];
    it->head = 0;
    if (to_gguf) move_rows(it, heads, true);
    it->turned = to_gguf && w->turned;
    it->shift = to_gguf ? w->form.less : 0;
    return true;
}

/* GPT-2's matrices (Conv1D) are [in, out] in Hugging Face's files: rows of the output are inputs, and columns of what we have. */
static err turn(const struct model *m, const struct weight *w, struct item *it) {
    if (!w->turned) return OK;
    if (!dtype_plain(it->dt))
        return fail(E_UNSUPPORTED,
                    "%s: tensor %s is %s and would have to be transposed: write a GGUF file of --type f16 first, then convert that",
                    m->path, w->name, dtype_info[it->dt].name);
    it->turned = it->transposed = true;
    it->rows = it->t.d[0] = w->d[1];
    it->cols = it->t.d[1] = w->d[0];
    return OK;
}

/* Is it beside a packed weight, as a part of it ("...weight.absmax", "...weight_scale")? */
static bool part_of_packed(const struct model *m, const char *name) {
    for (int i = 0; i < m->files.n; i++) {
        const struct tensor *t = &m->files.t[i];
        size_t n = strlen(t->name);
        if (t->dt == DT_NONE && n < strlen(name) && !memcmp(t->name, name, n) && (name[n] == '.' || name[n] == '_')) return true;
    }
    return false;
}

/* Every tensor of the base's file must be among the weights that cross. */
static err no_strangers(const struct model *m, const char *to) {
    for (int i = 0; i < m->files.n; i++) {
        const char *name = m->files.t[i].name;
        bool derived = str_ends(name, ".rotary_emb.inv_freq") || (m->shape.tied && !strcmp(name, "lm_head.weight")) ||
                       positions_tensor(name) || part_of_packed(m, name);
        for (const char *const *spare = m->family->spare; spare && *spare; spare++) derived |= str_ends(name, *spare);
        if (!derived && !weight_of_tensor(m, &m->files.t[i]))
            return fail(E_UNSUPPORTED, "%s: tensor %s has no place in %s", m->path, name, to);
    }
    return OK;
}

/* The base's file of an untied model may have no tensor for its head. */
static bool lacks_head(const struct model *m) {
    const struct weight *head = model_weight(m, "output.weight");
    return untied(m) && !tensor_of_weight(m, head);
}

/* --- Hugging Face ---------------------------------------------------------------------------------------------------- */
/* The type that most bytes of the base's matrices are in. */
static dtype main_type(const struct model *m) {
    size_t sum[DT_ALL] = {0};
    dtype most = DT_F32;
    for (int i = 0; i < m->n; i++)
        if (m->w[i].nd == 2) sum[m->w[i].dt] += dtype_row_bytes(m->w[i].dt, m->w[i].d[1]) * (size_t)m->w[i].d[0];
    for (int i = 1; i < DT_ALL; i++)
        if (sum[i] > sum[most]) most = (dtype)i;
    return most;
}

/* What a folder can have: plain types, and NF4 as bitsandbytes has it. */
static err folder_takes(const struct model *m, const dtype *to) {
    for (int i = 0; i < m->n && to; i++)
        if (to[i] && to[i] != DT_NF4)
            return fail(E_USAGE, "%s as %s: a Hugging Face folder has no such type beside nf4: write a GGUF file (NAME.gguf)", m->w[i].module,
                        dtype_info[to[i]].name);
    for (int i = 0; i < m->n && to; i++)
        if (to[i] && !strcmp(m->w[i].name, "token_embd.weight"))
            return fail(E_USAGE, "%s as nf4: bitsandbytes has no token tables in 4 bits; leave it as it is, or write a GGUF file", m->w[i].module);
    for (int i = 0; i < m->n && to; i++)
        if (to[i] && m->w[i].turned)
            return fail(E_UNSUPPORTED, "%s is stored as [in, out] in a folder, and bitsandbytes' blocks would run across it: write a GGUF file",
                        m->w[i].module);
    return OK;
}

/* A head that was trained beside, under transformers' name for it. */
static err add_head(struct items *l, const struct deltas *d, dtype type) {
    for (int k = 0; k < 2 && d->head_part[k]; k++) {
        struct item it = {.t = *d->head_part[k],
                          .data = d->head_part[k]->data,
                          .dt = d->head_part[k]->dt,
                          .mapped = true,
                          .rows = 1,
                          .cols = d->head_part[k]->d[1 - k]};
        if (!k) it.rows = it.t.d[0];
        it.t.name = arena_printf(&l->mem, "%s.%s", d->head_module, k ? "bias" : "weight");
        it.t.dt = type;
        if (!it.t.name) return out_of_memory();
        TRY(list_add(l, it));
    }
    return OK;
}

/* The base's own files, tensor by tensor. Of a classifier each has the name that a part of a model has ("bert.", "transformer."), whatever it had, and
 * what is nobody's stays away: an old head, a tied table once more. */
static err plan_same_hf(struct items *l, const struct model *m, const struct deltas *d, dtype type, const dtype *to) {
    const struct tensor **t = in_order(l, &m->files);
    const bool headed = d && d->head.classes;
    if (!t) return out_of_memory();
    for (int i = 0; i < m->files.n; i++) {
        const struct weight *w = headed ? weight_of_tensor(m, t[i]) : weight_in(m, t[i]);
        if (part_of_packed(m, t[i]->name) || (headed && !w)) continue;
        if (!w && t[i]->dt == DT_NONE)
            return fail(E_UNSUPPORTED, "%s: tensor %s is %s, which cannot be written", m->path, t[i]->name, t[i]->stored);
        struct item it = w && t[i]->dt == DT_NONE ? from_weight(m, w, t[i]->name, d, type, false)
                                                  : from_tensor(t[i], w, d, t[i]->dt == DT_I32 ? DT_I32 : chosen(m, w, to, type));
        take_whole(&it, d, w, false, 0);
        if (headed && !(it.t.name = hf_name(m, &l->mem, w, true))) return out_of_memory();
        TRY(list_add(l, it));
    }
    if (lacks_head(m)) TRY(list_add(l, from_weight(m, model_weight(m, "output.weight"), "lm_head.weight", d, type, false)));
    return headed ? add_head(l, d, type) : OK;
}

err items_plan_hf(struct items *l, const struct model *m, const struct deltas *d, dtype type, const dtype *to) {
    if (!type) type = dtype_plain(main_type(m)) ? main_type(m) : DT_F16;
    if (!dtype_plain(type)) return fail(E_USAGE, "--type %s: a Hugging Face folder is written in f32, f16 or bf16", dtype_info[type].name);
    const bool headed = d && d->head.classes;
    TRY(folder_takes(m, to));
    TRY(list_init(l, m->n + m->files.n + 2));
    l->type = type;
    l->nested = m->nested;
    if (!m->gguf && m->files.n) return plan_same_hf(l, m, d, type, to);
    TRY(crossing_to_hf(m)); /* random weights too: their config.json is made */
    if (m->gguf) TRY(no_strangers(m, "a Hugging Face folder"));
    for (int i = 0; i < m->n; i++) {
        const char *name = hf_name(m, &l->mem, &m->w[i], headed);
        if (!name) return out_of_memory();
        struct item it = from_weight(m, &m->w[i], name, d, chosen(m, &m->w[i], to, type), false);
        move_rows(&it, m->w[i].rope_heads, false);
        if (!take_whole(&it, d, &m->w[i], false, 0)) TRY(turn(m, &m->w[i], &it));
        TRY(list_add(l, it));
    }
    return headed ? add_head(l, d, type) : OK;
}

/* --- GGUF ------------------------------------------------------------------------------------------------------------ */
/* What a matrix is written as. The head (a tied embedding is one) is given 6 bits at least, as llama.cpp's quantiser does: all logits
 * pass through it. One that has them already and that no delta touches stays as it is. */
static dtype type_of(const struct model *m, const struct item *it, const char *name, dtype type) {
    bool head = !strcmp(name, "output.weight") || (m->shape.tied && !strcmp(name, "token_embd.weight"));
    if (it->dt == DT_I32) return DT_I32;
    const bool gguf_has = it->dt < DT_NF4;
    if (!type) return gguf_has && (dtype_plain(it->dt) || !it->changed) ? it->dt : DT_F16;
    if (!head || dtype_bits(type) >= dtype_bits(DT_Q6_K)) return dtype_fitting(type, it->cols);
    if (gguf_has && !it->changed && dtype_quantised(it->dt) && dtype_bits(it->dt) >= dtype_bits(DT_Q6_K)) return it->dt;
    return gguf_writes(DT_Q6_K) && it->cols % dtype_info[DT_Q6_K].block == 0 ? DT_Q6_K : dtype_fitting(DT_Q8_0, it->cols);
}

/* Tables that config.json has as numbers. */
static err add_positions(struct items *l, const struct model *m) {
    struct tensor t[POSITION_TENSORS];
    int n;
    TRY(positions_tensors(m, &l->mem, t, &n));
    for (int i = 0; i < n; i++) TRY(list_add(l, (struct item){.t = t[i], .data = t[i].data, .dt = DT_F32, .rows = 1, .cols = t[i].d[0]}));
    return OK;
}

static err plan_same(struct items *l, const struct model *m, const struct deltas *d, dtype type, const dtype *to) {
    const struct tensor **t = in_order(l, &m->files);
    if (!t) return out_of_memory();
    for (int i = 0; i < m->files.n; i++) {
        const struct weight *w = weight_in(m, t[i]);
        if (m->stretched && positions_tensor(t[i]->name)) continue;
        struct item it = from_tensor(t[i], w, d, t[i]->dt);
        if (t[i]->nd == 2) it.t.dt = to ? chosen(m, w, to, it.dt) : type_of(m, &it, it.t.name, type);
        take_whole(&it, d, w, true, w ? w->rope_heads : 0);
        TRY(list_add(l, it));
    }
    if (lacks_head(m)) {
        struct item head = from_weight(m, model_weight(m, "output.weight"), "output.weight", d, DT_F32, true);
        head.t.dt = type_of(m, &head, head.t.name, type);
        TRY(list_add(l, head));
    }
    return m->stretched ? add_positions(l, m) : OK;
}

static int heads_of(const struct model *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->w[i].name, name)) return m->w[i].rope_heads;
    return 0;
}

/* Small tables that are looked up: f32, as llama.cpp has them. */
static bool is_table(const char *name) {
    return !strcmp(name, "position_embd.weight") || !strcmp(name, "token_types.weight") || str_ends(name, "attn_rel_b.weight");
}

static err plan_made(struct items *l, const struct model *m, const struct deltas *d, dtype type, const dtype *to) {
    struct model twin;
    TRY(crossing_to_gguf(m));
    TRY(no_strangers(m, "a GGUF file"));
    err e = crossing_twin(m, &twin);
    for (int i = 0; i < m->n && !e; i++) {
        const struct weight *w = &m->w[i];
        if (w->hf_only) continue;
        struct item it = from_weight(m, w, w->name, d, DT_F32, true);
        if (w->nd == 2 && !is_table(w->name)) it.t.dt = to ? chosen(m, w, to, it.dt) : type_of(m, &it, w->name, type);
        move_rows(&it, heads_of(&twin, w->name), true);
        take_whole(&it, d, w, true, heads_of(&twin, w->name));
        e = list_add(l, it);
    }
    model_close(&twin);
    return e ? e : add_positions(l, m);
}

err items_plan_gguf(struct items *l, const struct model *m, const struct deltas *d, dtype type, const dtype *to) {
    for (int i = 0; i < m->n && to; i++)
        if (to[i] && !gguf_writes(to[i]))
            return fail(E_USAGE, "%s as %s: GGUF has no such type; of nf4 write a Hugging Face folder (a name that does not end in .gguf)",
                        m->w[i].module, dtype_info[to[i]].name);
    if (type && (!gguf_writes(type) || type == DT_I32)) {
        str known = {0};
        for (int i = 1; i < DT_COUNT; i++)
            if (gguf_writes((dtype)i) && i != DT_I32) str_addf(&known, "%s%s", known.n ? ", " : "", dtype_info[i].name);
        err e = fail(E_USAGE, "--type %s cannot be written; %s can", dtype_info[type].name, known.p ? known.p : "");
        str_free(&known);
        return e;
    }
    if (!m->shape.tied && !strcmp(m->family->name, "gemma2")) /* its loader makes the head of token_embd.weight */
        return fail(E_UNSUPPORTED, "%s: llama.cpp takes the token table for gemma2's head and would refuse one of its own: write a Hugging Face folder",
                    m->path);
    TRY(list_init(l, m->n + m->files.n + POSITION_TENSORS));
    TRY(m->gguf ? plan_same(l, m, d, type, to) : plan_made(l, m, d, type, to));
    size_t sum[DT_ALL] = {0};
    for (int i = 0; i < l->n; i++)
        if (l->v[i].t.nd == 2) sum[l->v[i].t.dt] += l->v[i].t.bytes;
    l->type = DT_F32;
    for (int i = 1; i < DT_ALL; i++)
        if (sum[i] > sum[l->type]) l->type = (dtype)i;
    if (type) l->type = type;
    return OK;
}
