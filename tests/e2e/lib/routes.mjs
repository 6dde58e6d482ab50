// The three client-facing APIs as the tests need them: paths, bodies, short streams, error frames and refusals, byte for byte.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const FIXTURES = path.join(path.dirname(fileURLToPath(import.meta.url)), '../../fixtures');

// The bytes of a fixture, or undefined when there is no such file.
export function fixture(route, name) {
  const file = path.join(FIXTURES, route.dir ?? route, name);
  return fs.existsSync(file) ? fs.readFileSync(file) : undefined;
}

export function fixtureHead(route, name) {
  const text = fixture(route, `${name}.headers`)?.toString() ?? 'HTTP/1.1 200 OK\ncontent-type: text/event-stream; charset=utf-8';
  const [first, ...lines] = text.trim().split('\n');
  const headers = lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]);
  return { status: Number(first.split(' ')[1]), headers };
}

const chunk = (delta, finish = null) =>
  `data: {"id":"c1","object":"chat.completion.chunk","choices":[{"index":0,"delta":${JSON.stringify(delta)},"finish_reason":${JSON.stringify(finish)}}]}\n\n`;
const event = (name, rest = {}) => `event: ${name}\ndata: ${JSON.stringify({ type: name, ...rest })}\n\n`;
const numbered = (name, n, rest = {}) => event(name, { sequence_number: n, ...rest });

const chat = {
  name: 'chat', path: '/v1/chat/completions', upPath: '/chat/completions', api: 'openai', dir: 'openai-chat', anthropic: false,
  body: (model, extra) => ({ model, messages: [{ role: 'user', content: 'hi' }], ...extra }),
  preamble: [
    ': connected\n\n',
    'data: {"id":"c1","object":"chat.completion.chunk","choices":[],"prompt_filter_results":[]}\n\n',
    chunk({ role: 'assistant', content: '' }),
  ],
  content: chunk({ content: 'AAAA' }),
  more: chunk({ content: 'BBBB' }),
  other: chunk({ content: 'ZZZZ' }),
  ending: [chunk({}, 'stop'), 'data: [DONE]\n\n'],
  contents: {
    text: chunk({ content: 'x' }),
    'tool call': chunk({ tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { name: 'f', arguments: '' } }] }),
    reasoning: chunk({ reasoning_content: 'hm' }),
    refusal: chunk({ refusal: 'no' }),
    'finish reason': chunk({}, 'length'),
  },
  errors: {
    error: 'data: {"error":{"message":"The server is overloaded.","type":"server_error","param":null,"code":null}}\n\n',
  },
  errorStatus: { error: 502 },
  frame: (m) => `data: {"error":{"message":${JSON.stringify(m)},"type":"server_error","param":null,"code":"upstream_failed"}}\n\n`,
};

const responses = {
  name: 'responses', path: '/v1/responses', upPath: '/responses', api: 'openai', dir: 'openai-responses', anthropic: false,
  body: (model, extra) => ({ model, input: 'hi', ...extra }),
  preamble: [
    numbered('response.created', 0, { response: { id: 'resp_t1', status: 'in_progress' } }),
    numbered('response.in_progress', 1, { response: { id: 'resp_t1', status: 'in_progress' } }),
    numbered('response.output_item.added', 2, { output_index: 0, item: { id: 'msg_1', type: 'message', status: 'in_progress', role: 'assistant', content: [] } }),
    numbered('response.content_part.added', 3, { item_id: 'msg_1', output_index: 0, content_index: 0, part: { type: 'output_text', annotations: [], text: '' } }),
  ],
  content: numbered('response.output_text.delta', 4, { item_id: 'msg_1', output_index: 0, content_index: 0, delta: 'AAAA' }),
  more: numbered('response.output_text.delta', 5, { item_id: 'msg_1', output_index: 0, content_index: 0, delta: 'BBBB' }),
  other: numbered('response.output_text.delta', 4, { item_id: 'msg_1', output_index: 0, content_index: 0, delta: 'ZZZZ' }),
  ending: [numbered('response.completed', 6, { response: { id: 'resp_t1', status: 'completed', usage: { input_tokens: 3, output_tokens: 2, total_tokens: 5 } } })],
  contents: {
    text: numbered('response.output_text.delta', 4, { item_id: 'msg_1', output_index: 0, content_index: 0, delta: 'x' }),
    'tool call': numbered('response.function_call_arguments.delta', 4, { item_id: 'fc_1', output_index: 0, delta: '{' }),
    reasoning: numbered('response.reasoning_summary_text.delta', 4, { item_id: 'rs_1', output_index: 0, summary_index: 0, delta: 'hm' }),
    refusal: numbered('response.refusal.delta', 4, { item_id: 'msg_1', output_index: 0, content_index: 0, delta: 'no' }),
    incomplete: numbered('response.incomplete', 4, { response: { id: 'resp_t1', status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } } }),
  },
  errors: {
    'flat error': numbered('error', 4, { code: 'server_error', message: 'Something went wrong', param: null }),
    'nested error': 'event: error\ndata: {"type":"error","error":{"type":"server_error","code":"server_error","message":"Try again later"}}\n\n',
    'response.failed': numbered('response.failed', 4, { response: { id: 'resp_t1', status: 'failed', error: { code: 'server_error', message: 'The model failed.' } } }),
  },
  errorStatus: { 'flat error': 502, 'nested error': 502, 'response.failed': 502 },
  frame: null, // see checkFrame
};

const messages = {
  name: 'messages', path: '/v1/messages', upPath: '/messages', api: 'anthropic', dir: 'anthropic-messages', anthropic: true,
  body: (model, extra) => ({ model, max_tokens: 64, messages: [{ role: 'user', content: 'hi' }], ...extra }),
  preamble: [
    event('message_start', { message: { id: 'msg_t1', type: 'message', role: 'assistant', content: [], model: 'm', stop_reason: null, usage: { input_tokens: 3, output_tokens: 1 } } }),
    event('ping'),
    event('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
  ],
  content: event('content_block_delta', { index: 0, delta: { type: 'text_delta', text: 'AAAA' } }),
  more: event('content_block_delta', { index: 0, delta: { type: 'text_delta', text: 'BBBB' } }),
  other: event('content_block_delta', { index: 0, delta: { type: 'text_delta', text: 'ZZZZ' } }),
  ending: [
    event('content_block_stop', { index: 0 }),
    event('message_delta', { delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 2 } }),
    event('message_stop'),
  ],
  contents: {
    text: event('content_block_delta', { index: 0, delta: { type: 'text_delta', text: 'x' } }),
    'tool call': event('content_block_start', { index: 0, content_block: { type: 'tool_use', id: 'toolu_1', name: 'f', input: {} } }),
    reasoning: event('content_block_delta', { index: 0, delta: { type: 'thinking_delta', thinking: 'hm' } }),
    'stop reason': event('message_delta', { delta: { stop_reason: 'max_tokens', stop_sequence: null }, usage: { output_tokens: 2 } }),
  },
  errors: {
    error: 'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
  },
  errorStatus: { error: 529 },
  frame: (m, id) => `event: error\ndata: {"type":"error","error":{"type":"api_error","message":${JSON.stringify(m)}},"request_id":${JSON.stringify(id)}}\n\n`,
};

export const ROUTES = { chat, responses, messages };
export const EACH_ROUTE = Object.values(ROUTES);
export const whole = (route) => [...route.preamble, route.content, route.more, ...route.ending].join('');

export function routeOfUpstreamPath(target) {
  const at = target.split('?')[0];
  if (at.includes('/messages')) return messages;
  if (at.includes('/responses')) return responses;
  return chat;
}

// The refusals of contract section 7: [status, type, code] of the OpenAI shapes, and the type of the messages shape.
export const REFUSALS = {
  exhausted502: { status: 502, type: 'upstream_error', code: 'all_upstreams_failed', anthropic: 'api_error' },
  exhausted504: { status: 504, type: 'upstream_error', code: 'all_upstreams_failed', anthropic: 'timeout_error' },
  exhausted429: { status: 429, type: 'upstream_error', code: 'all_upstreams_failed', anthropic: 'rate_limit_error' },
  exhausted529: { status: 529, type: 'upstream_error', code: 'all_upstreams_failed', anthropic: 'overloaded_error' },
  deadline: { status: 504, type: 'upstream_error', code: 'deadline_exceeded', anthropic: 'timeout_error' },
  unknownModel: { status: 404, type: 'invalid_request_error', code: 'model_not_found', anthropic: 'not_found_error' },
  unknownPath: { status: 404, type: 'invalid_request_error', code: 'not_found', anthropic: 'not_found_error' },
  method: { status: 405, type: 'invalid_request_error', code: 'method_not_allowed', anthropic: 'invalid_request_error' },
  modelDenied: { status: 403, type: 'invalid_request_error', code: 'model_not_allowed', anthropic: 'permission_error' },
  badKey: { status: 401, type: 'invalid_request_error', code: 'invalid_api_key', anthropic: 'authentication_error' },
  tooLarge: { status: 413, type: 'invalid_request_error', code: 'request_too_large', anthropic: 'request_too_large' },
  badJson: { status: 400, type: 'invalid_request_error', code: 'invalid_json', anthropic: 'invalid_request_error' },
  noModel: { status: 400, type: 'invalid_request_error', code: 'missing_model', anthropic: 'invalid_request_error' },
  overloaded: { status: 503, type: 'server_error', code: 'overloaded', anthropic: 'overloaded_error' },
};
