/* The mock's Lua script: loading it, and the step that a request takes. */
#pragma once

#include "cli/mock_http.h"
#include "cli/mock_step.h"

struct mock_script;

/* NULL and `error` = "file:line: what". */
struct mock_script *mock_script_load(const char *path, struct span source, char *error, size_t error_size);
void mock_script_free(struct mock_script *script);

/* The script's own `listen`, or NULL. */
const char *mock_script_listen(const struct mock_script *script);

/* The step of request number `number` is written down, no function, and a `refuse`: known before the body is read. */
bool mock_script_refuses(const struct mock_script *script, unsigned number);

/* The step that this request takes. False and `error` when it raises or is no good step. May be called by any
 * thread. */
bool mock_script_take(struct mock_script *script, struct mock_request *request, struct mock_step *step, char *error,
                      size_t error_size);
