/* Fuzz target: tokenizers of every kind. The first byte chooses what the rest is:
 *   '{' or white space   a tokenizer.json; one that loads must encode and decode a fixed text without a fault
 *   'G'                  a GGUF file (its magic begins so); likewise with its tokenizer
 *   else                 arbitrary text for one of the fixtures below, chosen by that byte: it is encoded (or refused as no
 *                        UTF-8), every id must be in the vocabulary, and the ids must decode
 * Run: clang -fsanitize=fuzzer,address; replayed by tests/io/test_fuzz_tokenizer.c. */
#define _GNU_SOURCE
#include "io/tokenizer_internal.h"
#include "fuzz/fuzz_tensors.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS(normalizer, pre, decoder) \
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true},{\"id\":1,\"content\":\"<t>\",\"lstrip\":true,\"rstrip\":true," \
    "\"single_word\":true,\"normalized\":true}],\"normalizer\":" normalizer ",\"pre_tokenizer\":" pre ",\"decoder\":" decoder ",\"model\":"
#define BYTES "\"<0x61>\":6,\"<0xC3>\":7,\"<0xA9>\":8"
static const char *const fixtures[] = {
    STEPS("{\"type\":\"NFC\"}", "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "{\"type\":\"ByteLevel\"}")
    "{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"<t>\":1,\"a\":2,\"b\":3,\"ab\":4,\"\u0120\":5},\"merges\":[\"a b\"]}}",
    STEPS("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
          "\"content\":\"\u2581\"}]}", "null",
          "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
          "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}")
    "{\"type\":\"BPE\",\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<s>\",\"vocab\":{\"<s>\":0,\"<t>\":1,\"a\":2,\"\u2581\":3,\"\u2581a\":4,\"b\":5," BYTES
    "},\"merges\":[[\"\u2581\",\"a\"]]}}",
    STEPS("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"},{\"type\":\"NFKD\"},{\"type\":\"StripAccents\"},{\"type\":\"Lowercase\"},{\"type\":\"Replace\","
          "\"pattern\":{\"Regex\":\" {2,}|x*\"},\"content\":\"y\"},{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}]}",
          "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"first\"}]}",
          "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"first\"}")
    "{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"<s>\",0],[\"<t>\",0],[\"a\",-1],[\"\u2581\",-2],[\"\u2581a\",-2.5],[\"aa\",-1.5],[\"<0x61>\",-9],"
    "[\"<0xC3>\",-9],[\"<0xA9>\",-9]]}}",
    STEPS("{\"type\":\"BertNormalizer\"}", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"BertPreTokenizer\"},{\"type\":\"Whitespace\"},{\"type\":\"Digits\"}]}",
          "{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}")
    "{\"type\":\"WordPiece\",\"unk_token\":\"<s>\",\"max_input_chars_per_word\":9,\"vocab\":{\"<s>\":0,\"<t>\":1,\"a\":2,\"##a\":3,\"##\u00e9\":4,\"aa\":5,\".\":6}}}",
};
enum { N_FIXTURES = sizeof fixtures / sizeof *fixtures };

static void use(const tokenizer *t, const char *text, size_t n) {
    for (unsigned flags = 0; flags < 4; flags++) {
        struct ids ids = {0};
        str back = {0};
        if (!tokenizer_encode(t, text, n, flags, &ids)) {
            for (size_t i = 0; i < ids.n; i++)
                if (ids.v[i] < 0 || ids.v[i] >= tokenizer_vocab(t)) abort();
            if (tokenizer_decode(t, ids.v, ids.n, flags, &back)) abort();
        }
        ids_free(&ids);
        str_free(&back);
    }
}

static void use_fixed(const tokenizer *t) {
    static const char text[] =
        "Hello  world's 123\t\n e\xCC\x81 \xE1\xA0\x8E\xE4\xB8\xAD <|a|> <|b|>x \xE2\x96\x81 [CLS] \xF0\x9F\x98\x80 aab ";
    use(t, text, sizeof text - 1);
}

static void fuzz_text(uint8_t choice, const char *text, size_t n) {
    static tokenizer *made[N_FIXTURES];
    const char *json = fixtures[choice % N_FIXTURES];
    tokenizer **t = &made[choice % N_FIXTURES];
    if (!*t && tokenizer_json_parse("fixture", json, strlen(json), t)) abort();
    use(*t, text, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tokenizer *t;
    if (size == 0) return 0;
    if (data[0] == 'G') {
        struct tensors ts;
        if (tensors_open(fuzz_file("input.gguf", data, size), &ts)) return 0;
        if (!tokenizer_from_gguf(&ts, &t)) {
            use_fixed(t);
            tokenizer_free(t);
        }
        tensors_close(&ts);
    } else if (data[0] != '{' && data[0] > ' ') fuzz_text(data[0], (const char *)data + 1, size - 1);
    else if (!tokenizer_json_parse("fuzz", (const char *)data, size, &t)) {
        use_fixed(t);
        tokenizer_free(t);
    }
    return 0;
}
