/* Methods that a text reads more than its words by, as their users meet them, on tests/golden/cipher: a projector (vectors in a field or a
 * .npy file beside the texts), LLaMA-Adapter. Train, evaluate, resume, generate, inspect; every refusal. */
#define _GNU_SOURCE
#include "support/shell.h"

/* One-hot vectors, and the word that each stands for: nothing else tells it. The same vectors as a .npy file. */
static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("for i in 1 2 3 4 5 6 7 8; do for k in 0 1 2; do w=$(echo s l e | cut -d' ' -f$((k+1))); v=$(echo '[1,0,0]' '[0,1,0]' '[0,0,1]' | cut -d' ' -f$((k+1)));\n"
       "echo '{\"prompt\": \"t\", \"completion\": \"'$w'\", \"vectors\": '$v', \"text\": \"t\", \"label\": \"of '$w'\"}'; done; done > $D/train.jsonl; head -3 $D/train.jsonl > $D/dev.jsonl\n"
       "npy() { printf '\\223NUMPY\\001\\000\\166\\000%%-117s\\n' \"{'descr': '<f4', 'fortran_order': False, 'shape': ($1, 3), }\"; }; o='\\000\\000\\200\\077' z='\\000\\000\\000\\000'\n"
       "three() { printf \"$o$z$z$z$o$z$z$z$o\"; }; { npy 24; for i in 1 2 3 4 5 6 7 8; do three; done; } > $D/train.npy; { npy 3; three; } > $D/dev.npy; { npy 2; printf \"$o$z$z$z$o$z\"; } > $D/short.npy\n"
       "printf 'objective: sft\nmodel: %%s\noutput_dir: %%s/run\ndata: %%s/train.jsonl\neval: {data: %%s/dev.jsonl}\nmax_steps: 120\nlearning_rate: 1e-2\nmethod: projector\nprojector: {mm_hidden_size: 3}\nmax_length: 16\n' "
       "$G $D $D $D > $D/run.yaml");
    return 0;
}

/* The vector alone tells which word comes; the same bits out of a field and a file, resumed, and streamed. */
static void test_projector(void **state) {
    (void)state;
    ok("$C train $D/run.yaml");
    says(ran.out.p, "One projector (MLP, 1 vector of 3 numbers before each text) learns from");
    says(ran.out.p, "for 1 virtual token;");
    says(ran.out.p, "/run/adapter --prompt \"...\" --vectors X.npy");
    ok("$C generate --model $G --adapter $D/run/adapter --file $D/dev.jsonl --vectors vectors --max-new-tokens 4 --json | grep -o '\"text\": *\"[a-z]*\"' | grep -o '[a-z]*\"$'");
    assert_string_equal(ran.out.p, "s\"\nl\"\ne\"\n");
    ok("$C generate --model $G --adapter $D/run/adapter --file $D/dev.jsonl --vectors $D/dev.npy --batch 2 --max-new-tokens 4 --json | grep -o '\"text\": *\"[a-z]*\"' | grep -o '[a-z]*\"$'");
    assert_string_equal(ran.out.p, "s\"\nl\"\ne\"\n");
    ok("$C train $D/run.yaml --quiet --set projector.file=$D/train.npy --set eval.vectors=$D/dev.npy --set output_dir=$D/file && cmp $D/run/adapter/adapter_model.safetensors $D/file/adapter/adapter_model.safetensors");
    ok("$C train $D/run.yaml --quiet --set max_steps=20 --set output_dir=$D/cut && $C train $D/run.yaml --quiet --set output_dir=$D/cut --resume && cmp $D/run/adapter/adapter_model.safetensors $D/cut/adapter/adapter_model.safetensors");
    ok("$C train $D/run.yaml --quiet --set streaming=true --set output_dir=$D/s && cmp $D/run/adapter/adapter_model.safetensors $D/s/adapter/adapter_model.safetensors");
    ok("$C eval $D/run.yaml --run $D/run");
    says(ran.out.p, "loss");
    ok("$C inspect $D/run/adapter --model $G");
    says(ran.out.p, "mm_projector.0.weight");
    says(ran.out.p, "mm_projector.2.bias");
    says(ran.out.p, "it has no such method");
    says(ran.out.p, "its shape is what this base asks for");
    ok("$C train $D/run.yaml --quiet --set projector.mm_projector_type=linear --set max_steps=2 --set output_dir=$D/linear && $C inspect $D/linear/adapter");
    says(ran.out.p, "mm_projector.weight");
    ok("$C train $D/run.yaml --quiet --set objective=classification --set output_dir=$D/class && $C eval $D/run.yaml --set objective=classification --run $D/class --json | grep -q '\"accuracy\": *1'");
}

static void test_projector_refusals(void **state) {
    (void)state;
    ok("test -d $D/run || $C train $D/run.yaml --quiet");
    refused("$C train $D/run.yaml --set projector.mm_hidden_size=4 --set output_dir=$D/x", "train.jsonl:1: \"vectors\" has 3 numbers, wanted are 4");
    refused("$C train $D/run.yaml --set projector.mm_hidden_size=0 --set output_dir=$D/x", "projector.mm_hidden_size is 0; it must be the numbers of a vector");
    refused("$C train $D/run.yaml --set projector.num_virtual_tokens=2 --set output_dir=$D/x", "train.jsonl:1: \"vectors\" has 3 numbers, wanted are 6 (2 vectors of 3)");
    refused("$C train $D/run.yaml --set projector.field=image --set output_dir=$D/x", "train.jsonl:1: no field \"image\"");
    refused("$C train $D/run.yaml --set projector.file=$D/short.npy --set output_dir=$D/x", "short.npy: 2 rows, but ", "has 24 records");
    refused("$C train $D/run.yaml --set projector.file=$D/none.npy --set output_dir=$D/x", "none.npy");
    refused("$C train $D/run.yaml --set projector.file=$D/train.jsonl --set output_dir=$D/x", "train.jsonl: not a .npy file");
    refused("$C train $D/run.yaml --set projector.file=$D/train.npy --set projector.mm_hidden_size=2 --set output_dir=$D/x", "train.npy: rows of 3 numbers, wanted are 2");
    refused("$C train $D/run.yaml --set eval.data= --set eval.split=0.2 --set projector.file=$D/train.npy --set output_dir=$D/x", "'eval.split' takes records out of the data that 'projector.file' has a row for");
    refused("$C train $D/run.yaml --set eval.data= --set eval.vectors=$D/dev.npy --set output_dir=$D/x", "'eval.vectors' has no use without 'eval.data'");
    refused("$C train $D/run.yaml --set method=lora --set eval.vectors=$D/dev.npy --set output_dir=$D/x", "'eval.vectors' has no use without method projector");
    refused("$C train $D/run.yaml --set projector.mm_projector_type=mlp --set output_dir=$D/x", "mm_projector_type");
    refused("$C train $D/run.yaml --set objective=macct --set A.data=$D/train.jsonl --set B.data=$D/dev.jsonl --set eval.data= --set output_dir=$D/x", "projector reads vectors beside each text", "objective sft or classification");
    refused("$C train $D/run.yaml --set adapter=$D/run/adapter --set projector.mm_projector_type=linear --set output_dir=$D/x", "holds a projector mlp2x_gelu of vectors of 3 numbers, the configuration says linear and 3");
    refused("$C generate --model $G --adapter $D/run/adapter --prompt t --max-new-tokens 4", "this adapter reads 1 vector of 3 numbers beside each prompt, and none is given");
    refused("$C generate --model $G --adapter $D/run/adapter --file $D/dev.jsonl --vectors $D/short.npy --max-new-tokens 4", "short.npy: 2 rows for 3 prompts");
    refused("$C generate --model $G --adapter $D/run/adapter --file $D/dev.jsonl --vectors image --max-new-tokens 4", "dev.jsonl:1: no list of numbers in \"image\"");
    refused("$C generate --model $G --adapter $D/run/adapter --prompt t --vectors vectors --max-new-tokens 4", "--vectors vectors names a field of a .jsonl file");
    refused("$C generate --model $G --file $D/dev.jsonl --vectors vectors --max-new-tokens 4", "9 numbers in vectors for 3 prompts", "wanted are 0");
    refused("sed 's/\\[1,0,0\\]/[1,0]/; s/\\[0,1,0\\]/[1,0]/; s/\\[0,0,1\\]/[1,0]/' $D/dev.jsonl > $D/narrow.jsonl; $C generate --model $G --adapter $D/run/adapter --file $D/narrow.jsonl --vectors vectors --batch 3 --max-new-tokens 4", "6 numbers in vectors for 3 prompts, wanted are 9: 3 for each");
    refused("sed 's/\\[0,1,0\\]/[1,0]/' $D/dev.jsonl > $D/ragged.jsonl; $C generate --model $G --adapter $D/run/adapter --file $D/ragged.jsonl --vectors vectors --max-new-tokens 4", "ragged.jsonl:2: 2 numbers in \"vectors\", line 1 has 3");
    refused("sed 's/\\[1,0,0\\]/[1,1e99,0]/' $D/dev.jsonl > $D/inf.jsonl; $C generate --model $G --adapter $D/run/adapter --file $D/inf.jsonl --vectors vectors --max-new-tokens 4", "number 2 of the vectors is not finite");
    refused("echo sle > $D/t.txt; $C eval --model $G --adapter $D/run/adapter --text $D/t.txt", "this adapter reads 1 vector of 3 numbers beside each text, and none is given");
    refused("$C embed --model $G --adapter $D/run/adapter --data $D/t.txt", "this adapter reads 1 vector of 3 numbers beside each text");
    refused("$C merge --model $G --adapter $D/run/adapter --out $D/m", "peft_type PROJECTOR is neither products");
    ok("mkdir -p $D/wide && cp $D/run/adapter/* $D/wide && sed -i 's/\"mm_hidden_size\": 3/\"mm_hidden_size\": 4/' $D/wide/adapter_config.json");
    refused("$C generate --model $G --adapter $D/wide --prompt t --max-new-tokens 4", "mm_projector.0.weight has another shape than [");
}

/* LLaMA-Adapter, and what it does not go with. */
static void test_adaption(void **state) {
    (void)state;
    ok("test -d $D/run || $C train $D/run.yaml --quiet");
    ok("$C train $D/run.yaml --set method=adaption_prompt --set adaption_prompt.adapter_layers=2 --set output_dir=$D/ad");
    says(ran.out.p, "One LLaMA-Adapter (prompts of 10 rows in the top 2 layers) learns from");
    ok("$C generate --model $G --adapter $D/ad/adapter --prompt t --max-new-tokens 4 && $C eval $D/run.yaml --set method=adaption_prompt --set adaption_prompt.adapter_layers=2 --run $D/ad && $C inspect $D/ad/adapter --model $G");
    says(ran.out.p, "self_attn.adaption_gate");
    says(ran.out.p, "its shape is what this base asks for");
    ok("$C train $D/run.yaml --quiet --set objective=classification --set method=adaption_prompt --set max_steps=3 --set output_dir=$D/adc && $C classify --model $G --adapter $D/adc/adapter --data $D/dev.jsonl");
    refused("$C train $D/run.yaml --set method=adaption_prompt --set adaption_prompt.adapter_layers=99 --set output_dir=$D/x", "adaption_prompt.adapter_layers is 99, and this base has");
    refused("$C train $D/run.yaml --set method=adaption_prompt --set adaption_prompt.adapter_len=5000 --set output_dir=$D/x", "adaption_prompt.adapter_len is 5000; it must be 1 to 4096");
    refused("$C train $D/run.yaml --set method=adaption_prompt --set adapter=$D/ad/adapter --set adaption_prompt.adapter_layers=2 --set adaption_prompt.adapter_len=3 --set output_dir=$D/x", "was made with adaption_prompt.adapter_len 10, the configuration says 3");
    refused("$C train $D/run.yaml --set method=adaption_prompt --set adapter=$D/ad/adapter --set adaption_prompt.adapter_layers=1 --set output_dir=$D/x", "was made with adaption_prompt.adapter_layers 2, the configuration says 1");
    refused("$C merge --model $G --adapter $D/ad/adapter --out $D/m", "peft_type ADAPTION_PROMPT is neither products");
    refused("$C generate --model $G --adapter x=$D/ad/adapter --adapter y=$D/run/adapter --prompt t --max-new-tokens 4", "does not go with others at once yet: use it alone");
    refused("$C export $D/ad/adapter --to gguf-lora --model $G", "peft_type ADAPTION_PROMPT");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_projector), cmocka_unit_test(test_projector_refusals), cmocka_unit_test(test_adaption)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
