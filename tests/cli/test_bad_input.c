/* Every wrong input that a person can hand to `cyclora train`: each is refused with status 2 and one line on stderr that
 * names the place and what to do, and nothing is written: output_dir is not there, or is as it was. A disk that fills up is
 * status 1, one line, and leaves the checkpoints before it whole. The program (CYC_CLI) runs through a shell, as for its
 * users, on copies of the cipher base (a Hugging Face folder, and the same model as GGUF) that are then damaged. */
#define _GNU_SOURCE
#include "support/gguf.h"
#include "support/support.h"
#include "base/file.h"
#include <jansson.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/cyclora_bad_XXXXXX";
static struct { int status; str out, err; } ran;

/* Runs a shell line: $C is the program, $D the test's folder, $G the cipher fixture. */
static void sh(const char *line) {
    char path[128];
    str cmd = {0};
    str_addf(&cmd, "C='%s' D='%s' G='%s'; export OMP_NUM_THREADS=1; { %s\n} >%s/stdout 2>%s/stderr </dev/null", CYC_CLI, dir, GOLDEN "/cipher", line, dir, dir);
    int st = system(cmd.p);
    str_free(&cmd);
    ran.status = WIFEXITED(st) ? WEXITSTATUS(st) : 128;
    str_clear(&ran.out);
    str_clear(&ran.err);
    snprintf(path, sizeof path, "%s/stdout", dir);
    must(file_read(path, &ran.out));
    snprintf(path, sizeof path, "%s/stderr", dir);
    must(file_read(path, &ran.err));
}

static void ok(const char *line) {
    sh(line);
    if (ran.status) flunk("%s: status %d\n%s%s", line, ran.status, ran.out.p ? ran.out.p : "", ran.err.p ? ran.err.p : "");
}

static void one_error(const char *line, int status) {
    const char *e = ran.err.n ? ran.err.p : "";
    if (ran.status != status) flunk("%s: status %d, not %d: %s", line, ran.status, status, e);
    if (!str_starts(e, "cyclora: error: ")) flunk("%s: %s", line, e);
    if (strchr(e, '\n') != e + ran.err.n - 1) flunk("%s: not one line: %s", line, e);
    if (strlen(e) > 700) flunk("%s: %zu bytes of message", line, strlen(e));
}

/* `setup` makes the damage; then training with these settings is refused, saying each part, and writes nothing. */
static void refused_(const char *setup, const char *sets, ...) {
    str line = {0};
    if (*setup) ok(setup);
    ok("rm -rf $D/out");
    str_addf(&line, "$C train $D/run.yaml %s", sets);
    sh(line.p);
    one_error(line.p, 2);
    if (ran.out.n) flunk("%s: stdout: %s", line.p, ran.out.p);
    va_list ap;
    va_start(ap, sets);
    for (const char *part; (part = va_arg(ap, const char *));)
        if (!strstr(ran.err.p, part)) flunk("%s %s: \"%s\" is not in: %s", setup, line.p, part, ran.err.p);
    va_end(ap);
    char path[128];
    snprintf(path, sizeof path, "%s/out", dir);
    if (path_exists(path)) flunk("%s: output_dir was made", line.p);
    str_free(&line);
}
#define refused(...) refused_(__VA_ARGS__, NULL)

static void put(const char *name, const void *bytes, size_t n) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(file_write(path, bytes, n));
}

static str gguf;

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    cipher_gguf(&gguf);
    put("base.gguf", gguf.p, gguf.n);
    ok("{ echo \"model: $G\"; echo \"output_dir: $D/out\"; echo 'max_steps: 2'; echo 'max_new_tokens: 4'; echo 'max_length: 32'; echo 'pass_tokens: 64'; "
       "echo 'per_device_train_batch_size: 2'; echo 'lora: {r: 2, lora_alpha: 4, target_modules: [q_proj, v_proj]}'; "
       "echo \"A: {data: $D/a.jsonl}\"; echo \"B: {data: $D/b.jsonl}\"; } > $D/run.yaml; head -20 $G/a.jsonl > $D/a.jsonl; head -20 $G/b.jsonl > $D/b.jsonl; "
       "printf '%s\\n' '{\"prompt\": \"abc\\n\", \"completion\": \"ABC\"}' '{\"prompt\": \"abcdefghijklmnop\\n\", \"completion\": \"ABC\"}' > $D/sft.jsonl");
    return 0;
}
static int remove_folder(void **state) {
    (void)state;
    str_free(&gguf);
    str_free(&ran.out);
    str_free(&ran.err);
    return dir_remove(dir) != OK;
}

/* The settings without damage are good, on both forms of the base. */
static void test_good(void **state) {
    (void)state;
    ok("$C train $D/run.yaml --quiet --set output_dir=$D/good && test -f $D/good/A/adapter_model.safetensors && rm -r $D/good");
    ok("$C train $D/run.yaml --quiet --set output_dir=$D/good --set model=$D/base.gguf && test -f $D/good/B/adapter_model.safetensors && rm -r $D/good");
    ok("$C train $D/run.yaml --quiet --set output_dir=$D/good --set objective=sft --set data=$D/sft.jsonl && rm -r $D/good");
}

/* --- the base model -------------------------------------------------------------------------------------------------- */
#define FRESH "rm -rf $D/m && cp -r $G $D/m && chmod -R u+w $D/m && "
static void hf(const char *damage, const char *part) {
    char setup[1024];
    snprintf(setup, sizeof setup, FRESH "cd $D/m && %s", damage);
    refused(setup, "--set model=$D/m", "/m", part);
}

static void test_hf_folders(void **state) {
    (void)state;
    refused("", "--set model=$D/nowhere", "nowhere");
    refused("mkdir -p $D/empty", "--set model=$D/empty", "empty", "model.safetensors");
    refused("", "--set model=$G/model.safetensors", "name the folder");
    hf("rm model.safetensors", "model.safetensors");
    hf("rm config.json", "config.json");
    hf("truncate -s 0 model.safetensors", "model.safetensors");
    hf("truncate -s 5 model.safetensors", "truncated");
    hf("truncate -s 300 model.safetensors", "bytes are missing");
    hf("truncate -s -1 model.safetensors", "1 bytes are missing");
    hf("printf x >> model.safetensors", "follow the last tensor");
    hf("printf '\\377\\377\\377\\377\\377\\377\\377\\177' | dd of=model.safetensors conv=notrunc status=none", "not a safetensors file");
    hf("printf 'x' | dd of=model.safetensors bs=1 seek=8 conv=notrunc status=none", "byte 8");
    hf("printf '\\000' | dd of=model.safetensors bs=1 seek=40 conv=notrunc status=none", "model.safetensors");
    hf("sed -i 's/layers.1.self_attn.q_proj/layers.1.self_attn.x_proj/' model.safetensors", "layers.1.self_attn.q_proj.weight is missing");
    hf("sed -i '0,/\"F16\"/s//\"F64\"/' model.safetensors", "do not span");
    hf("sed -i '0,/\"F16\"/s//\"I16\"/' model.safetensors", "has dtype I16");
    if (!strstr(ran.err.p, "F32")) flunk("what is supported is not said: %s", ran.err.p);
    hf("sed -i 's/layers.1.self_attn.q_proj.weight/layers.1.self_attn.q_proj.qweigh/' model.safetensors", "layers.1.self_attn.q_proj.weight is missing");
    hf("sed -i '0,/\"F16\"/s//\"F8E\"/' model.safetensors", "F8E");
    hf("printf '{\"weight_map\": {\"model.norm.weight\": \"two.safetensors\"}}' > model.safetensors.index.json; rm model.safetensors", "two.safetensors");
    hf("printf '{\"weight_map\": {\"model.norm.weight\": \"../x.safetensors\"}}' > model.safetensors.index.json; rm model.safetensors", "model.safetensors.index.json");
    hf("printf '{' > config.json", "config.json");
    hf("printf '[]' > config.json", "config.json");
    hf("sed -i 's/\"model_type\": \"llama\"/\"model_type\": \"mamba\"/' config.json", "'mamba' is not supported (supported: ");
    hf("sed -i 's/\"hidden_size\": 96/\"hidden_size\": 97/' config.json", "the model's sizes say");
    hf("sed -i 's/\"num_hidden_layers\": 3/\"num_hidden_layers\": 4/' config.json", "layers.3");
    hf("sed -i 's/\"num_hidden_layers\": 3/\"num_hidden_layers\": -3/' config.json", "num_hidden_layers");
    hf("sed -i 's/\"num_key_value_heads\": 2/\"num_key_value_heads\": 3/' config.json", "heads");
    hf("sed -i 's/\"hidden_act\": \"silu\"/\"hidden_act\": \"gelu\"/' config.json", "gelu");
}

static void test_tokenizers(void **state) {
    (void)state;
    hf("rm tokenizer.json", "tokenizer.json");
    hf("truncate -s 700 tokenizer.json", "tokenizer.json");
    hf("printf '{}' > tokenizer.json", "tokenizer.json");
    hf("sed -i 's/\"type\": \"BPE\"/\"type\": \"Unigram\"/' tokenizer.json", "Unigram");
    hf("rm tokenizer_config.json; sed -i 's/\"eos_token_id\"/\"x\"/' config.json generation_config.json 2>/dev/null || true", "end-of-text");
    refused("", "--set tokenizer=tests/golden/rows/tokenizer.json", "ids, the model", "do not belong together");
    refused(FRESH "cp tests/golden/rows/tokenizer.json $D/m/", "--set model=$D/m", "eos_token \"<eos>\" is not in the vocabulary");
    refused(FRESH "cp tests/golden/rows/tokenizer*.json $D/m/", "--set model=$D/m", "ids, the model");
    refused("", "--set tokenizer=$D/nowhere.json", "nowhere.json");
}

/* Replaces the bytes at the first `find` after `after` in the GGUF file by n others. */
static void patched(const char *after, const char *find, size_t find_n, const void *with, size_t n) {
    str b = {0};
    str_add(&b, gguf.p, gguf.n);
    char *at = memmem(b.p, b.n, after, strlen(after));
    assert_non_null(at);
    at = find ? memmem(at, b.n - (size_t)(at - b.p), find, find_n) : at + strlen(after);
    assert_non_null(at);
    memcpy(at, with, n);
    put("bad.gguf", b.p, b.n);
    str_free(&b);
}
#define bad_gguf(...) refused("", "--set model=$D/bad.gguf", "bad.gguf", __VA_ARGS__)

static void test_gguf_files(void **state) {
    (void)state;
    refused("", "--set model=$D/nowhere.gguf", "nowhere.gguf");
    put("bad.gguf", "", 0), bad_gguf("empty");
    put("bad.gguf", "not a model at all, but long enough", 35), bad_gguf("not a GGUF file");
    patched("general.architecture", "llama", 5, "mamba", 5), bad_gguf("'mamba' is not supported (supported: llama");
    uint32_t iq1_s = 19, unknown = 999, version = 9;
    { /* the type stands behind nd (u32) and two sizes (u64) */
        str b = {0};
        str_add(&b, gguf.p, gguf.n);
        char *at = (char *)memmem(b.p, b.n, "blk.1.attn_q.weight", 19) + 19 + 4 + 16;
        memcpy(at, &iq1_s, 4);
        put("bad.gguf", b.p, b.n), bad_gguf("blk.1.attn_q.weight", "IQ1_S", "supported are F32");
        memcpy(at, &unknown, 4);
        put("bad.gguf", b.p, b.n), bad_gguf("blk.1.attn_q.weight", "999");
        str_free(&b);
    }
    patched("GGUF", NULL, 0, &version, 4), bad_gguf("version 9");
    patched("blk.2.ffn_up.weight", NULL, 0, "\2\0\0\0\0", 5), bad_gguf("ffn_up");
    patched("blk.0.attn_k.weight", "attn_k", 6, "attn_z", 6), bad_gguf("blk.0.attn_k.weight is missing");
    patched("tokenizer.ggml.model", "gpt2", 4, "lama", 4), bad_gguf("\"lama\" is not supported");
    patched("tokenizer.ggml.pre", "gpt-2", 5, "mine!", 5), bad_gguf("\"mine!\" is not supported (supported: ");
    patched("llama.attention.head_count_kv", "head_count_kv", 13, "head_count_kx", 13), bad_gguf("attn_k"); /* then as many as heads: shapes differ */
    patched("general.alignment", NULL, 0, "\4\0\0\0\3\0\0\0", 8), bad_gguf("alignment");
    for (size_t i = 1; i < 32; i++) { /* every way that a download can end early */
        put("bad.gguf", gguf.p, i < 20 ? gguf.n * i / 400 : gguf.n - (32 - i) * (32 - i));
        bad_gguf("");
    }
    const char *real = smollm2_path();
    if (!real) return;
    char setup[600];
    static const char *const sizes[] = {"1000", "1000000", "2000000", "50000000", "98362431"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(setup, sizeof setup, "head -c %s '%s' > $D/bad.gguf", sizes[i], real);
        refused(setup, "--set model=$D/bad.gguf", "bad.gguf");
    }
    ok("rm $D/bad.gguf");
}

/* Weights that are no numbers: the first step says so and leaves no adapter. */
static void test_weights_not_finite(void **state) {
    (void)state;
    str b = {0};
    str_add(&b, gguf.p, gguf.n);
    memset(b.p + b.n - 4096, 0xFF, 4096);
    put("nan.gguf", b.p, b.n);
    str_free(&b);
    static const char line[] = "$C train $D/run.yaml --quiet --set model=$D/nan.gguf --set objective=sft --set data=$D/sft.jsonl --set output_dir=$D/nan";
    sh(line);
    one_error(line, 1);
    if (!strstr(ran.err.p, "not finite")) flunk("%s", ran.err.p);
    ok("test ! -e $D/nan/adapter -a ! -e $D/nan/checkpoint-1 && rm -rf $D/nan");
}

/* --- the data -------------------------------------------------------------------------------------------------------- */
static void test_data(void **state) {
    (void)state;
    refused("", "--set A.data=$D/nowhere.jsonl", "nowhere.jsonl");
    refused("", "--set A.data=$D", dir);
    refused(": > $D/bad.jsonl", "--set A.data=$D/bad.jsonl", "bad.jsonl", "empty");
    refused("printf '\\n  \\n' > $D/bad.jsonl", "--set A.data=$D/bad.jsonl", "bad.jsonl", "no records");
    refused("{ head -3 $D/a.jsonl; echo 'plain words'; } > $D/bad.jsonl", "--set A.data=$D/bad.jsonl", "bad.jsonl:4: ", "not a JSON object");
    refused("{ head -3 $D/a.jsonl; printf '{\"text\": \"ab'; } > $D/bad.jsonl", "--set A.data=$D/bad.jsonl", "bad.jsonl:4: ");
    refused("{ head -2 $D/a.jsonl; echo '{\"txt\": \"ab\"}'; } > $D/bad.jsonl", "--set A.data=$D/bad.jsonl", "bad.jsonl:3: ", "no field \"text\"", "\"txt\"");
    refused("{ head -2 $D/a.jsonl; echo '{\"text\": 7}'; } > $D/bad.jsonl", "--set B.data=$D/bad.jsonl", "bad.jsonl:3: ", "not a string");
    refused("{ head -2 $D/a.jsonl; echo '{\"text\": \"  \"}'; } > $D/bad.jsonl", "--set B.data=$D/bad.jsonl", "bad.jsonl:3: ", "no text");
    refused("{ head -2 $D/a.jsonl; printf '{\"text\": \"a\\377b\"}\\n'; } > $D/bad.jsonl", "--set B.data=$D/bad.jsonl", "bad.jsonl:3: ");
    refused("", "--set A.field=body", "a.jsonl:1: ", "\"body\"");
    refused("", "--set A.data=$D/b.jsonl", "same text");
    refused("ln -sf $D/a.jsonl $D/link.jsonl", "--set B.data=$D/link.jsonl", "same text");
    refused("", "--set B.data=$D/./a.jsonl", "same text");
    refused("", "--set warmup_pairs.data=$D/a.jsonl", "a.jsonl:1: ", "\"a\"");
    refused("", "--set eval.data=$D/a.jsonl", "a.jsonl:1: ", "\"a\"");
    refused("", "--set test.data=$D/nowhere.jsonl", "nowhere.jsonl");
    refused("", "--set eval.data=$G/test.jsonl --set eval.fields=a,c", "test.jsonl:1: ", "\"c\"");
}

/* Shapes, containers, compression, lists: what the library's own tests refuse is refused here before anything is written. */
static void test_data_files(void **state) {
    (void)state;
    static const char sets[] = "--set objective=sft --set data=$D/bad.jsonl", gz[] = "--set A.data=$D/bad.jsonl.gz", zst[] = "--set A.data=$D/bad.jsonl.zst";
    refused("{ head -1 $D/sft.jsonl; echo '{\"instruction\": \"a\", \"output\": \"b\"}'; } > $D/bad.jsonl", sets, "bad.jsonl:2: is of shape alpaca", "began (line 1) with prompt_completion");
    refused("", "--set objective=sft --set data=$D/bad.jsonl --set streaming=true", "bad.jsonl:2: is of shape alpaca");
    refused("echo '{\"question\": \"a\", \"answer\": \"b\"}' > $D/bad.jsonl", sets, "bad.jsonl:1: ", "\"question\"", "known shapes");
    refused("", "--set objective=sft --set data=$D/sft.jsonl --set format=alpaca", "sft.jsonl:1: no field \"instruction\"");
    refused("", "--set A.format=alpaca", "a.jsonl: format alpaca", "a text is wanted");
    refused("", "--set format=parquet", "'format' wants one of");
    refused("printf 'prompt,completion\\n\"a\\nb,c\\n' > $D/bad.csv", "--set objective=sft --set data=$D/bad.csv", "bad.csv:2: a quote is opened");
    refused("printf '[{\"prompt\": \"a\"' > $D/bad.json", "--set objective=sft --set data=$D/bad.json", "bad.json:1: the JSON array is cut off");
    refused("gzip -c $D/a.jsonl | head -c 60 > $D/bad.jsonl.gz", gz, "bad.jsonl.gz: the gzip stream ends early, at byte 60");
    refused("{ gzip -c $D/a.jsonl; echo x; } > $D/bad.jsonl.gz", gz, "bad.jsonl.gz: bytes that are not gzip follow");
    refused("head -c 200000000 /dev/zero | gzip -c > $D/bad.jsonl.gz", gz, "decompression bomb");
    refused("printf '\\050\\265\\057\\375\\044\\377\\001\\000\\000' > $D/bad.jsonl.zst", zst, "bad.jsonl.zst: ", "zstd", "byte");
    refused("", "--set \"A.data=[$D/a.jsonl;weight=0]\"", "weight wants a number > 0, found '0'");
    refused("", "--set \"A.data=[$D/a.jsonl;limit=1.5]\"", "limit wants an integer >= 1, found '1.5'");
    refused("", "--set \"A.data=[$D/a.jsonl, $D/nowhere.jsonl]\"", "nowhere.jsonl");
    refused("", "--set \"A.data=[$D/a.jsonl, $D/b.jsonl]\"", "same text", "b.jsonl");
    refused("", "--set eval.split=0.1", "'eval.split' has no use with objective macct");
    refused("", "--set objective=sft --set data=$D/sft.jsonl --set eval.split=0.1 --set eval.data=$D/sft.jsonl", "'eval.split' and 'eval.data' are both given");
    refused("head -1 $D/sft.jsonl > $D/bad.jsonl", "--set objective=sft --set data=$D/bad.jsonl --set eval.split=0.5", "bad.jsonl: no record falls on the", "side of a split of 0.5");
    refused("", "--set streaming=maybe", "'streaming' wants one of auto, true, false");
}

static void test_sft_data(void **state) {
    (void)state;
    static const char sets[] = "--set objective=sft --set data=$D/bad.jsonl";
    refused("", "--set objective=sft --set data=$D/sft.jsonl --set max_length=10", "sft.jsonl:2: ", "max_length 10", "raise max_length");
    refused("cp $D/a.jsonl $D/bad.jsonl", sets, "bad.jsonl:1: ", "\"prompt\"");
    refused("echo '{\"prompt\": \"abc\"}' > $D/bad.jsonl", sets, "bad.jsonl:1: ", "\"completion\"");
    refused("echo '{\"prompt\": \"abc\", \"completion\": \"\"}' > $D/bad.jsonl", sets, "bad.jsonl:1: ", "no text");
    refused("echo '{\"messages\": [{\"role\": \"user\", \"content\": \"abc\"}]}' > $D/bad.jsonl", sets, "bad.jsonl:1: ", "no assistant");
    refused("echo '{\"messages\": [{\"role\": \"user\", \"content\": \"abc\"}, {\"role\": \"assistant\", \"content\": \"ABC\"}]}' > $D/bad.jsonl", sets, "bad.jsonl:1: ", "no chat template");
    refused("", "--set objective=sft --set data=", "'data' is missing");
}

/* --- the settings ----------------------------------------------------------------------------------------------------- */
static void test_settings(void **state) {
    (void)state;
    refused("", "--set lora.target_modules=query,value", "query, value", "q_proj", "all-linear");
    refused("", "--set B.lora.target_modules=wq", "wq", "q_proj");
    refused("", "--set A.adapter=$D/nowhere", "nowhere");
    refused("", "--set A.adapter=tests/golden/tiny_llama/tied_gqa/adapter_all_r4 --set lora.lora_alpha=8 --set lora.r=4 --set lora.target_modules=all-linear", "side A", "another shape");
    refused("", "--set A.adapter=tests/golden/tiny_llama/tied_gqa/adapter_all_r4", "side A", "lora.r 4");
    refused("", "--set max_new_tokens=32", "max_new_tokens");
    refused("", "--set max_length=6 --set max_new_tokens=5", "max_length 6");
    refused("", "--set A.prompt=nothing", "{text}");
    refused("", "--set metric_for_best_model=chrf", "eval.data");
    refused("", "--set model=", "'model' is missing");
    refused("", "--set learning_rate=nan", "learning_rate");
    refused("", "--set objective=dpo", "objective", "macct");
    refused("", "--set device=tpu", "device", "cuda");
    refused("", "--set dtype=int8", "dtype", "bfloat16");
    refused("", "--set trained_dtype=bfloat16", "trained_dtype: bfloat16 is for method full", "lora");
    refused("", "--set trained_dtype=bfloat16 --set method=full --set dtype=float32", "trained_dtype: bfloat16 goes with dtype: bfloat16");
    refused("", "--set trained_dtype=bfloat16 --set method=full --set dtype=bfloat16 --set optim=muon", "not muon");
    refused("", "--set trained_dtype=float16", "trained_dtype", "bfloat16");
    refused("", "--set profile_steps=-1", "profile_steps");
    refused("", "--set kv_cache_dtype=q8_0", "kv_cache_dtype", "float16");
}

static void test_output_folder(void **state) {
    (void)state;
    ok("rm -rf $D/out $D/full; mkdir $D/full; echo precious > $D/full/thesis.tex; find $D/full -type f | xargs md5sum > $D/before");
    static const char *const lines[] = {"$C train $D/run.yaml --set output_dir=$D/full", "$C train $D/run.yaml --set output_dir=$D/full --overwrite",
                                        "$C train $D/run.yaml --set output_dir=$D/full/thesis.tex"};
    for (int i = 0; i < 3; i++) {
        sh(lines[i]);
        one_error(lines[i], 2);
        if (!strstr(ran.err.p, "full")) flunk("%s", ran.err.p);
        ok("find $D/full -type f | xargs md5sum | cmp - $D/before");
    }
    refused("", "--set output_dir=", "output_dir");
    static const char nowhere[] = "$C train $D/run.yaml --quiet --set output_dir=/proc/cyclora/out";
    sh(nowhere);
    one_error(nowhere, 1); /* the system's refusal */
    if (!strstr(ran.err.p, "/proc/cyclora")) flunk("%s", ran.err.p);
}

/* Beyond the limit: what would fit where something does, else how much the leanest plan needs. */
static void test_memory(void **state) {
    (void)state;
    refused("", "--set memory=1MB", "the limit is 1.0 MB", "even at its leanest it needs");
    ok("$C plan $D/run.yaml --json --set pass_tokens=8192 --set gradient_checkpointing=none");
    json_t *j = json_loads(ran.out.p, JSON_DISABLE_EOF_CHECK, NULL);
    char sets[256];
    snprintf(sets, sizeof sets, "--set pass_tokens=8192 --set gradient_checkpointing=none --set memory=%lldKB", (long long)json_integer_value(json_object_get(j, "total")) / 1000 - 1);
    json_decref(j);
    refused("", sets, "it would fit", "with pass_tokens: ");
    refused("", "--set memory=lots", "memory");
}

/* --- the disk --------------------------------------------------------------------------------------------------------- */
static void test_full_disk(void **state) {
    (void)state;
    sh("mkdir -p $D/disk && mount -t tmpfs -o size=280k tmpfs $D/disk");
    if (ran.status) {
        print_message("no tmpfs can be mounted here: %s", ran.err.p);
        skip();
    }
    static const char line[] = "$C train $D/run.yaml --quiet --set output_dir=$D/disk/out --set max_steps=9 --set save_steps=1 --set save_total_limit=0";
    sh(line);
    int status = ran.status;
    str said = {0};
    str_add(&said, ran.err.p, ran.err.n);
    sh("cd $D/disk/out && ls -A && test -d checkpoint-1 && test ! -e A && ! ls -A | grep -q tmp && for c in checkpoint-*; do $C inspect $c || exit 9; done; "
       "for c in checkpoint-*; do test -f $c/trainer_state.json && test -f $c/B/optimizer.safetensors || exit 8; done");
    int whole = ran.status;
    str_clear(&ran.err);
    sh("cat $D/stdout; umount $D/disk && rmdir $D/disk");
    if (status != 1 || !strstr(said.p, "No space left") || !str_starts(said.p, "cyclora: error: ") || strchr(said.p, '\n') != said.p + said.n - 1) flunk("status %d: %s", status, said.p);
    if (whole) flunk("what is left is not whole (%d): %s", whole, said.p);
    str_free(&said);
}

static void test_full_pipe(void **state) {
    (void)state;
    sh("$C plan $D/run.yaml > /dev/full");
    one_error("plan > /dev/full", 1);
    sh("$C data preview $D/run.yaml > /dev/full");
    one_error("data preview > /dev/full", 1);
}

/* Not wrong, but for nothing: a rank beyond the matrix's own. */
static void test_rank_beyond_the_matrix(void **state) {
    (void)state;
    ok("$C plan $D/run.yaml --set lora.r=400");
    if (!strstr(ran.err.p ? ran.err.p : "", "q_proj.lora_A.weight has rank 400, but its matrix has a side of ")) flunk("no warning: %s", ran.err.p ? ran.err.p : "");
    ok("$C plan $D/run.yaml");
    if (ran.err.p && strstr(ran.err.p, "has rank")) flunk("warned of a rank within the matrix: %s", ran.err.p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),     cmocka_unit_test(test_hf_folders), cmocka_unit_test(test_tokenizers),    cmocka_unit_test(test_gguf_files), cmocka_unit_test(test_weights_not_finite),
        cmocka_unit_test(test_data),     cmocka_unit_test(test_data_files), cmocka_unit_test(test_sft_data),   cmocka_unit_test(test_settings),      cmocka_unit_test(test_output_folder),
        cmocka_unit_test(test_memory),   cmocka_unit_test(test_full_disk),  cmocka_unit_test(test_full_pipe),
        cmocka_unit_test(test_rank_beyond_the_matrix),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
