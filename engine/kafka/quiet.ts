/**
 * Takes a busy loop out of kafkajs 2.2.4: each connection set a timer of 1 ms anew for ever, used or not.
 *
 * Guards that an idle process sleeps. kafkajs looks again at requests that wait for a throttle to end; it sets
 * that timer also when none waits, for the time until a moment long past, which Node makes 1 ms, and when
 * it fires it sets the next one (tulios/kafkajs#1751). Here it is set only while requests wait; whoever sends one
 * then asks for it anew, as before. Where kafkajs is built otherwise, nothing is changed.
 */
import { createRequire } from 'node:module';

/** What is used of kafkajs's RequestQueue. */
interface RequestQueue {
  pending: unknown[];
  scheduleCheckPendingRequests(this: RequestQueue): void;
}

let isDone = false;

/** Safe to call again. @returns whether kafkajs is built as expected */
export function quietenRequestQueues(): boolean {
  const prototype = requestQueuePrototype();
  if (prototype === null) return false;
  if (isDone) return true;
  isDone = true;
  const { scheduleCheckPendingRequests: schedule } = prototype;
  prototype.scheduleCheckPendingRequests = function (): void {
    if (this.pending.length > 0) schedule.call(this);
  };
  return true;
}

function requestQueuePrototype(): RequestQueue | null {
  try {
    const made = createRequire(import.meta.url)('kafkajs/src/network/requestQueue/index.js') as {
      prototype?: Partial<RequestQueue>;
    };
    const { prototype } = made;
    return typeof prototype?.scheduleCheckPendingRequests === 'function'
      ? (prototype as RequestQueue)
      : null;
  } catch {
    return null;
  }
}
