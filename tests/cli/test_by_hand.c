/* The loss of a file of three examples, reckoned by hand: file -> ids -> which of them carry loss -> loss, as the command's users have it.
 *
 * The model's probabilities are powers of a half. It is a Llama whose block adds nothing (o and down are zero), whose embedding is the identity
 * and whose head is a table, so that what comes next hangs on the last token alone:
 *
 *     the next token of the vocabulary    1/2    1 bit       the vocabulary, in its order: <eos> newline a b c ... p
 *     the same token again                1/4    2 bits      (<eos> comes after p)
 *     each of the other 16                1/64   6 bits      1/2 + 1/4 + 16/64 = 1
 *
 * A text's loss is its bits times ln 2 over the tokens that carry loss. It is the loss of a run's first step too, and one step of
 * plain gradient descent moves the table by what the same probabilities say. What an adapter adds to a matrix of zeros is reckoned too. */
#define _GNU_SOURCE
#include "support/shell.h"
#include "io/tensors.h"

enum { V = 18, C = V, F = 2 };

static int after(int token) { return (token + 1) % V; }
static double bits(int token, int next) { return next == after(token) ? 1 : next == token ? 2 : 6; }

/* A path in $D, good until the next line is run. */
static const char *in_folder(const char *name) {
    ok("printf %%s $D/%s", name);
    return ran.out.p;
}

/* Only what is read by someone is not zero: embedding, head, norms. */
static void write_weights(void) {
    static float zero[C * C], one[C], identity[V * C], table[V * C];
    for (int i = 0; i < C; i++) one[i] = identity[i * C + i] = 1;
    for (int next = 0; next < V; next++)
        for (int t = 0; t < C; t++)
            table[next * C + t] = (float)(-bits(t, next) * log(2) / sqrt(C)); /* the norm makes sqrt(C) of a row's 1 */
#define TENSOR(name, rows, columns, numbers)                                                                                               \
    { name, DT_F32, "F32", (rows) > 1 ? 2 : 1, {(rows) > 1 ? (rows) : (columns), columns}, numbers, (size_t)(rows) * (columns)*4 }
#define BLOCK(name, rows, columns, numbers) TENSOR("model.layers.0." name ".weight", rows, columns, numbers)
    const struct tensor t[] = {TENSOR("model.embed_tokens.weight", V, C, identity),
                               TENSOR("lm_head.weight", V, C, table),
                               TENSOR("model.norm.weight", 1, C, one),
                               BLOCK("input_layernorm", 1, C, one),
                               BLOCK("post_attention_layernorm", 1, C, one),
                               BLOCK("self_attn.q_proj", C, C, zero),
                               BLOCK("self_attn.k_proj", C, C, zero),
                               BLOCK("self_attn.v_proj", C, C, zero),
                               BLOCK("self_attn.o_proj", C, C, zero),
                               BLOCK("mlp.gate_proj", F, C, zero),
                               BLOCK("mlp.up_proj", F, C, zero),
                               BLOCK("mlp.down_proj", C, F, zero)};
    ok("mkdir $D/model");
    must(safetensors_write(in_folder("model/model.safetensors"), t, sizeof t / sizeof *t));
}

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    write_weights();
    ok("cat > $D/model/config.json <<'E'\n"
       "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 18, \"hidden_size\": 18, "
       "\"intermediate_size\": 2, \"num_hidden_layers\": 1, "
       "\"num_attention_heads\": 1, \"num_key_value_heads\": 1, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-12, "
       "\"tie_word_embeddings\": false, \"hidden_act\": \"silu\", "
       "\"bos_token_id\": null, \"eos_token_id\": 0, \"dtype\": \"float32\"}\nE\n"
       "cat > $D/model/tokenizer.json <<'E'\n"
       "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 0, \"content\": \"<eos>\", \"single_word\": false, \"lstrip\": false, "
       "\"rstrip\": false, \"normalized\": false, \"special\": true}], "
       "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
       "\"use_regex\": true}, \"post_processor\": null, "
       "\"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {\"<eos>\": 0, \"Ċ\": 1, \"a\": 2, \"b\": 3, "
       "\"c\": 4, \"d\": 5, \"e\": 6, \"f\": 7, \"g\": 8, \"h\": 9, "
       "\"i\": 10, \"j\": 11, \"k\": 12, \"l\": 13, \"m\": 14, \"n\": 15, \"o\": 16, \"p\": 17}, \"merges\": []}}\nE\n"
       "cat > $D/model/tokenizer_config.json <<'E'\n"
       "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"eos_token\": \"<eos>\", \"chat_template\": \"{%% for m in messages %%}{%% if "
       "m.role == 'user' %%}{{ 'a' + m.content + '\\n' }}"
       "{%% else %%}{{ m.content + '<eos>' }}{%% endif %%}{%% endfor %%}\"}\nE\n"
       /* the answers: a a b <eos>: 1 2 1 6 bits behind the newline; p <eos>: 6 1; c c d e <eos>: 6 2 1 1 6.  33 bits, 11 tokens.
        * the prompts, but for each text's first token, which nothing predicts: newline 6; p 2, newline 6; newline 6.  20 bits, 4 tokens */
       "printf '%%s\\n' '{\"prompt\": \"a\\n\", \"completion\": \"aab\"}' '{\"prompt\": \"pp\\n\", \"completion\": \"p\"}' '{\"prompt\": "
       "\"h\\n\", \"completion\": \"ccde\"}' > $D/three.jsonl\n"
       /* a b newline (c c <eos>) a d newline (d <eos>): 6 2 6 and 6 6 bits; a e newline (f g h <eos>): 6 1 1 6.
        * 40 bits in 9 tokens; the last answers 26 in 6 */
       "printf '%%s\\n' '{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}, {\"role\": \"assistant\", \"content\": \"cc\"}, "
       "{\"role\": \"user\", \"content\": \"d\"}, "
       "{\"role\": \"assistant\", \"content\": \"d\"}]}' '{\"messages\": [{\"role\": \"user\", \"content\": \"e\"}, {\"role\": "
       "\"assistant\", \"content\": \"fgh\"}]}' > $D/chats.jsonl\n"
       "printf 'objective: sft\nmodel: %%s/model\noutput_dir: %%s/run\ndata: %%s/three.jsonl\neval: {data: %%s/three.jsonl}\nmax_steps: "
       "1\nmax_length: 16\n"
       "per_device_train_batch_size: 3\nmethod: full\nfull: {target_modules: lm_head}\n' $D $D $D $D > $D/run.yaml");
    return 0;
}

static double number(const json_t *j, const char *key) {
    const json_t *v = json_object_get(j, key);
    if (!json_is_number(v)) flunk("no %s", key);
    return json_number_value(v);
}

/* Evaluated, and as the loss of the first step. */
static void costs(const char *file, const char *settings, double all_bits, int tokens) {
    const double want = all_bits * log(2) / tokens;
    ok("$C eval $D/run.yaml --json --set eval.data=$D/%s %s", file, settings);
    json_t *j = json_loads(ran.out.p, 0, NULL);
    const double evaluated = number(json_array_get(json_object_get(j, "sides"), 0), "loss");
    json_decref(j);
    ok("rm -rf $D/run; $C train $D/run.yaml --quiet --set data=$D/%s --set eval.data= %s; head -1 $D/run/metrics.jsonl > $D/first", file,
       settings);
    j = json_of("first");
    const double trained = number(j, "loss");
    json_decref(j);
    if (fabs(evaluated - want) > 1e-6 * want || fabs(trained - want) > 1e-6 * want)
        flunk("%s %s: %.0f bits in %d tokens are %.9f, evaluated %.9f, trained on %.9f", file, settings, all_bits, tokens, want, evaluated,
              trained);
}

/* The mean is over tokens: of the three answers' own means, 2.5, 3.5 and 3.2 bits, it would be 3.07. */
static void test_answers(void **state) {
    (void)state;
    costs("three.jsonl", "", 33, 11);
    costs("three.jsonl", "--set pass_tokens=1", 33, 11); /* a pass for each row */
    costs("three.jsonl", "--set per_device_train_batch_size=1 --set gradient_accumulation_steps=3", 33, 11);
    costs("three.jsonl", "--set loss_on=all", 33 + 20, 11 + 4);
}

static void test_turns(void **state) {
    (void)state;
    costs("chats.jsonl", "--set per_device_train_batch_size=2", 40, 9);
    costs("chats.jsonl", "--set per_device_train_batch_size=2 --set loss_on=last_answer", 26, 6);
}

/* One step of SGD at rate 1: the table's column of token t, sqrt(C) times the mean over answers of what came less what was expected. */
static void test_gradient(void **state) {
    (void)state;
    static const int answers[][6] = {{1, 2, 2, 3, 0, -1}, {1, 17, 0, -1}, {1, 4, 4, 5, 6, 0}}; /* newline, the completion, <eos> */
    double move[V][C] = {0};
    for (int a = 0; a < 3; a++)
        for (int i = 1; i < 6 && answers[a][i] >= 0; i++)
            for (int v = 0, t = answers[a][i - 1]; v < V; v++) move[v][t] += ((v == answers[a][i]) - exp2(-bits(t, v))) * sqrt(C) / 11;
    ok("rm -rf $D/run; $C train $D/run.yaml --quiet --set eval.data= --set optim=sgd --set sgd.momentum=0 --set learning_rate=1 --set "
       "lr_scheduler_type=constant "
       "--set weight_decay=0 --set max_grad_norm=0");
    struct tensors now, then;
    must(tensors_open(in_folder("run/adapter/adapter_model.safetensors"), &now));
    must(tensors_open(in_folder("model/model.safetensors"), &then));
    assert_int_equal(now.n, 1);
    const float *w = f32_of(&now.t[0]), *was = f32_of(fixture(&then, "lm_head.weight"));
    for (int v = 0; v < V; v++)
        for (int t = 0; t < C; t++)
            if (fabs(w[v * C + t] - was[v * C + t] - move[v][t]) > 1e-6)
                flunk("after %d %d moves by %.8f, by hand %.8f", t, v, w[v * C + t] - was[v * C + t], move[v][t]);
    tensors_close(&now);
    tensors_close(&then);
}

/* q's matrix is zero, so merged it is alpha / r B A and nothing else, here of whole numbers: exact, and twice that with twice the alpha. */
static void test_alpha(void **state) {
    (void)state;
    enum { R = 2 };
    static float a[R * C], b[C * R];
    for (int i = 0; i < R * C; i++) a[i] = (float)(i % 7 - 3), b[i] = (float)(i % 5 - 2);
    const struct tensor t[] = {TENSOR("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", R, C, a),
                               TENSOR("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", C, R, b)};
    ok("mkdir $D/adapter");
    must(safetensors_write(in_folder("adapter/adapter_model.safetensors"), t, 2));
    for (int alpha = 6; alpha <= 12; alpha += 6) {
        struct tensors merged;
        ok("echo '{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"base_model_name_or_path\": null, \"r\": 2, \"lora_alpha\": %d, "
           "\"target_modules\": [\"q_proj\"]}' > $D/adapter/adapter_config.json; $C merge --model $D/model --adapter $D/adapter --type f32 "
           "--out $D/merged --force",
           alpha);
        must(tensors_open(in_folder("merged"), &merged));
        const float *w = f32_of(fixture(&merged, "model.layers.0.self_attn.q_proj.weight"));
        for (int o = 0; o < C; o++)
            for (int i = 0; i < C; i++) assert_true(w[o * C + i] == (float)(alpha / R) * (b[o * R] * a[i] + b[o * R + 1] * a[C + i]));
        tensors_close(&merged);
    }
    struct tensors half; /* in 16 bits, for who reads such: mlx's form has A and B turned */
    ok("$C export $D/adapter --model $D/model --to mlx --type f16 --out $D/half");
    must(tensors_open(in_folder("half/adapters.safetensors"), &half));
    assert_int_equal(half.n, 2);
    for (int i = 0; i < 2; i++) {
        const bool is_a = strstr(half.t[i].name, "lora_a") != NULL;
        assert_int_equal(half.t[i].dt, DT_F16);
        for (int c = 0; c < C; c++)
            for (int r = 0; r < R; r++) {
                const uint16_t *x = half.t[i].data;
                assert_true(f16_to_f32(x[is_a ? c * R + r : r * C + c]) == (is_a ? a[r * C + c] : b[c * R + r]));
            }
    }
    tensors_close(&half);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_answers), cmocka_unit_test(test_turns), cmocka_unit_test(test_gradient),
                                       cmocka_unit_test(test_alpha)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
