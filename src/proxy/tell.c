/*
 * Every decision is told once: to the log, the counters, and the policy's observers, after it was carried out.
 */
#include "proxy/exchange_state.h"
#include "proxy/ids.h"

static void log_request(struct exchange *ex, const struct event *e) {
  size_t attempts = 0;
  bool resent = false;
  const struct attempt *const *list = ex->failover ? failover_attempts(ex->failover, &attempts) : NULL;
  for (size_t i = 0; i < attempts; i++) resent = resent || list[i]->resent;
  const struct request *r = &ex->request;
  const char *trail = answer_trail(ex);
  bool served = e->attempt && ex->reply.status && e->outcome != OUTCOME_NONE && e->attempt->status == e->status;
  log_info("request", LOG_TEXT("id", r->id), LOG_TEXT("route", route_name(r->route)), LOG_TEXT("method", r->method), LOG_SPAN("path", r->path),
           LOG_SPAN("model", r->model), LOG_TEXT("client", r->client), LOG_INT("status", e->status),
           LOG_TEXT("outcome", e->outcome == OUTCOME_NONE ? NULL : outcome_name(e->outcome)),
           LOG_TEXT("candidate", served ? e->candidate : NULL), LOG_INT("attempts", attempts), LOG_TEXT("trail", trail && *trail ? trail : NULL),
           LOG_NUM("elapsed", e->elapsed), { .name = "first_event", .kind = e->first_event >= 0 ? LOG_FIELD_NUMBER : LOG_FIELD_NONE, .number = e->first_event },
           LOG_INT("bytes", ex->relay.total), { .name = "resent", .kind = resent ? LOG_FIELD_BOOL : LOG_FIELD_NONE, .boolean = true },
           LOG_TEXT("policy", policy_version(worker_policy(ex->worker, ex->resolution.policy))));
}

/* Not at `warn`: a failed attempt is bullpen's daily work; but its cause must be found. */
static void log_attempt(struct exchange *ex, const struct event *e) {
  const struct attempt *a = e->attempt;
  const char *cause = a->cause ? a->cause : e->error;
  log_info("attempt failed", LOG_TEXT("id", ex->request.id), LOG_TEXT("candidate", e->candidate), LOG_INT("attempt", a->number),
           LOG_INT("try", a->try), LOG_TEXT("outcome", outcome_name(a->outcome)), LOG_INT("status", a->status),
           LOG_TEXT("verdict", a->verdict == VERDICT_NONE ? NULL : verdict_name(a->verdict)), LOG_TEXT("kind", a->kind), LOG_TEXT("cause", cause),
           LOG_TEXT("benched", a->bench > 0 ? a->bench_key : NULL),
           { .name = "benched_for", .kind = a->bench > 0 ? LOG_FIELD_NUMBER : LOG_FIELD_NONE, .number = a->bench },
           { .name = "resent", .kind = a->resent ? LOG_FIELD_BOOL : LOG_FIELD_NONE, .boolean = a->resent }, LOG_NUM("elapsed", e->elapsed));
}

/* A response's maker must be found again when the client goes on from it. */
static void keep_id(struct exchange *ex, const struct attempt *a) {
  if (a && a->committed && ids_is_kept(a->response_id))
    ids_put(ex->worker->proxy->ids, a->response_id, a->candidate->upstream_name, ex->request.client, loop_now(ex->worker->loop));
}

void tell_event(struct exchange *ex, const struct event *e) {
  switch (e->type) {
    case TOLD_ATTEMPT_FAILED: log_attempt(ex, e); break;
    case TOLD_FAILED_OVER: stats_failover(&ex->worker->stats); break;
    case TOLD_BENCHED:
      log_info("benched", LOG_TEXT("key", e->candidate), LOG_NUM("for", e->benched_for), LOG_TEXT("reason", e->reason), LOG_TEXT("id", ex->request.id));
      break;
    case TOLD_UNBENCHED:
      log_info("unbenched", LOG_TEXT("key", e->candidate), LOG_TEXT("reason", e->reason), LOG_TEXT("id", ex->request.id));
      break;
    case TOLD_FINISHED:
      ex->finished = true;
      keep_id(ex, e->attempt);
      log_request(ex, e);
      stats_request(&ex->worker->stats, ex->request.route, e->status, e->outcome, e->elapsed, ex->relay.total);
      break;
    case TOLD_COMMITTED: keep_id(ex, e->attempt); break;
    case TOLD_POLICY_LOADED:
    case TOLD_POLICY_FAILED: break;
  }
  if (ex->advisor) policy_tell(ex->advisor, e);
}

void tell_refused(struct exchange *ex, enum outcome outcome, int status) {
  if (ex->finished) return;
  seconds now = loop_now(ex->worker->loop);
  struct event e = { .type = TOLD_FINISHED, .time = now, .request = &ex->request, .outcome = outcome, .status = status, .delay = -1,
                     .benched_for = -1, .elapsed = now - ex->begun, .first_event = -1 };
  exchange_advisor(ex);
  tell_event(ex, &e);
}
