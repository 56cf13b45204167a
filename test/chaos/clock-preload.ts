/**
 * Loaded before a process of the stage (`--import`): its wall clock is shifted by the number of ms that stands in
 * the file of CHAOS_CLOCK_FILE, which may change at any time. As with a real jump, the monotonic clock goes on.
 */
import { readFileSync } from 'node:fs';

const LOOK_EVERY_MS = 50;
const file = process.env['CHAOS_CLOCK_FILE'];
const realNow = Date.now;
let shift_ms = 0;

function look(): void {
  if (file === undefined) return;
  const wanted = Number(readFileSync(file, 'utf8'));
  if (Number.isFinite(wanted)) shift_ms = wanted;
}

const shiftedNow = (): number => realNow() + shift_ms;

// A proxy, so that `Date.UTC`, `Date.parse` and `instanceof` are those of the real one.
globalThis.Date = new Proxy(Date, {
  get: (target, name, receiver) =>
    name === 'now' ? shiftedNow : (Reflect.get(target, name, receiver) as unknown),
  construct: (target, given: unknown[]) =>
    Reflect.construct(target, given.length === 0 ? [shiftedNow()] : given) as Date,
});
look();
setInterval(look, LOOK_EVERY_MS).unref();
