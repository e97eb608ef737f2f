/* A record's fields as a template's variables: JSON becomes the values that Python's json has made of it, with the provenance of a
 * template's own text. A field that the template does not name is not made. See jinja.h. */
#include "io/jinja_internal.h"
#include <jansson.h>
#include <string.h>

static err value_of(struct render *r, const json_t *j, jval *out);

static err list_of(struct render *r, const json_t *j, jval *out) {
    TRY(j_list(r, L_LIST, out));
    for (size_t i = 0; i < json_array_size(j); i++) {
        jval v;
        TRY(value_of(r, json_array_get(j, i), &v));
        TRY(j_push(r, out->l, v));
    }
    return OK;
}

static err dict_of(struct render *r, const json_t *j, jval *out) {
    const char *key;
    json_t *value;
    TRY(j_dict(r, out));
    json_object_foreach((json_t *)j, key, value) {
        jval k, v;
        TRY(j_cstr(r, key, &k));
        TRY(value_of(r, value, &v));
        TRY(j_put(r, out->d, k, v));
    }
    return OK;
}

static err value_of(struct render *r, const json_t *j, jval *out) {
    TRY(jr_enter(r));
    switch (json_typeof(j)) {
    case JSON_STRING: TRY(j_str(r, json_string_value(j), json_string_length(j), 0, out)); break;
    case JSON_INTEGER: *out = j_int(json_integer_value(j)); break;
    case JSON_REAL: *out = j_float(json_real_value(j)); break;
    case JSON_TRUE:
    case JSON_FALSE: *out = j_bool(json_is_true(j)); break;
    case JSON_NULL: *out = j_none; break;
    case JSON_ARRAY: TRY(list_of(r, j, out)); break;
    case JSON_OBJECT: TRY(dict_of(r, j, out)); break;
    }
    r->depth--;
    return OK;
}

err jr_fields(struct render *r) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)r->ctx->fields, key, value) {
        const char *name = jinja_known(r->t, key, strlen(key));
        jval v;
        if (!name) continue;
        TRY(value_of(r, value, &v));
        TRY(jr_global(r, name, v));
    }
    return OK;
}
