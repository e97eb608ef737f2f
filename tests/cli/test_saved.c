/* Whole modules beside a LoRA (modules_to_save) as their users meet them: who will not serve them is said before anything is trained; train,
 * resume, generate, evaluate, inspect, merge; beside a head; what is refused. On tests/golden/cipher, and on an untied tiny checkpoint. */
#define _GNU_SOURCE
#include "support/shell.h"

static int begin(void **state) {
    if (shell_begin(state)) return -1;
    ok("mkdir $D/untied && cp tests/golden/tiny_llama/untied_mha/* $D/untied/ 2>/dev/null; cp $G/tokenizer.json $D/untied/; "
       "for i in 1 2 3 4 5 6 7 8; do echo '{\"prompt\": \"sle'$(printf 's%%.0s' $(seq $i))'\", \"completion\": \"le\"}'; done > $D/rows.jsonl; "
       "printf 'objective: sft\nmodel: %%s/untied\noutput_dir: %%s/run\ndata: %%s/rows.jsonl\nmax_steps: 4\nmax_length: 24\nlearning_rate: 1e-2\nlora: {r: 2, target_modules: [q_proj, v_proj], modules_to_save: [embed_tokens, lm_head, model.norm]}\n' $D $D $D > $D/run.yaml");
    return 0;
}

static void test_run(void **state) {
    (void)state;
    ok("$C plan $D/run.yaml");
    says(ran.out.p, "and whole: embed_tokens, lm_head, model.norm");
    says(ran.out.p, "vLLM will not serve it: modules_to_save is rejected: merge the adapter");
    says(ran.out.p, "llama.cpp will not serve it: modules_to_save cannot be expressed: merge the adapter");
    ok("$C plan $D/run.yaml --set lora.modules_to_save= && ! $C plan $D/run.yaml --set lora.modules_to_save= | grep -q 'will not serve'");
    ok("$C plan $D/run.yaml --set lora.use_dora=true --set lora.modules_to_save=");
    says(ran.out.p, "vLLM will not serve it: use_dora is rejected");

    ok("$C train $D/run.yaml --quiet");
    says(ran.out.p, "vLLM will not serve it");
    ok("grep -q '\"embed_tokens\"' $D/run/adapter/adapter_config.json && $C train $D/run.yaml --quiet --set max_steps=2 --set output_dir=$D/cut > /dev/null && $C train $D/run.yaml --quiet --set output_dir=$D/cut --resume > /dev/null && cmp $D/run/adapter/adapter_model.safetensors $D/cut/adapter/adapter_model.safetensors");
    ok("$C inspect $D/run/adapter --model $D/untied");
    says(ran.out.p, "base_model.model.lm_head.weight");
    says(ran.out.p, "base_model.model.model.norm.weight");
    says(ran.out.p, "every pair finds its matrix");
    ok("$C generate --model $D/untied --adapter $D/run/adapter --prompt sle --max-new-tokens 6 > $D/adapted && $C merge --model $D/untied --adapter $D/run/adapter --out $D/merged --type f32 && $C generate --model $D/merged --prompt sle --max-new-tokens 6 | cmp $D/adapted -");
    ok("$C export $D/run/adapter --model $D/untied --to peft --out $D/peft && cmp $D/peft/adapter_model.safetensors $D/run/adapter/adapter_model.safetensors && grep -q embed_tokens $D/peft/adapter_config.json");
    refused("$C export $D/run/adapter --model $D/untied --to gguf-lora --out $D/x.gguf", "modules_to_save: whole modules were trained beside the LoRA", "cyclora merge");
}

/* A tied table's two users are trained apart; a head stands beside. */
static void test_tied(void **state) {
    (void)state;
    ok("$C train $D/run.yaml --quiet --set model=$G --set lora.modules_to_save=[embed_tokens] --set output_dir=$D/tied > /dev/null && $C generate --model $G --adapter $D/tied/adapter --prompt sle --max-new-tokens 4");
    refused("$C merge --model $G --adapter $D/tied/adapter --out $D/x", "has one table for embedding and head (tied)");
    ok("printf '{\"text\": \"sle\", \"label\": \"a\"}\n{\"text\": \"els\", \"label\": \"b\"}\n' > $D/c.jsonl && $C train $D/run.yaml --quiet --set model=$G --set objective=classification --set data=$D/c.jsonl --set lora.modules_to_save=[embed_tokens] --set output_dir=$D/head > /dev/null && "
       "$C classify --model $G --adapter $D/head/adapter --data $D/c.jsonl && tr -d ' \\n' < $D/head/adapter/adapter_config.json | grep -q '\"modules_to_save\":\\[\"embed_tokens\",\"score\"\\]'");
    refused("$C merge --model $G --adapter $D/head/adapter --out $D/x", "modules_to_save 'embed_tokens'");
}

/* LoRA on the head, of a model with one of its own and of a tied one: resumed to the bit, with dropout; who serves it; a merge writes what the adapter
 * writes, and gives a tied model a head. */
static void test_head(void **state) {
    (void)state;
    ok("cat $D/run.yaml > $D/head.yaml && echo 'lora: {r: 2, target_modules: [lm_head, q_proj], lora_dropout: 0.2}' > $D/lora && sed -i -e '/^lora:/d' $D/head.yaml && cat $D/lora >> $D/head.yaml");
    ok("for m in $D/untied $G; do n=h-$(basename $m); $C train $D/head.yaml --quiet --set model=$m --set output_dir=$D/$n && "
       "$C train $D/head.yaml --quiet --set model=$m --set max_steps=2 --set output_dir=$D/cut-$n && $C train $D/head.yaml --quiet --set model=$m --set output_dir=$D/cut-$n --resume && "
       "cmp $D/$n/adapter/adapter_model.safetensors $D/cut-$n/adapter/adapter_model.safetensors || exit 1; "
       "$C generate --model $m --adapter $D/$n/adapter --prompt sle --max-new-tokens 6 > $D/said && $C merge --model $m --adapter $D/$n/adapter --out $D/m-$n --type f32 && "
       "$C generate --model $D/m-$n --prompt sle --max-new-tokens 6 | cmp $D/said - && grep -q '\"tie_word_embeddings\": false' $D/m-$n/config.json || exit 1; done");
    ok("$C inspect $D/h-untied/adapter --model $D/untied");
    says(ran.out.p, "base_model.model.lm_head.lora_B.weight");
    says(ran.out.p, "where lm_head is among the model's embedding_modules");
    says(ran.out.p, "of a tied model the head is no tensor of its own");
    says(ran.out.p, "every pair finds its matrix");
    ok("$C inspect $D/h-$(basename $G)/adapter --model $G");
    says(ran.out.p, "every pair finds its matrix");
    ok("$C export $D/h-untied/adapter --model $D/untied --to gguf-lora --out $D/head.gguf");
    refused("$C export $D/h-$(basename $G)/adapter --model $G --to gguf-lora --out $D/x.gguf", "is its token table (tied)", "cyclora merge");
    refused("$C plan $D/head.yaml --set method=vera --set vera.target_modules=[q_proj,lm_head]", "vera does not act on the output projection");
}

static void test_refusals(void **state) {
    (void)state;
    refused("$C plan $D/run.yaml --set lora.modules_to_save=[query]", "lora.modules_to_save: no module of this model that could be trained whole ends in 'query'");
    refused("$C plan $D/run.yaml --set lora.modules_to_save=[q_proj]", "model.layers.0.self_attn.q_proj is in lora.target_modules and in lora.modules_to_save");
    refused("$C train $D/run.yaml --set lora.modules_to_save=[lm_head] --set adapter=$D/run/adapter --set output_dir=$D/x", "holds", "tensors, this adapter's settings use");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_run), cmocka_unit_test(test_tied), cmocka_unit_test(test_head), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, begin, shell_end);
}
