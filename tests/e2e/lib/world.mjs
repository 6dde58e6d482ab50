// What most tests need: some scripted upstreams a, b, c ... and a proxy in front of them, all gone after the test.
// The model "m" is the chain a/m-a, b/m-b, ...; by default the policy is ONE_TRY: the built-in with one try per candidate and no wait, so
// that call counts are plain. `policy: BUILTIN` takes the built-in as it is.
import { startProxy } from './bullpen.mjs';
import { startUpstream, good } from './upstream.mjs';
import { Connection, modelRequest, request } from './client.mjs';
import { merge } from './lua.mjs';
import { ROUTES } from './routes.mjs';
import { within } from './wait.mjs';

// What the built-in would try again on the same candidate is benched and left at once; everything else is the built-in's.
export const ONE_TRY = `
local transient = { [408] = true, [409] = true, [425] = true, [429] = true, [500] = true, [502] = true, [503] = true, [504] = true, [520] = true,
  [521] = true, [522] = true, [523] = true, [524] = true, [529] = true }
local ours = { insufficient_quota = true, enforced_spend_limit_reached = true, contract_spend_limit_reached = true }
local policy = {}
function policy.classify(request, attempt)
  local status, e = attempt.status, attempt.error
  if attempt.committed or attempt.retry_after or (e and (ours[e.type] or ours[e.code] or e.code == "credit_balance_exhausted")) then return nil end
  if attempt.candidate.passthrough and attempt.outcome == "status" and status ~= 429 and status ~= 529 then return nil end
  if attempt.outcome ~= "status" or transient[status] then return "next", { bench = 300 } end
end
return policy
`;
export const BUILTIN = Symbol('built-in policy');
const LETTERS = 'abcdefgh';

// Runs the cleanups in reverse order after the test, all of them, and raises the first error.
export function cleanups(t) {
  const list = [];
  t.after(async () => {
    const errors = [];
    for (const fn of list.reverse()) await Promise.resolve().then(fn).catch((error) => errors.push(error));
    if (errors.length) throw errors[0];
  });
  return (fn) => list.push(fn);
}

export async function world(t, { route = ROUTES.chat, steps = [[good()]], config = {}, policy = ONE_TRY, files, env, upstream = {}, secure } = {}) {
  const later = cleanups(t);
  const upstreams = {};
  const list = [];
  for (const [i, script] of steps.entries()) {
    const server = await startUpstream([script].flat(), { secure });
    later(() => server.close());
    list.push(server);
    upstreams[LETTERS[i]] = { api: route.api, base_url: server.url(), key: `key-${LETTERS[i]}`, ...(upstream[LETTERS[i]] ?? upstream.all ?? {}) };
  }
  const chain = list.map((_, i) => `${LETTERS[i]}/m-${LETTERS[i]}`);
  const isText = typeof policy === 'string';
  const base = { upstreams, models: { m: chain }, ...(isText || policy === BUILTIN ? {} : { policy }) };
  const proxy = await startProxy({ config: merge(base, config), policy: isText ? policy : undefined, files, env });
  later(() => proxy.stop());
  const w = { route, proxy, list, chain };
  list.forEach((server, i) => { w[LETTERS[i]] = server; });
  // One request answered to the end.
  w.post = (options = {}) => request(proxy.url, modelRequest(options.route ?? route, options), { timeout: options.timeout });
  // The connection and the answer, while it goes on.
  w.open = (options = {}) => {
    const connection = new Connection(proxy.url);
    later(() => connection.destroy());
    const answer = connection.send(modelRequest(options.route ?? route, options));
    return { connection, answer, head: () => within(answer.head.promise, 5000, 'the head of the answer'), done: () => within(answer.done.promise, 8000, 'the end of the answer') };
  };
  w.later = later;
  return w;
}
