/** That kafkajs's connections set no timer while nothing waits, and still send what waited for a throttle. */
import { createRequire } from 'node:module';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { quietenRequestQueues } from '../../engine/kafka/quiet.ts';

interface Queue {
  pending: unknown[];
  throttleCheckTimeoutId: unknown;
  maybeThrottle(ms: number): void;
  push(request: unknown): void;
  fulfillRequest(response: { correlationId: number; payload: unknown; size: number }): void;
  destroy(): void;
}

const RequestQueue = createRequire(import.meta.url)(
  'kafkajs/src/network/requestQueue/index.js',
) as new (options: object) => Queue;

function makeQueue(): Queue {
  return new RequestQueue({
    requestTimeout: 1_000,
    enforceRequestTimeout: false,
    clientId: 'test',
    broker: 'none:9092',
    logger: { debug() {} },
  });
}

function request(correlationId: number, sent: number[]): object {
  return {
    entry: { correlationId, resolve: () => undefined, reject: () => undefined },
    expectResponse: true,
    requestTimeout: 1_000,
    sendRequest: () => sent.push(correlationId),
  };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

it('a connection of kafkajs that waits for nothing has no timer', () => {
  expect(quietenRequestQueues()).toBe(true);
  expect(quietenRequestQueues()).toBe(true);
  const queue = makeQueue();
  const sent: number[] = [];
  queue.push(request(1, sent));
  queue.fulfillRequest({ correlationId: 1, payload: {}, size: 0 });
  expect(sent).toEqual([1]);
  expect(vi.getTimerCount()).toBe(0);
});

it('what waits for a throttle to end is still sent when it has ended', () => {
  quietenRequestQueues();
  const queue = makeQueue();
  const sent: number[] = [];
  queue.maybeThrottle(500);
  queue.push(request(1, sent));
  expect(vi.getTimerCount()).toBe(1);
  vi.advanceTimersByTime(499);
  expect(sent).toEqual([]);
  vi.advanceTimersByTime(10);
  expect(sent).toEqual([1]);
  queue.fulfillRequest({ correlationId: 1, payload: {}, size: 0 });
  expect(vi.getTimerCount()).toBe(0);
});
