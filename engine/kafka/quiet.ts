/**
 * Takes two timers out of kafkajs 2.2.4, of which each connection had both for ever, used or not.
 *
 * Guards that an idle process sleeps. kafkajs looks again at requests that wait for a throttle to end; it sets
 * that timer also when none waits, for the time until a moment long past, which Node makes 1 ms, and when
 * it fires it sets the next one (tulios/kafkajs#1751). Here it is set only while requests wait; whoever sends one
 * then asks for it anew, as before. And it looks ten times a second whether a request has outlived its limit of
 * seconds; here it looks once a second, so that one is given up at most a second late. Where kafkajs is built
 * otherwise, nothing is changed.
 */
import { kafkajsClass } from './internals.ts';

/** What is used of kafkajs's RequestQueue. */
interface RequestQueue {
  pending: unknown[];
  inflight: ReadonlyMap<number, { sentAt: number; requestTimeout: number; timeoutRequest(): void }>;
  enforceRequestTimeout: boolean;
  requestTimeout: number;
  requestTimeoutIntervalId: NodeJS.Timeout | undefined;
  isConnected(): boolean;
  /** Ends its interval. */
  destroy(): void;
  scheduleCheckPendingRequests(this: RequestQueue): void;
  scheduleRequestTimeoutCheck(this: RequestQueue): void;
}

const LATE_LOOK_MS = 1_000;

let isDone = false;

/** Safe to call again. @returns whether kafkajs is built as expected */
export function quietenRequestQueues(): boolean {
  const found = kafkajsClass<{ prototype: RequestQueue }>('network/requestQueue/index.js', [
    'scheduleCheckPendingRequests',
    'scheduleRequestTimeoutCheck',
    'destroy',
  ]);
  if (found === null) return false;
  if (isDone) return true;
  isDone = true;
  const { prototype } = found;
  const { scheduleCheckPendingRequests: schedule } = prototype;
  prototype.scheduleCheckPendingRequests = function (): void {
    if (this.pending.length > 0) schedule.call(this);
  };
  prototype.scheduleRequestTimeoutCheck = function (): void {
    if (!this.enforceRequestTimeout) return;
    this.destroy();
    const lookMs = Math.min(this.requestTimeout, LATE_LOOK_MS);
    this.requestTimeoutIntervalId = setInterval(() => giveUpLate(this), lookMs);
  };
  return true;
}

function giveUpLate(queue: RequestQueue): void {
  for (const request of queue.inflight.values()) {
    if (Date.now() - request.sentAt > request.requestTimeout) request.timeoutRequest();
  }
  if (!queue.isConnected()) queue.destroy();
}
