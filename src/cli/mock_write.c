/*
 * Writing an answer byte by byte as a step wants it. Bytes gather in one buffer and go out when there is a wait, when
 * a `split` asks for it, when there are 64 KiB, and at the end; so an unpaced answer is one send.
 *
 * A fault that counts bytes counts the body's own, without chunk framing. What it cuts is always cut between two
 * chunks, with the closing chunk missing.
 */
#include "cli/mock_write.h"

#include <time.h>

enum { FLUSH_BYTES = 64 << 10 };

struct writer {
  struct mock_conn *conn;
  struct buf out;
  bool chunked, gone;
  size_t split;
  size_t left; /* bytes of body that may still go out */
};

static void flush(struct writer *w) {
  if (!buf_ok(&w->out) || (!w->gone && !mock_conn_write(w->conn, buf_span(&w->out)))) w->gone = true;
  buf_clear(&w->out);
}

static void pause_for(struct writer *w, seconds wait) {
  if (wait <= 0 || w->gone) return;
  flush(w);
  if (!w->gone && !mock_conn_wait(w->conn, wait)) w->gone = true;
}

static void put_slice(struct writer *w, struct span bytes) {
  if (w->chunked) buf_printf(&w->out, "%zx\r\n", bytes.n);
  buf_add_span(&w->out, bytes);
  if (w->chunked) buf_puts(&w->out, "\r\n");
  if (w->split || w->out.n >= FLUSH_BYTES) flush(w);
}

static void put_body(struct writer *w, struct span bytes) {
  if (bytes.n > w->left) bytes.n = w->left;
  w->left -= bytes.n;
  if (w->split && bytes.n) flush(w); /* the head, if it is still there */
  while (bytes.n && !w->gone) {
    struct span slice = { bytes.p, w->split && w->split < bytes.n ? w->split : bytes.n };
    put_slice(w, slice);
    bytes = span_skip(bytes, slice.n);
  }
}

/* ---- the head ---- */

static const char *reason_of(int status) {
  switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 204: return "No Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "";
  }
}

/* The step says something about that header, be it that there shall be none. */
static bool is_given(const struct mock_step *step, const char *name) {
  for (size_t i = 0; i < step->headers.count; i++)
    if (span_is_nocase(step->headers.list[i].name, name)) return true;
  return false;
}

static void put_default(struct buf *out, const struct mock_step *step, const char *name, const char *value) {
  if (!is_given(step, name)) buf_printf(out, "%s: %s\r\n", name, value);
}

static void put_date(struct buf *out, const struct mock_step *step) {
  char text[64];
  time_t now = (time_t)clock_now();
  struct tm parts;
  if (gmtime_r(&now, &parts) && strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts))
    put_default(out, step, "date", text);
}

static void put_given(struct buf *out, const struct mock_step *step) {
  for (size_t i = 0; i < step->headers.count; i++) {
    if (!step->headers.list[i].value.p) continue;
    buf_add_span(out, step->headers.list[i].name);
    buf_puts(out, ": ");
    buf_add_span(out, step->headers.list[i].value);
    buf_puts(out, "\r\n");
  }
}

struct plan {
  enum mock_framing framing; /* resolved */
  bool bodiless;             /* HEAD, 204 and the like */
  bool keep;
};

static struct plan make_plan(const struct mock_request *request, const struct mock_step *step,
                             const struct mock_answer *answer) {
  struct plan plan = { .framing = step->wire.framing };
  if (plan.framing == MOCK_FRAMING_DEFAULT) plan.framing = answer->stream ? MOCK_FRAMING_CHUNKED : MOCK_FRAMING_LENGTH;
  if (plan.framing == MOCK_FRAMING_CHUNKED && request->old) plan.framing = MOCK_FRAMING_CLOSE;
  bool given = is_given(step, "content-length") || is_given(step, "transfer-encoding");
  bool framed = headers_get(step->headers, "content-length").p || headers_get(step->headers, "transfer-encoding").p;
  plan.bodiless = span_is(request->method, "HEAD") || answer->status < 200 || answer->status == 204 || answer->status == 304;
  plan.keep = request->keep && !step->wire.close && plan.framing != MOCK_FRAMING_CLOSE && (!given || framed);
  return plan;
}

static void put_framing(struct buf *out, const struct mock_step *step, const struct mock_answer *answer,
                        const struct plan *plan) {
  if (is_given(step, "content-length") || is_given(step, "transfer-encoding")) return;
  if (answer->status < 200 || answer->status == 204) return;
  if (plan->framing == MOCK_FRAMING_CHUNKED) buf_puts(out, "transfer-encoding: chunked\r\n");
  if (plan->framing == MOCK_FRAMING_LENGTH) buf_printf(out, "content-length: %zu\r\n", answer->body.n);
}

static void put_head(struct buf *out, const struct mock_request *request, const struct mock_step *step,
                     const struct mock_answer *answer, const struct plan *plan) {
  const char *id_name = request->route == ROUTE_MESSAGES ? "request-id" : "x-request-id";
  buf_printf(out, "HTTP/1.1 %d %s\r\n", answer->status, reason_of(answer->status));
  put_date(out, step);
  if (answer->type) put_default(out, step, "content-type", answer->type);
  if (answer->stream) put_default(out, step, "cache-control", "no-cache");
  if (request->id && !is_given(step, id_name)) buf_printf(out, "%s: req_mock_%s\r\n", id_name, request->id);
  put_given(out, step);
  put_framing(out, step, answer, plan);
  if (!plan->keep) put_default(out, step, "connection", "close");
  else if (request->old) put_default(out, step, "connection", "keep-alive");
  buf_puts(out, "\r\n");
}

/* ---- the whole ---- */

static void put_pieces(struct writer *w, const struct mock_answer *answer) {
  const struct mock_piece *pieces = (const struct mock_piece *)(void *)answer->pieces.p;
  size_t at = 0;
  for (size_t i = 0; i < answer->pieces.n / sizeof *pieces && w->left && !w->gone; i++) {
    pause_for(w, pieces[i].wait);
    put_body(w, (struct span){ answer->body.p + at, pieces[i].end - at });
    at = pieces[i].end;
  }
}

/* What follows the bytes that the fault lets through. */
static enum mock_end end_fault(struct writer *w, enum mock_fault fault) {
  flush(w);
  if (w->gone) return MOCK_END_GONE;
  if (fault == MOCK_FAULT_TRUNCATE_AFTER) return MOCK_END_FINISH;
  if (fault == MOCK_FAULT_RESET_AFTER) {
    mock_conn_drain(w->conn);
    return MOCK_END_RESET;
  }
  (void)mock_conn_wait(w->conn, SECONDS_NEVER); /* stall */
  return MOCK_END_GONE;
}

static bool counts_bytes(enum mock_fault fault) {
  return fault == MOCK_FAULT_RESET_AFTER || fault == MOCK_FAULT_TRUNCATE_AFTER || fault == MOCK_FAULT_STALL_AFTER;
}

static enum mock_end write_raw(struct writer *w, const struct mock_step *step) {
  put_body(w, step->wire.raw);
  if (counts_bytes(step->fault)) return end_fault(w, step->fault);
  flush(w);
  return w->gone ? MOCK_END_GONE : step->wire.keep ? MOCK_END_KEEP : MOCK_END_FINISH;
}

static enum mock_end write_framed(struct writer *w, const struct mock_request *request, const struct mock_step *step,
                                  const struct mock_answer *answer) {
  struct plan plan = make_plan(request, step, answer);
  put_head(&w->out, request, step, answer, &plan);
  w->chunked = plan.framing == MOCK_FRAMING_CHUNKED;
  if (answer->stream && !answer->body.n) flush(w);
  if (!plan.bodiless) put_pieces(w, answer);
  if (counts_bytes(step->fault)) return end_fault(w, step->fault);
  if (w->chunked && !plan.bodiless) buf_puts(&w->out, "0\r\n\r\n");
  flush(w);
  return w->gone ? MOCK_END_GONE : plan.keep ? MOCK_END_KEEP : MOCK_END_FINISH;
}

enum mock_end mock_write_answer(struct mock_conn *conn, const struct mock_request *request,
                                const struct mock_step *step,
                                const struct mock_answer *answer) {
  if (step->delay > 0 && !mock_conn_wait(conn, step->delay)) return MOCK_END_GONE;
  if (step->fault == MOCK_FAULT_REFUSE || step->fault == MOCK_FAULT_RESET) return MOCK_END_RESET;
  if (step->fault == MOCK_FAULT_SILENT) {
    (void)mock_conn_wait(conn, SECONDS_NEVER);
    return MOCK_END_GONE;
  }
  struct writer w = { .conn = conn, .split = step->wire.split };
  w.left = counts_bytes(step->fault) ? step->after : SIZE_MAX;
  enum mock_end end = step->wire.raw.p ? write_raw(&w, step) : write_framed(&w, request, step, answer);
  buf_free(&w.out);
  return end;
}

enum mock_end mock_write_json(struct mock_conn *conn, const struct mock_request *request, int status,
                              const struct buf *body) {
  static const struct mock_step plain = { 0 };
  struct mock_answer answer = { .status = status, .type = "application/json", .body = *body };
  mock_answer_mark(&answer, 0);
  enum mock_end end = mock_write_answer(conn, request, &plain, &answer);
  buf_free(&answer.pieces);
  return end;
}
