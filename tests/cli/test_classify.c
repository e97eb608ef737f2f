/* Classification as its users meet it: train, evaluate, resume, classify, on tests/golden/cipher with labels that its tokens tell; the base's
 * features found again, and what a run without them gives; embeddings as files; every refusal. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    labelled_letters();
    ok("printf 'objective: classification\nmodel: %%s\noutput_dir: %%s/run\ndata: %%s/train.jsonl\neval: {data: %%s/dev.jsonl}\nmax_steps: 60\nlearning_rate: 3e-2\nmethod: none\nmax_length: 16\n' "
       "$G $D $D $D > $D/run.yaml");
    return 0;
}

/* The share of the texts of dev.jsonl whose class `classify` tells rightly. */
static double share_right(const char *adapter) {
    int right = 0, n = 0;
    ok("$C classify --model $G --adapter $D/%s --data $D/dev.jsonl", adapter);
    for (char *line = ran.out.p, *end; *line; line = end + 1, n++) {
        end = strchr(line, '\n');
        json_t *j = json_loadb(line, (size_t)(end - line), 0, NULL), *p = json_object_get(j, "probabilities"), *x;
        const char *text = json_string_value(json_object_get(j, "text")), *label = json_string_value(json_object_get(j, "label")), *key;
        double sum = 0, best = 0;
        json_object_foreach(p, key, x) sum += json_number_value(x), best = fmax(best, json_number_value(x));
        assert_true(fabs(sum - 1) < 1e-5);
        assert_true(json_number_value(json_object_get(p, label)) == best);
        right += label[3] == text[2];
        json_decref(j);
    }
    return (double)right / n;
}

/* The head alone, its features kept and found again; the same bits without them and after a resume; LoRA beside it. */
static void test_run(void **state) {
    (void)state;
    ok("$C train $D/run.yaml");
    says(ran.out.p, "One classifier of 3 classes on the frozen base learns from");
    says(ran.out.p, "/run/features/");
    says(ran.out.p, "the base's rows of 60 texts");
    says(ran.out.p, "macro F1");
    says(ran.out.p, "cyclora classify --model");
    json_t *report = json_of("run/report.json"), *plan = json_object_get(report, "plan"), *evals = json_object_get(report, "evals");
    const json_t *last = json_array_get(json_object_get(json_array_get(evals, json_array_size(evals) - 1), "sides"), 0);
    const double accuracy = json_number_value(json_object_get(last, "accuracy"));
    assert_true(accuracy > 0.6);
    assert_true(fabs(share_right("run/adapter") - accuracy) < 1e-9);
    assert_int_equal(json_array_size(json_object_get(last, "classes")), 3);
    assert_false(json_is_true(json_object_get(json_object_get(plan, "features"), "found")));
    json_decref(report);
    ok("grep -c eval_macro_f1 $D/run/metrics.jsonl && grep -q '\"accuracy\"' $D/run/metrics.jsonl && ! grep -q mean_token_accuracy $D/run/metrics.jsonl");
    assert_string_equal(ran.out.p, "2\n");

    ok("$C train $D/run.yaml --quiet --set features.cache=$D/run/features --set output_dir=$D/again && cmp $D/run/adapter/adapter_model.safetensors $D/again/adapter/adapter_model.safetensors");
    report = json_of("again/report.json");
    assert_true(json_is_true(json_object_get(json_object_get(json_object_get(report, "plan"), "features"), "found")));
    json_decref(report);
    ok("$C train $D/run.yaml --quiet --set features.once=false --set per_device_train_batch_size=16 --set output_dir=$D/whole && $C train $D/run.yaml --quiet --set per_device_train_batch_size=16 --set output_dir=$D/parts && cmp $D/parts/adapter/adapter_model.safetensors $D/whole/adapter/adapter_model.safetensors && ! test -e $D/whole/features");
    ok("$C train $D/run.yaml --quiet --set max_steps=20 --set output_dir=$D/cut && $C train $D/run.yaml --quiet --set output_dir=$D/cut --resume && cmp $D/run/adapter/adapter_model.safetensors $D/cut/adapter/adapter_model.safetensors");

    ok("$C eval $D/run.yaml --run $D/run --json");
    json_t *eval = json_loads(ran.out.p, 0, NULL);
    assert_true(fabs(json_number_value(json_object_get(json_array_get(json_object_get(eval, "sides"), 0), "accuracy")) - accuracy) < 1e-9);
    json_decref(eval);
    ok("$C eval $D/run.yaml --run $D/run");
    says(ran.out.p, "precision");
    says(ran.out.p, "of s");

    ok("$C train $D/run.yaml --quiet --set method=lora --set lora.r=4 --set learning_rate=1e-2 --set max_steps=30 --set output_dir=$D/lora && ! test -e $D/lora/features");
    assert_true(share_right("lora/adapter") > 0.6);
    ok("for m in ln_tuning ia3 full bottleneck prompt_tuning prefix_tuning; do $C train $D/run.yaml --quiet --set method=$m --set learning_rate=1e-2 --set max_steps=30 --set output_dir=$D/$m && $C eval $D/run.yaml --set method=$m --run $D/$m && "
       "$C inspect $D/$m/adapter || exit 1; done");
    ok("$C plan $D/run.yaml --set method=bottleneck");
    says(ran.out.p, "One classifier of 3 classes and one bottleneck adapter (after attention");
    assert_true(share_right("bottleneck/adapter") > 0.6 && share_right("ln_tuning/adapter") > 0.6 && share_right("ia3/adapter") > 0.6 && share_right("full/adapter") > 0.6);
    assert_true(share_right("prompt_tuning/adapter") > 0.5 && share_right("prefix_tuning/adapter") > 0.5);
    refused("$C train $D/run.yaml --set method=p_tuning --set output_dir=$D/x", "where a classifier has no place");
    ok("$C inspect $D/lora/adapter && $C plan $D/run.yaml --set method=lora && $C data preview $D/run.yaml");
    says(ran.out.p, "label of ");
}

/* Integers are classes in their order; names in that of the configuration. */
static void test_labels(void **state) {
    (void)state;
    ok("printf 'text,label\nsle,10\nels,2\nlse,-1\nesl,10\n' > $D/n.csv && $C train $D/run.yaml --quiet --set data=$D/n.csv --set eval.data= --set max_steps=1 --set output_dir=$D/n");
    json_t *j = json_of("n/adapter/labels.json"), *names = json_object_get(j, "id2label");
    assert_string_equal(json_string_value(json_object_get(names, "0")), "-1");
    assert_string_equal(json_string_value(json_object_get(names, "1")), "2");
    assert_string_equal(json_string_value(json_object_get(names, "2")), "10");
    json_decref(j);
    ok("printf '{\"b\": \"sle\", \"c\": 1}\n{\"b\": \"els\", \"c\": 0}\n' > $D/f.jsonl && $C train $D/run.yaml --quiet --set data=$D/f.jsonl --set field=b --set label_field=c --set labels=[1,0,7] --set eval.data= --set max_steps=1 --set output_dir=$D/f && grep -q '\"2\": \"7\"' $D/f/adapter/labels.json");
    refused("$C train $D/run.yaml --set data=$D/n.csv --set eval.data=$D/dev.jsonl --set output_dir=$D/x", "dev.jsonl:1: label 'of s' is none of the 3 classes (-1, 2, 10)");
    refused("$C train $D/run.yaml --set labels=[a,b] --set output_dir=$D/x", "train.jsonl:1: label 'of l' is none of the 2 classes (a, b)");
    refused("$C train $D/run.yaml --set labels=[a,b,a] --set output_dir=$D/x", "the label 'a' is there twice");
    refused("$C train $D/run.yaml --set labels=[a] --set output_dir=$D/x", "1 label ('a'): a classifier needs two classes at least");
    refused("echo '{\"text\": \"s\", \"label\": \"x\"}' > $D/one.jsonl; $C train $D/run.yaml --set data=$D/one.jsonl --set eval.data= --set output_dir=$D/x", "one.jsonl: 1 label ('x')");
    refused("echo '{\"text\": \"s\", \"label\": 1.5}' > $D/one.jsonl; $C train $D/run.yaml --set data=$D/one.jsonl --set output_dir=$D/x", "one.jsonl:1: \"label\" is 1.5: a label is a name or an integer");
    refused("echo '{\"text\": \"s\", \"label\": [1]}' > $D/one.jsonl; $C train $D/run.yaml --set data=$D/one.jsonl --set output_dir=$D/x", "one.jsonl:1: \"label\" is an array, not a string");
    refused("$C train $D/run.yaml --set label_field=intent --set output_dir=$D/x", "train.jsonl:1: no field \"intent\" (the line has \"text\", \"label\")");
    refused("echo sle > $D/plain.txt; $C train $D/run.yaml --set data=$D/plain.txt --set output_dir=$D/x", "labels");
}

static void test_refusals(void **state) {
    (void)state;
    ok("test -d $D/run || $C train $D/run.yaml --quiet; test -d $D/lora || $C train $D/run.yaml --quiet --set method=lora --set max_steps=2 --set output_dir=$D/lora");
    refused("$C train $D/run.yaml --set objective=sft --set output_dir=$D/x", "'method' none trains nothing but a classifier's head: it goes with objective classification");
    refused("$C train $D/run.yaml --set objective=sft --set method=lora --set labels=[a,b] --set output_dir=$D/x", "'labels' has no use with objective sft");
    refused("$C generate --model $G --adapter $D/lora/adapter --prompt s --max-new-tokens 4", "a classifier of 3 classes", "cyclora classify");
    refused("echo sle > $D/t.txt; $C eval --model $G --adapter $D/run/adapter --text $D/t.txt", "a classifier of 3 classes");
    refused("$C eval $D/run.yaml", "the bare base has no head to evaluate");
    refused("$C eval $D/run.yaml --run $D/run --set labels='[of s, of e, of l]'", "was made for other classes (3) than these (3), or for the same in another order");
    refused("$C merge --model $G --adapter $D/lora/adapter --out $D/m.gguf", "lora/adapter holds a classifier of 3 classes: gguf has no place for it; `cyclora merge` makes a Hugging Face folder");
    refused("$C export $D/lora/adapter --to gguf-lora --model $G", "holds a classifier of 3 classes: gguf-lora has no place for it");
    refused("$C merge --undo --model $G --adapter $D/lora/adapter --out $D/m", "what a merge is taken back to has no place for it");
    refused("$C classify --model $G --adapter $D/run/adapter", "--data");
    refused("$C classify --model $G --data $D/dev.jsonl", "--adapter");
    refused("$C classify --model $G --adapter $D/run/adapter --data $D/dev.jsonl --field body", "dev.jsonl:1: no field \"body\"");
    refused("$C classify --model $G --adapter $D/run/adapter --data $D/dev.jsonl --max-length 100000", "max_length 100000 is more than the model's context");
    ok("printf '{\"prompt\": \"s\", \"completion\": \"l\"}\n' > $D/sft.jsonl; $C train $D/run.yaml --quiet --set objective=sft --set method=lora --set data=$D/sft.jsonl --set eval.data= --set max_steps=1 --set output_dir=$D/sft");
    refused("$C classify --model $G --adapter $D/sft/adapter --data $D/dev.jsonl", "this adapter holds no classifier");
    refused("$C train $D/run.yaml --set method=lora --set adapter=$D/sft/adapter --set output_dir=$D/x", "holds no classifier; this one would be a classifier of 3 classes");
    refused("$C train $D/run.yaml --set streaming=true --set output_dir=$D/x", "the features of streamed data are not kept");
    ok("$C train $D/run.yaml --quiet --set streaming=true --set features.once=false --set per_device_train_batch_size=16 --set output_dir=$D/s && cmp $D/whole/adapter/adapter_model.safetensors $D/s/adapter/adapter_model.safetensors");
    ok("rm -rf $D/short; mkdir $D/short; for f in $D/run/features/*; do cp $D/run/adapter/adapter_model.safetensors $D/short/$(basename $f); done");
    refused("$C train $D/run.yaml --set features.cache=$D/short --set output_dir=$D/x", "not the features of 60 texts of width", "remove it");
}

/* Base, adapter and head as one folder of transformers' (held against it by tests/golden/make/heads_load.py). */
/* A tensor's bytes of an adapter's file, as hex. */
#define BYTES "python3 -c 'import json,sys; b=open(sys.argv[1],\"rb\").read(); n=int.from_bytes(b[:8],\"little\"); h=json.loads(b[8:8+n]); k=[k for k in h if sys.argv[2] in k][0]; a,z=h[k][\"data_offsets\"]; print(b[8+n+a:8+n+z].hex())' "

/* The adapter of one task starts another: whole where the classes are the same, without its head where they are not; the numbers are the source's. */
static void test_transfer(void **state) {
    (void)state;
    const char *tune = "$C train $D/run.yaml --overwrite --set method=lora --set lora.r=2 --set learning_rate=1e-2 --set eval.data= ";
    ok("%s --quiet --set max_steps=4 --set output_dir=$D/source", tune);
    ok("sed 's/of [sle]/x/;1~2s/\"x\"/\"y\"/' $D/train.jsonl > $D/other.jsonl");
    ok("%s --set data=$D/other.jsonl --set max_steps=1 --set learning_rate=1e-30 --set init_from=$D/source --set output_dir=$D/target", tune);
    says(ran.err.p, "source/adapter goes on, the head begins anew: its classes are not those of this task");
    ok("for t in layers.0.self_attn.q_proj.lora_A layers.1.mlp.down_proj.lora_B; do " BYTES "$D/source/adapter/adapter_model.safetensors $t; " BYTES "$D/target/adapter/adapter_model.safetensors $t; done | uniq -c | grep -c '^ *2 '");
    assert_string_equal(ran.out.p, "2\n");
    ok("%s --quiet --set max_steps=1 --set learning_rate=1e-30 --set init_from=$D/source/adapter --set output_dir=$D/same", tune);
    assert_int_equal(ran.err.n, 0);
    ok("cmp $D/source/adapter/adapter_model.safetensors $D/same/adapter/adapter_model.safetensors");
    ok("printf '{\"prompt\": \"s\", \"completion\": \"l\"}\n' > $D/sft.jsonl; %s --set objective=sft --set data=$D/sft.jsonl --set max_steps=1 --set init_from=$D/source --set output_dir=$D/writes", tune);
    says(ran.err.p, "goes on, the head that it has is left");
    ok("%s --quiet --set data=$D/other.jsonl --set max_steps=1 --set init_from=$D/writes --set output_dir=$D/back", tune);
    refused("$C train $D/run.yaml --set method=lora --set lora.r=3 --set init_from=$D/source --set output_dir=$D/x", "init_from: ", "source/adapter");
    refused("$C train $D/run.yaml --set method=ia3 --set init_from=$D/source --set output_dir=$D/x", "is a lora adapter, the configuration says ia3");
    refused("$C train $D/run.yaml --set init_from=$D/nothing --set output_dir=$D/x", "init_from: ", "nothing is no adapter (adapter_config.json), and no run or checkpoint with one in ");
    refused("$C train $D/run.yaml --set init_from=$D/source --set adapter=$D/source/adapter --set output_dir=$D/x", "'adapter' and 'init_from' are both given");
    ok("$C train $D/run.yaml --quiet --set max_steps=1 --set eval.data= --set output_dir=$D/bare");
    refused("$C train $D/run.yaml --set data=$D/other.jsonl --set eval.data= --set init_from=$D/bare --set output_dir=$D/x", "has nothing for this task: it is a classifier of 3 classes alone");
}

static void test_merge(void **state) {
    (void)state;
    ok("test -d $D/run || $C train $D/run.yaml --quiet; test -d $D/lora || $C train $D/run.yaml --quiet --set method=lora --set max_steps=2 --set output_dir=$D/lora");
    ok("$C merge --model $G --adapter $D/lora/adapter --out $D/merged --type f32");
    says(ran.out.p, "head      a classifier of 3 classes (score), as transformers has it");
    ok("grep -ac '\"score.weight\":{\"dtype\":\"F32\",\"shape\":.3,' $D/merged/model.safetensors");
    json_t *j = json_of("merged/config.json");
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "architectures"), 0)), "LlamaForSequenceClassification");
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "id2label"), "1")), "of l");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "label2id"), "of s")), 2);
    json_decref(j);
    ok("$C generate --model $D/merged --prompt s --ignore-eos --max-new-tokens 4");
    says(ran.err.p, "merged is a classifier: its head (score.weight) is not read");
    ok("$C merge --model $G --adapter $D/run/adapter --out $D/alone --type f32 && grep -ac '\"score.weight\":{\"dtype\":\"F32\",\"shape\":.3,' $D/alone/model.safetensors");
    refused("$C merge --model tests/golden/tiny_llama/bias --adapter $D/run/adapter --out $D/no", "score.weight is no head of 3 classes for rows of");
    ok("! test -e $D/no");
}

static void test_embed(void **state) {
    (void)state;
    ok("$C embed --model $G --data $D/dev.jsonl --out $D/x.npy && head -c 128 $D/x.npy | tail -c +11");
    says(ran.out.p, "12 texts, width");
    says(ran.out.p, "{'descr': '<f4', 'fortran_order': False, 'shape': (12, ");
    ok("test $(head -c 6 $D/x.npy | tail -c 5) = NUMPY && $C embed --model $G --data $D/dev.jsonl --pooling last --raw --out $D/x.safetensors && $C inspect $D/x.safetensors");
    says(ran.out.p, "embeddings");
    /* the same text alone, and another place of it */
    ok("for p in mean last cls; do printf 'sle\nelsa\n' > $D/two.txt; echo elsa > $D/one.txt; $C embed --model $G --data $D/two.txt --pooling $p | tail -1 > $D/a; $C embed --model $G --data $D/one.txt --pooling $p > $D/b; cmp $D/a $D/b; "
       "md5sum < $D/a; done | sort -u | wc -l");
    assert_string_equal(ran.out.p, "3\n");
    refused("$C embed --model $G --data $D/dev.jsonl --out $D/x.txt", "x.txt: the name must end in .npy or .safetensors");
    refused("$C embed --model $G --data $D/dev.jsonl --pooling max", "--pooling 'max': mean, last or cls");
    refused("$C embed --model $G --data $D/none.jsonl", "none.jsonl");
    refused("$C embed --model $G --data $D/dev.jsonl --adapter $D/run/adapter --pooling last", "under a classifier's adapter");
    ok("$C embed --model $G --data $D/dev.jsonl --adapter $D/run/adapter > $D/a && $C embed --model $G --data $D/dev.jsonl > $D/b && cmp $D/a $D/b");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_run), cmocka_unit_test(test_labels), cmocka_unit_test(test_refusals), cmocka_unit_test(test_transfer), cmocka_unit_test(test_merge), cmocka_unit_test(test_embed)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
