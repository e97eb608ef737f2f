/* An adapter's numbers and its files: a folder in PEFT's layout (adapter_config.json, adapter_model.safetensors) that PEFT,
 * vLLM and others load. Reading is strict: every tensor of the file is used and every parameter is found, or it is an error.
 *
 * The adapters of AdapterHub (core/site.h, `called`) have a layout of their own: adapter_config.json without a peft_type and with the settings
 * under "config", adapter.safetensors, whose names have no prefix but the adapter's own name in them.
 *
 * Trained arenas are f32, or narrow (core/params.h): files have the arena's types. On the way to and from files the rows of q and k change between GGUF's and Hugging Face's order, whole tensors
 * of the base take the form that they have there (transposed, less 1). Writing takes a piece of memory, whatever the adapter's size. */
#ifndef CYC_GEN_ADAPTER_H
#define CYC_GEN_ADAPTER_H
#include "gen/program.h"

/* Method and settings from adapter_config.json; what we cannot do is E_UNSUPPORTED by name. All of it lives in mem. */
err adapter_read_config(const char *folder, arena *mem, const struct peft_method **method, const void **settings);
/* The classifier that the folder has beside them: classes 0 where there is none. */
err adapter_read_head(const char *folder, arena *mem, struct head *head);
/* weights: an arena of param_weight_bytes(&st->params); the structure's parameters must have been laid down (a program built). */
err adapter_read(const char *folder, const struct structure *st, void *weights);
void adapter_tensor_name(const struct structure *st, const struct param_slice *s, char name[512]); /* in the adapter's file */
/* Where row `row` of a file's tensor lies in an arena of f32. */
float *adapter_row(const struct param *p, const struct param_slice *s, const float *weights, int64_t row);
/* A vector, or a row of a matrix, from the form of files to that of programs. */
void form_from_file(const struct file_form *f, float *x, int64_t n);
/* An adapter that was trained on random weights (of a benchmark) goes on no other base: E_USAGE. */
err adapter_check_base(const char *folder, const struct model *m);
/* How the base's RoPE was stretched when the adapter was trained: the folder's rope_scaling.json in mem, NULL without one. */
err adapter_stretching(const char *folder, arena *mem, const char **text);
/* Stretches it so, before programs are built (asked: as model_stretch_as). One that is stretched already must be so by the same: E_USAGE. */
err adapter_stretch(const char *folder, bool asked, struct model *m);
/* Reads into a structure that did not come from the folder: its settings must scale the delta as the folder's do, and the
 * base must do. */
err adapter_load(const char *folder, const struct model *m, const struct structure *st, void *weights);
/* The start of another task (transfer.c): the method's numbers, and those of the head where it is the same (E_USAGE: neither is there). Where it is not,
 * what the structure has for its head stays, and *head is false; the folder's is left. */
err adapter_transfer(const char *folder, const struct model *m, const struct structure *st, void *weights, bool *head);
/* Between the files of adapter.c and transfer.c: a folder's settings (in mem), which scale the delta as the structure's do; and is a slice what lies beside
 * the method? */
err adapter_settings(const char *folder, const struct model *m, const struct structure *st, arena *mem, const void **have);
bool adapter_of_head(const struct structure *st, const struct param_slice *s);
err adapter_write(const char *folder, const struct structure *st, const void *weights, const char *base_model);

/* Lays down the parameters of a structure for a model, without a plan; E_USAGE when the method finds nothing to train, with the
 * module names that would do. settings: copied, but their texts must outlive the structure. modules: how many base modules it takes. */
err structure_init(struct structure *st, const struct model *m, const struct peft_method *method, const void *settings, int *modules);
/* With a classifier beside the method (its names and features must outlive the structure); NULL: without. */
err structure_init_head(struct structure *st, const struct model *m, const struct peft_method *method, const void *settings,
                        const struct head *head, int *modules);
/* The same step by step, for a structure that is to have several settings in turn: its parameters are those of all. Begun, each setting added, then
 * param_seal(); from there on a turn to one that was added, or to one that needs no other parameters, moves nothing. */
void structure_begin(struct structure *st, const struct model *m, const struct peft_method *method, const struct head *head);
err structure_add(struct structure *st, const struct model *m, const void *settings);
err structure_turn(struct structure *st, const struct model *m, const void *settings);
void structure_free(struct structure *st);

float *arena_f32(size_t bytes); /* zeroed, mapped; NULL when out of memory */
void arena_f32_free(float *p, size_t bytes);

#endif
