/**
 * That kafkajs's connections hardly wake a process while nothing happens, still send what waited for a throttle, and
 * still give up what outlives its limit.
 */
import { createRequire } from 'node:module';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { quietenRequestQueues } from '../../engine/kafka/quiet.ts';

interface Queue {
  pending: unknown[];
  throttleCheckTimeoutId: unknown;
  maybeThrottle(ms: number): void;
  push(request: unknown): void;
  fulfillRequest(response: { correlationId: number; payload: unknown; size: number }): void;
  scheduleRequestTimeoutCheck(): void;
  destroy(): void;
}

const RequestQueue = createRequire(import.meta.url)(
  'kafkajs/src/network/requestQueue/index.js',
) as new (options: object) => Queue;

function makeQueue(more: object = {}): Queue {
  return new RequestQueue({
    requestTimeout: 1_000,
    enforceRequestTimeout: false,
    clientId: 'test',
    broker: 'none:9092',
    logger: { debug() {} },
    ...more,
  });
}

function request(
  correlationId: number,
  sent: number[],
  reject: (error: Error) => void = () => undefined,
): object {
  return {
    entry: { correlationId, resolve: () => undefined, reject },
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

it('a connection looks once a second for requests that are late, and gives each up soon after its limit', () => {
  quietenRequestQueues();
  const isConnected = vi.fn<() => boolean>(() => true);
  const queue = makeQueue({ requestTimeout: 8_000, enforceRequestTimeout: true, isConnected });
  queue.scheduleRequestTimeoutCheck();
  const late: string[] = [];
  queue.push(request(1, [], (error) => late.push(error.name)));
  vi.advanceTimersByTime(5_500);
  expect(isConnected).toHaveBeenCalledTimes(5);
  queue.push(request(2, [], (error) => late.push(`second: ${error.name}`)));
  vi.advanceTimersByTime(2_500);
  expect(late).toEqual([]);
  vi.advanceTimersByTime(1_000);
  expect(late).toEqual(['KafkaJSRequestTimeoutError']);
  vi.advanceTimersByTime(4_500);
  expect(late).toHaveLength(1);
  vi.advanceTimersByTime(1_000);
  expect(late).toHaveLength(2);
  isConnected.mockReturnValue(false);
  vi.advanceTimersByTime(1_000);
  expect(vi.getTimerCount()).toBe(0);
});

it('where requests have a shorter limit it looks as often', () => {
  quietenRequestQueues();
  const queue = makeQueue({ requestTimeout: 300, enforceRequestTimeout: true });
  queue.scheduleRequestTimeoutCheck();
  const late: Error[] = [];
  queue.push({ ...request(1, [], (error) => late.push(error)), requestTimeout: 300 });
  vi.advanceTimersByTime(600);
  expect(late).toHaveLength(1);
  queue.destroy();
  expect(vi.getTimerCount()).toBe(0);
});

it('without limits it does not look', () => {
  quietenRequestQueues();
  makeQueue().scheduleRequestTimeoutCheck();
  expect(vi.getTimerCount()).toBe(0);
});
