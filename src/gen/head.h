/* A trained head that a structure may have beside its method, whatever that is: transformers' sequence classification and regression, and its
 * token classification. Of a text, decoders: "score" [classes, C], no bias, on the last token's row (LlamaForSequenceClassification and its
 * kin); encoders: the family says (model.h, classifier); encoder-decoders: "classification_head", a tanh layer "dense" and on it "out_proj", on the
 * decoder's last row, which has read the text as the encoder has. Of tokens: the family's tagger, [classes, C] with a bias, on every row; of an
 * encoder-decoder the encoder's rows. In a folder it is what PEFT calls a module to save: modules_to_save names it, its tensors lie whole
 * beside the method's, task_type is SEQ_CLS or TOKEN_CLS; the names of the classes are in labels.json, as in a configuration of transformers
 * (id2label, label2id), and that it is a regression (problem_type).
 *
 * AdapterHub saves a classifier in files of its own (head_config.json, model_head.safetensors): these are read too. Written it is beside the method's
 * tensors, from where its loader takes it as well.
 *
 * Of a base that is frozen (method none) the rows that the head reads never change: they can be made once and stand in for the whole
 * body (struct features). The train program then has no instruction of the backbone at all, forward or backward.
 *
 * Refused: modules_to_save that are no head. Called by program.c and adapter.c. */
#ifndef CYC_GEN_HEAD_H
#define CYC_GEN_HEAD_H
#include "model/model.h"

/* A base's rows, one for each text (of HEAD_TAGS: for each word), made before: the ids of a program that has them are their numbers. */
struct features {
    int64_t n;
    const float *row; /* [n, C]; the memory is there when programs are built, filled before they run */
};

enum head_kind { HEAD_CLASSES /* one of them for a text */, HEAD_NUMBERS /* regression: all of them for a text */, HEAD_TAGS /* one for each word */ };

struct head {
    enum head_kind kind;
    int classes; /* 0: none; of HEAD_NUMBERS the numbers */
    const char *const *names;        /* [classes]; NULL: not known */
    const struct features *features; /* in place of the model's body; NULL: the body */
    const char *file; /* of its folder, where its tensors are; NULL: beside the method's */
};

/* x [N, C] for the classifier: rows of the body as the family reads them. */
val head_rows(const struct head *h, const struct model *m, struct site *s);
/* Its matrix and bias, which are the structure's parameters. */
struct linear head_linear(const struct head *h, const struct model *m, struct site *s);
const char *head_module(const struct head *h, const struct model *m); /* "score" */
bool head_reads_first(const struct model *m);   /* of a text: the first token's row; else the last's */
bool head_reads_twice(const struct head *h, const struct model *m); /* the text is the encoder's and, behind its start token, the decoder's */
const char *head_objective(const struct head *h);            /* that trains such a one */
const char *head_text(const struct head *h, char text[64]); /* "a classifier of 3 classes" */

err head_check(const void *json, const char *where, bool others); /* of an adapter_config.json: are its modules_to_save a head's, or (others) any? */
bool head_names(const char *module); /* is it one that heads have? */
/* From an adapter's folder: none where modules_to_save is empty. json: its adapter_config.json. Texts in mem. */
err head_read(const void *json, const char *folder, arena *mem, struct head *h);
/* id2label, label2id and problem_type of a configuration of transformers, into a JSON object; names that are not known are LABEL_0, ... */
err head_labels(const struct head *h, void *json);
/* labels.json; nothing where the names are not known. */
err head_write_labels(const struct head *h, const char *folder);
/* Do these classes stand in the same order? */
bool head_same(const struct head *a, const struct head *b);

#endif
