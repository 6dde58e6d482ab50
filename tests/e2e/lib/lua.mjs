// JavaScript values as Lua text, for configs.
export class Raw { constructor(text) { this.text = text; } }
export const lua = (text) => new Raw(text);

export function toLua(value) {
  if (value instanceof Raw) return value.text;
  if (value === null || value === undefined) return 'nil';
  if (typeof value === 'string') return `"${value.replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\n')}"`;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (Array.isArray(value)) return `{ ${value.map(toLua).join(', ')} }`;
  const members = Object.entries(value).filter(([, v]) => v !== undefined).map(([k, v]) => `[${toLua(k)}] = ${toLua(v)}`);
  return `{ ${members.join(', ')} }`;
}

// Objects merged deeply; lists and scalars of the later one win, undefined removes.
export function merge(a, b) {
  if (b === undefined) return a;
  const plain = (v) => v !== null && typeof v === 'object' && !Array.isArray(v) && !(v instanceof Raw);
  if (!plain(a) || !plain(b)) return b;
  const out = { ...a };
  for (const [k, v] of Object.entries(b)) out[k] = v === undefined ? undefined : merge(a[k], v);
  return out;
}
