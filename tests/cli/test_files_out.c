/* Files out as a user asks for them: what is said, where it lands, that a merged model writes what base and adapter write, that
 * nothing is overwritten or left half done, and each refusal. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("{ echo \"model: $G\"; echo 'max_steps: 3'; echo 'max_new_tokens: 4'; echo 'max_length: 32'; echo 'pass_tokens: 64'; echo "
       "'learning_rate: 1e-2'; "
       "echo 'per_device_train_batch_size: 2'; echo 'lora: {r: 2, lora_alpha: 4, target_modules: all-linear}'; echo \"output_dir: "
       "$D/run\"; "
       "echo \"A: {data: $G/a.jsonl}\"; echo \"B: {data: $G/b.jsonl}\"; } > $D/run.yaml; $C train $D/run.yaml --quiet");
    return 0;
}

static void test_adapters(void **state) {
    (void)state;
    ok("$C export $D/run --to peft");
    says(ran.out.p, "/run/export/peft/A");
    says(ran.out.p, "LoRA of rank 2 on 21 matrices");
    says(ran.out.p, "memory    planned ");
    says(ran.out.p, "every logit is the same to the last bit");
    says(ran.out.p, "; the adapter moves the base by ");
    ok("for s in A B; do cmp $D/run/$s/adapter_model.safetensors $D/run/export/peft/$s/adapter_model.safetensors || exit 1; done");
    ok("grep -q '\"base_model_name_or_path\"' $D/run/export/peft/A/adapter_config.json && grep -q '\"inference_mode\": true' "
       "$D/run/export/peft/A/adapter_config.json");
    ok("$C export $D/run --to gguf-lora --out $D/lora && test -f $D/lora/A.gguf && test -f $D/lora/B.gguf && $C inspect $D/lora/A.gguf "
       "--json || true");
    ok("$C export $D/run/A --to mlx --out $D/mlx && test -f $D/mlx/adapters.safetensors && grep -q '\"self_attn.q_proj\"' "
       "$D/mlx/adapter_config.json");
    ok("$C export $D/run --to gguf-lora --side B --out $D/b.gguf && cmp $D/b.gguf $D/lora/B.gguf");
    ok("$C export $D/run/checkpoint-3 --to mlx --out $D/fromcheck --json");
    says(ran.out.p, "{\"outputs\":[{\"to\":\"mlx\",");
    says(ran.out.p, "\"adapter_kl\":");
}

/* Keys that a reader older than they are would fail on are left out. */
static void test_portable_keys(void **state) {
    (void)state;
    ok("cp -r $D/run/A $D/new && sed -i 's/\"r\": 2/\"r\": 2, \"peft_version\": \"9\", \"corda_config\": null/' $D/new/adapter_config.json "
       "&& $C export $D/new --to peft --out $D/old --no-check && ! grep -q 'corda\\|peft_version' $D/old/adapter_config.json");
}

static void test_merged(void **state) {
    (void)state;
    ok("$C merge --model $G --adapter $D/run/A --out $D/m.gguf --type f32 && $C merge --model $G --adapter $D/run/A --out $D/m --type f32 "
       "--max-shard-size 100KB");
    says(ran.out.p, "tensors against the base with its deltas: worst error ");
    ok("ls $D/m/model-00001-of-*.safetensors $D/m/model.safetensors.index.json $D/m/config.json $D/m/tokenizer.json");
    ok("$C generate --model $G --adapter $D/run/A --file $G/a.jsonl --max-new-tokens 6 --threads 1 > $D/want 2>/dev/null; for m in "
       "$D/m.gguf $D/m; do $C generate --model $m --file $G/a.jsonl --max-new-tokens 6 --threads 1 > $D/have 2>/dev/null; cmp $D/want "
       "$D/have || exit 1; done");
    ok("$C generate --model $G --file $G/a.jsonl --max-new-tokens 6 --threads 1 2>/dev/null | cmp -s - $D/want; test $? = 1"); /* the base alone writes otherwise */
    ok("$C export $D/run --to gguf --type q4_0 --out $D/quant");
    says(ran.out.p, "quant/B.gguf");
    ok("test -f $D/quant/A.gguf");
}

/* Tensors of the base that were trained: the plan's instructions end where they do, what loaders say, and the model that merging makes. */
static void test_trained_tensors(void **state) {
    (void)state;
    ok("$C plan $D/run.yaml --set method=full --set full.layers=last-1 --dump | sed -n '/^train/,/^$/p' > $D/dump && head -1 $D/dump && test $(grep -c weight_grad $D/dump) = 7 && "
       "test $(grep -c attention_bwd $D/dump) = 1 && ! grep -q embed_bwd $D/dump && ! grep 'blk.[01]' $D/dump | grep -q '_bwd\\|grad'");
    says(ran.out.p, "train: ");
    says(ran.out.p, " instructions");
    ok("$C train $D/run.yaml --quiet --set method=full --set full.layers=last-1 --set output_dir=$D/full --set max_steps=1 && $C inspect $D/full/A --model $G");
    says(ran.out.p, "FULL");
    says(ran.out.p, "it has no such method; `cyclora merge` makes a model of it");
    says(ran.out.p, "it serves LoRA alone: merge the adapter");
    says(ran.out.p, "every tensor finds its place");
    ok("$C merge --model $G --adapter $D/full/A --out $D/fm.gguf --type f32 && $C merge --model $G --adapter $D/full/A --out $D/fm --type f32");
    says(ran.out.p, "full/A: 9 trained tensors of the base (full)");
    ok("$C generate --model $G --adapter $D/full/A --file $G/a.jsonl --max-new-tokens 6 --threads 1 > $D/want 2>/dev/null; for m in $D/fm.gguf $D/fm; do "
       "$C generate --model $m --file $G/a.jsonl --max-new-tokens 6 --threads 1 > $D/have 2>/dev/null; cmp $D/want $D/have || exit 1; done");
    refused("$C export $D/full --to peft --out $D/no", "full/A: tensors of the base were trained (full), for which peft has no form: `cyclora merge` puts them into a model");
    refused("$C merge --model tests/golden/tiny_llama/bias --adapter $D/full/A --out $D/no", "the adapter's tensor has another shape than that of tests/golden/tiny_llama/bias: another model");
    ok("test ! -e $D/no");
}

/* What is no change of the base's weights: both sides of a cycle train it, it writes text, goes on, and leaves in no other form. */
static void test_bottleneck(void **state) {
    (void)state;
    ok("$C train $D/run.yaml --set method=bottleneck --set bottleneck.config=pfeiffer --set output_dir=$D/bn && test -f $D/bn/A/adapter.safetensors && test -f $D/bn/B/adapter.safetensors");
    says(ran.out.p, "parameters");
    ok("$C inspect $D/bn/A --model $G");
    says(ran.out.p, "AdapterHub  yes    load_adapter(folder, use_safetensors=True)");
    says(ran.out.p, "it is AdapterHub's");
    says(ran.out.p, "its shape is what this base asks for");
    says(ran.out.p, "trained_on_it: yes");
    ok("$C generate --model $G --adapter $D/bn/A --file $G/a.jsonl --max-new-tokens 6 --threads 1 2>/dev/null > $D/have; $C generate --model $G --file $G/a.jsonl --max-new-tokens 6 --threads 1 2>/dev/null > $D/want; "
       "! cmp -s $D/want $D/have && test $(wc -l < $D/have) = $(wc -l < $D/want)");
    ok("$C train $D/run.yaml --quiet --set method=bottleneck --set bottleneck.config=pfeiffer --set output_dir=$D/bn --set max_steps=4 --resume && cd $D && ls -d bn/checkpoint-4");
    ok("$C train $D/run.yaml --quiet --set method=bottleneck --set bottleneck.config=seq_bn --set output_dir=$D/on --set max_steps=1 --set A.adapter=$D/bn/A");
    refused("$C train $D/run.yaml --set method=bottleneck --set bottleneck.config=parallel --set output_dir=$D/x --set A.adapter=$D/bn/A", "differ on bottleneck.config (is_parallel)");
    refused("$C train $D/run.yaml --set method=bottleneck --set bottleneck.leave_out=0-2 --set output_dir=$D/x", "leaves out all 3 layers");
    refused("$C train $D/run.yaml --set method=bottleneck --set bottleneck.config=compacter --set output_dir=$D/x", "double_seq_bn");
    refused("$C train $D/run.yaml --set method=bottleneck --set bottleneck.cross_adapter=true --set output_dir=$D/x", "this base has no cross-attention");
    refused("$C train $D/run.yaml --set output_dir=$D/x --set A.adapter=$D/bn/A", "is a bottleneck adapter, the configuration says lora");
    refused("$C merge --model $G --adapter $D/bn/A --out $D/no", "a bottleneck adapter has an activation inside");
    refused("$C adapter average $D/bn/A $D/bn/B --out $D/no", "an adapter of AdapterHub's: those of PEFT's layout alone");
    refused("$C export $D/bn --to peft --out $D/no", "cannot be merged or written in other forms");
    refused("$C export $D/bn/A --to gguf-lora --out $D/no", "cannot be merged or written in other forms");
    ok("test ! -e $D/no && test ! -e $D/x");
}

static void test_converted(void **state) {
    (void)state;
    ok("$C convert $G $D/c.gguf && $C convert $D/c.gguf $D/c && $C convert $D/c $D/c2.gguf --json");
    ok("$C inspect $D/c.gguf --json > $D/1 && $C inspect $D/c2.gguf --json > $D/2 && jq -S 'del(.path)|.metadata|del(.\"general.name\")' "
       "$D/1 > $D/1m && jq -S '.metadata|del(.\"general.name\")' $D/2 > $D/2m && cmp $D/1m $D/2m || ! command -v jq");
    ok("for m in $G $D/c.gguf $D/c; do $C tokenize --model $m --file $G/a.jsonl > $D/ids$(basename $m); done; cmp $D/idscipher "
       "$D/idsc.gguf && cmp $D/idscipher $D/idsc");
    ok("$C convert random:3:f16 $D/r --model-config $G/config.json && $C inspect $D/r --json > /dev/null");
}

/* Rows of 96 and 192: NF4's blocks of 64 fit the second alone. */
static void test_quantised(void **state) {
    (void)state;
    ok("$C quantize $G --to q4_0 -o $D/q4.gguf --modules down_proj=q8_0,k_proj=none --data $G/test.jsonl --field a --tokens 300");
    says(ran.out.p, "perplexity ");
    says(ran.out.p, "same first choice at ");
    refused("$C quantize $G --to q4_0 --out $D/no.gguf --modules '.*=none,down_proj=q8_0'", "'down_proj=q8_0' decides about no matrix of");
    ok("$C quantize $G --to nf4 --out $D/nf4 --modules '[qkvo]_proj=none,(gate|up)_proj=none' --json > $D/report");
    json_t *report = json_of("report"), *out = json_array_get(json_object_get(report, "outputs"), 0);
    assert_true(json_integer_value(json_object_get(json_object_get(out, "types"), "nf4")) > 0);
    json_decref(report);
    ok("$C generate --model $D/nf4 --prompt abc --max-new-tokens 4 > /dev/null");
    refused("$C quantize $G --to nf4 --out $D/no", "has rows of 96, which the blocks of no such type fit; leave it as it is (model.layers.");
    refused("$C quantize $D/q4.gguf --to q8_0 --out $D/no.gguf", "is quantised already, as q");
    refused("$C quantize $G --to q4_0 --out $D/no", "a Hugging Face folder has no such type beside nf4: write a GGUF file (NAME.gguf)");
    refused("$C quantize $G --to q9 --out $D/no", "'q9' is no type to quantise to");
    refused("$C quantize $G --to q4_0 --out $D/no.gguf --modules x", "modules wants a module and a type such as lm_head=q8_0, found 'x'");
    refused("$C quantize $G --to q4_0 --out $D/no.gguf --field a", "--field says what is read of --data");
    refused("$C quantize $G --to q4_0 --out $D/no.gguf --data $D/nowhere.jsonl", "nowhere.jsonl");
    refused("$C quantize $G --to q4_0", "--out is missing");
    refused("$C quantize $G --out $D/no", "--to is missing");
    refused("$C quantize --to q4_0", "MODEL is missing");
    ok("test ! -e $D/no && test ! -e $D/no.gguf");
}

static void test_places(void **state) {
    (void)state;
    ok("$C convert $G $D/there.gguf && cp $D/there.gguf $D/keep");
    refused("$C convert $G $D/there.gguf", "/there.gguf exists already; --force replaces it");
    ok("$C convert $G $D/there.gguf --type q8_0 --force && ! cmp -s $D/there.gguf $D/keep");
    refused("$C convert $D/there.gguf $D/there.gguf --force", "is what is read");
    ok("mkdir -p $D/mine && echo precious > $D/mine/thesis.tex");
    refused("$C convert $G $D/mine --force", "/mine holds 'thesis.tex', which no export wrote");
    ok("test \"$(cat $D/mine/thesis.tex)\" = precious");
    ok("$C convert $G $D/folder && $C convert $G $D/folder --force --type bf16");
}

/* A disk that is full, as a limit on file sizes; a signal; what a killed export left. */
static void test_nothing_left(void **state) {
    (void)state;
    sh("mkdir $D/none; ulimit -f 20; $C convert $G $D/none/x.gguf");
    if (ran.status != 1) flunk("status %d: %s", ran.status, ran.err.p);
    says(ran.err.p, "cannot write: File too large");
    sh("ulimit -f 20; $C convert $G $D/none/x");
    if (ran.status != 1) flunk("status %d: %s", ran.status, ran.err.p);
    ok("test -z \"$(ls -A $D/none)\"");
    sh("$C convert random:1:f32 $D/none/big --model-config bench/shapes/135m.json --no-check > $D/said 2> $D/complaint & p=$!; n=0; until "
       "ls -A $D/none | grep -q cyclora- || test $((n += 1)) -gt 600; do sleep 0.05; done; kill -TERM $p; wait $p; s=$?; "
       "cat $D/complaint >&2; exit $s");
    if (ran.status != 130) flunk("status %d: %s", ran.status, ran.err.p);
    says(ran.err.p, "interrupted: nothing was left");
    ok("test -z \"$(ls -A $D/none)\"");
    ok("mkdir $D/none/.y.cyclora-4194305 && touch $D/none/.y.cyclora-4194305/model.safetensors && $C convert $G $D/none/y && test \"$(ls "
       "-A $D/none)\" = y");
}

/* The wrong kind of thing where a model, an adapter or a text is wanted. */
static void test_mistaken(void **state) {
    (void)state;
    refused("$C tokenize --model $G --file $D", ": a folder, where a file is wanted");
    refused("$C embed --model $G --file $D", ": a folder, where a file is wanted");
    refused("$C generate --model $G --file $D", ": a folder, where a file is wanted");
    refused("$C tokenize --model $G/README.md --file $G/a.jsonl", "README.md/tokenizer.json: cannot open: Not a directory");
    static const char mistaken[] = "run/A: an adapter, not a model: name its base as the model and this folder as the adapter";
    refused("$C generate --model $D/run/A --prompt abc", mistaken);
    refused("$C convert $D/run/A $D/no", mistaken);
    refused("$C merge --model $D/run/A --adapter $D/run/A --out $D/no", mistaken);
    ok("mkdir $D/older && cp $D/run/A/adapter_config.json $D/older && echo pickle > $D/older/adapter_model.bin");
    refused("$C generate --model $G --adapter $D/older --prompt abc", "older/adapter_model.bin: a PyTorch pickle", "convert it to safetensors");
    refused("$C merge --model $G --adapter $D/older --out $D/no", "older/adapter_model.bin: a PyTorch pickle");
    refused("$C inspect $D/older", "older/adapter_model.bin: a PyTorch pickle");
    refused("$C generate --model $G --prompt abc", "a prompt of 3 tokens and up to 128 new ones are more than the model's context of 64", "max_new_tokens");
    ok("test ! -e $D/no");
}

static void test_refusals(void **state) {
    (void)state;
    refused("$C export $D/run --to onnx", "'onnx' is nothing to export to; peft, gguf-lora, mlx, hf and gguf are");
    refused("$C export $D/run", "--to is missing");
    refused("$C export", "RUN is missing");
    refused("$C export $D/run --to hf --side C", "has no side 'C'");
    refused("$C export $D/run/A --to hf --side A", "it has no side 'A'");
    refused("$C export $G --to hf", "holds no adapter");
    refused("$C export $D/nowhere --to hf", "no such folder");
    refused("$C export $G/config.json --to hf", "config.json: a file, where the folder of a run or of an adapter is wanted");
    refused("$C export $D/run/A --to peft --type f16 --out $D/no", "keeps the numbers that it has");
    refused("$C export $D/run/A --to gguf-lora --type q8_0 --out $D/no", "an adapter is written in f32, f16 or bf16");
    refused("$C merge --model $G --adapter $D/run/A", "--out is missing");
    refused("$C merge --model $G --out $D/no", "--adapter is missing");
    refused("$C merge --adapter $D/run/A --out $D/no", "--model is missing");
    refused("$C merge --model $G --adapter $D/run/A --out $D/no --type q5_9", "--type q5_9: there is no such type (f32, f16, bf16, q8_0,");
    refused("$C merge --model $G --adapter $D/run/A --out $D/no --type q8_0", "a Hugging Face folder is written in f32, f16 or bf16");
    refused("$C merge --model $G --adapter $D/run/A --out $D/no --max-shard-size big", "wants a size such as 5GB or 500MB, not 'big'");
    refused("$C merge --model tests/golden/tiny_llama/bias --adapter $D/run/A --out $D/no", "the adapter is for a matrix of");
    refused("$C convert $G", "OUT is missing");
    refused("$C convert", "IN is missing");
    ok("cp -r $D/run/A $D/lost && sed -i 's|\"base_model_name_or_path\": \"[^\"]*\"|\"base_model_name_or_path\": \"/not/here\"|' "
       "$D/lost/adapter_config.json");
    refused("$C export $D/lost --to hf --out $D/no", "the base model /not/here, which ", "is not here: --model says where it is");
    ok("test ! -e $D/no");
}

/* The run noted its base's hash. */
/* Adapters made of the run's two: what is printed, that the result is one that a base takes, and what is asked in vain. */
static void test_adapter(void **state) {
    (void)state;
    ok("$C adapter resize $D/run/A --rank 1 --out $D/r1");
    says(ran.out.p, "r1  resize of ");
    says(ran.out.p, "energy kept  relative error");
    says(ran.out.p, "LORA, 21 modules, 42 tensors, ");
    says(ran.out.p, "% of the energy (squares) of all changes; worst relative error ");
    ok("$C adapter average $D/run/A $D/run/B --type=cat --weights=1,-1 --out $D/difference && $C inspect $D/difference --model $G");
    says(ran.out.p, "r:                       4");
    ok("$C adapter average $D/run/A --type cat --weights 1 --out $D/same && for a in $D/run/A $D/same; do $C generate --model $G --adapter $a --file $G/a.jsonl --max-new-tokens 6 --threads 1 2>/dev/null | md5sum; "
       "done | uniq | wc -l | grep -qx 1");
    ok("$C adapter ties $D/run/A $D/run/B --density 0.5 --sign frequency --out $D/ties --json");
    says(ran.out.p, "\"how\":\"ties\"");
    ok("$C adapter dare $D/run/A $D/run/B --density 0.5 --ties --seed 2 --out $D/dare && $C adapter dare $D/run/A $D/run/B --density 0.5 --ties --seed 2 --out $D/dare --force && "
       "$C adapter prune $D/run/A $D/run/B --density 0.5 --out $D/prune");
    refused("$C adapter", "resize, average, ties, dare or prune is missing");
    refused("$C adapter averge $D/run/A", "there is no 'averge'; did you mean 'average'?");
    refused("$C adapter sum $D/run/A", "there is no 'sum'; resize, average, ties, dare and prune are");
    refused("$C adapter average --out $D/x", "DIR is missing");
    refused("$C adapter resize $D/run/A --out $D/x", "--rank is missing");
    refused("$C adapter resize $D/run/A --rank 0 --out $D/x", "--rank is 0, but at least 1 is wanted");
    refused("$C adapter resize $D/run/A --rank 1 --weights 1 --out $D/x", "--weights has no use for one adapter's rank");
    refused("$C adapter resize $D/run/A --rank 100 --out $D/x", "a rank of 100 is more than ");
    refused("$C adapter ties $D/run/A --out $D/x", "--density is missing");
    refused("$C adapter ties $D/run/A --density 0 --out $D/x", "must be above 0 and at most 1; it is 0");
    refused("$C adapter ties $D/run/A --density 2 --out $D/x", "must be above 0 and at most 1; it is 2");
    refused("$C adapter ties $D/run/A --density 0.5", "--out is missing");
    refused("$C adapter ties $D/run/A --density 0.5 --sign most --out $D/x", "--sign 'most' is neither total nor frequency");
    refused("$C adapter dare $D/run/A --density 0.5 --sign total --out $D/x", "--sign goes with ties, and with dare --ties");
    refused("$C adapter prune $D/run/A --density 0.5 --ties --out $D/x", "--ties goes with dare");
    refused("$C adapter prune $D/run/A --density 0.5 --type svd --out $D/x", "--type goes with average");
    refused("$C adapter average $D/run/A --type mean --out $D/x", "no --type 'mean' of an average");
    refused("$C adapter average $D/run/A $D/run/B --weights 1 --out $D/x", "1 weights for 2 adapters");
    refused("$C adapter average $D/run/A $D/run/B --weights 1,x --out $D/x", "--weights wants numbers with commas");
    refused("$C adapter average $D/run/A $D/run/B --out $D/r1", "r1 exists already; --force replaces it");
    refused("$C adapter average $D/run/A $D/nowhere --out $D/x", "nowhere: no such folder");
    refused("$C adapter average $D/run/A tests/golden/arithmetic/a --out $D/x", "adapters of different bases cannot be made one");
    ok("test ! -e $D/x");
}

/* What goes and what it has cost; named blocks need no text; each thing that is wrong is one line, and nothing is left. */
static void test_pruned(void **state) {
    (void)state;
    ok("$C prune $G --layers 2 --ffn 128 --text $G/a.jsonl --tokens 800 -o $D/less");
    says(ran.out.p, "  blocks    3 -> 2\n");
    says(ran.out.p, "  ffn       192 -> 128 channels of each block: ");
    says(ran.out.p, "  quality   200 tokens: mean KL ");
    ok("$C generate --model $D/less --file $G/a.jsonl --max-new-tokens 2 > $D/said && test -s $D/said && $C prune $G --drop-layers 1 -o $D/less.gguf --json");
    says(ran.out.p, "\"dropped\":true");
    refused("$C prune $G --drop-layers 0-2 -o $D/unpruned", "all 3 blocks would go");
    refused("$C prune $G --layers 0 -o $D/unpruned", "--layers");
    refused("$C prune $G --layers 2 -o $D/unpruned", "--text or --data names them");
    refused("$C prune $G --layers 2 --text $G/a.jsonl --tokens 40 -o $D/unpruned", "50 tokens of text are too few: 64 are a row");
    refused("$C prune $G --layers 2 --text $G/a.jsonl -o $D/less", "exists already");
    refused("$C prune $G --layers 2", "--out");
    ok("test ! -e $D/unpruned");
}

static void test_another_base(void **state) {
    (void)state;
    ok("cp -r $D/run $D/changed && sed -i 's/\"xxh128_of_tensors\": \"[0-9a-f]*\"/\"xxh128_of_tensors\": \"00\"/' $D/changed/audit.json");
    refused("$C export $D/changed --to hf --side A --out $D/no2", "is no longer the base that ", "/changed/A was trained on",
            "in training to 00");
    ok("cp -r $G $D/twin && $C export $D/run --to hf --side A --model $D/twin --out $D/twin-a"); /* another path, the same tensors */
    if (ran.err.n) flunk("%s", ran.err.p);
    ok("$C convert $G $D/twin.gguf && $C export $D/run --to gguf --side A --model $D/twin.gguf --out $D/twin-a.gguf");
    says(ran.err.p, "cyclora: warning: ");
    says(ran.err.p, "right for the same model in another form");
}

static void test_inspect(void **state) {
    (void)state;
    ok("$C inspect $D/run/A --model $G");
    says(ran.out.p, "vLLM       yes                    with --enable-lora");
    says(ran.out.p, "llama.cpp  export --to gguf-lora");
    says(ran.out.p, "every pair finds its matrix");
    says(ran.out.p, "yes: the hash of its tensors is the one that the run noted");
    ok("$C inspect $D/run/A --model tests/golden/tiny_llama/bias");
    says(ran.out.p, "another model");
    ok("$C inspect $D/run --model $G");
    static const struct {
        const char *change, *says[3];
    } cases[] = {{"s/\"use_dora\": false/\"use_dora\": true/",
                  {"use_dora is rejected: merge the adapter", "DoRA's magnitudes cannot be expressed: merge the adapter", "cyclora"}},
                 {"s/\"modules_to_save\": null/\"modules_to_save\": [\"score\"]/",
                  {"an adapter's head (modules_to_save) is rejected", "a head (modules_to_save) cannot be expressed", "cyclora"}},
                 {"s/\"modules_to_save\": null/\"modules_to_save\": [\"norm\"]/",
                  {"modules_to_save is rejected", "modules_to_save cannot be expressed", "cyclora"}},
                 {"s/\"use_rslora\": false/\"use_rslora\": true/",
                  {"rsLoRA's scale is written as alpha * sqrt(r) / r", "with --enable-lora", "mlx-lm"}},
                 {"s/\"rank_pattern\": {}/\"rank_pattern\": {\"q_proj\": 4}/",
                  {"rank_pattern and alpha_pattern are not read", "scales by module are folded into B", "cyclora"}},
                 {"s/\"r\": 2/\"r\": 2, \"corda_config\": null/",
                  {"a version that knows corda_config; `cyclora export --to peft` leaves such keys out", "new enough", "yes"}},
                 {"s/\"peft_type\": \"LORA\"/\"peft_type\": \"LOHA\"/",
                  {"it serves LoRA alone", "it reads LoRA alone", "peft_type LOHA is not supported"}},
                 {"s/\"base_model_name_or_path\"/\"base\"/",
                  {"base_model_name_or_path is missing: transformers raises KeyError", "vLLM", "mlx-lm"}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ok("rm -rf $D/v && cp -r $D/run/A $D/v && sed -i '%s' $D/v/adapter_config.json && ! cmp -s $D/v/adapter_config.json "
           "$D/run/A/adapter_config.json && $C inspect $D/v",
           cases[i].change);
        for (int k = 0; k < 3; k++) says(ran.out.p, cases[i].says[k]);
    }
    ok("sed 's/r: 2,/r: 24,/; s|/run$|/run24|; s/max_steps: 3/max_steps: 1/' $D/run.yaml > $D/run24.yaml && $C train $D/run24.yaml --quiet "
       "&& $C inspect $D/run24/A");
    says(ran.out.p, "--max-lora-rank 32");
    says(ran.out.p, "rank 24; the default is 16");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapters),  cmocka_unit_test(test_portable_keys), cmocka_unit_test(test_merged), cmocka_unit_test(test_trained_tensors), cmocka_unit_test(test_bottleneck),
        cmocka_unit_test(test_converted), cmocka_unit_test(test_quantised), cmocka_unit_test(test_places),        cmocka_unit_test(test_nothing_left),
        cmocka_unit_test(test_mistaken), cmocka_unit_test(test_refusals),  cmocka_unit_test(test_adapter), cmocka_unit_test(test_pruned), cmocka_unit_test(test_another_base),  cmocka_unit_test(test_inspect)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
