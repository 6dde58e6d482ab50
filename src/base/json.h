/* Writing JSON into a buffer. Reading a client's JSON is core/body's work. */
#pragma once

#include "base/buf.h"

/* A quoted string. Bytes that are not UTF-8 become U+FFFD, so that what is written can always be read. */
void json_put_string(struct buf *out, struct span text);

/* `"name":` with a comma before it unless the last byte written opened something or is a colon. */
void json_put_key(struct buf *out, const char *name);

/* A comma unless the last byte written opened something; for elements of an array. */
void json_put_comma(struct buf *out);

/* A number as short as it stays exact; `null` for what is not finite. */
void json_put_number(struct buf *out, double number);
