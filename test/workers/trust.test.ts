/** Who works without a savepoint, or beside others: whoever has long been no trouble, and after a loss twice as long. */
import { describe, expect, test } from 'vitest';
import { Trust } from '../../workers/trust.ts';

/** How many successes it takes until the command is trusted. */
function earn(trust: Trust): number {
  let successes = 0;
  for (; !trust.has('shop.reserve'); successes += 1) trust.succeeded('shop.reserve', 2);
  return successes;
}

test('trust is earned by many successes in a row, and each command has its own', () => {
  const trust = new Trust();
  expect(earn(trust)).toBe(100);
  expect(trust.has('shop.release')).toBe(false);
});

test('a failure before it is earned begins anew; one after it costs twice the successes', () => {
  const trust = new Trust();
  for (let n = 0; n < 60; n++) trust.succeeded('shop.reserve', 2);
  trust.failed('shop.reserve');
  expect(earn(trust)).toBe(100);
  trust.failed('shop.reserve');
  // What the loss of the batch entails is not a second loss.
  trust.failed('shop.reserve');
  expect(earn(trust)).toBe(200);
});

test('it can be earned again however often it was lost', () => {
  const trust = new Trust();
  for (let n = 0; n < 20; n++) {
    earn(trust);
    trust.failed('shop.reserve');
  }
  expect(earn(trust)).toBe(100_000);
});

describe('to be begun before others have ended', () => {
  const times = (trust: Trust, count: number, statements: number): void => {
    for (let n = 0; n < count; n++) trust.succeeded('shop.reserve', statements);
  };

  test('takes as many runs of one statement at most, or of none', () => {
    const trust = new Trust();
    times(trust, 50, 1);
    times(trust, 49, 0);
    expect(trust.hasSingle('shop.reserve')).toBe(false);
    times(trust, 1, 1);
    expect(trust.hasSingle('shop.reserve')).toBe(true);
    times(trust, 1, 2);
    expect(trust.hasSingle('shop.reserve')).toBe(false);
    expect(trust.has('shop.reserve')).toBe(true);
    times(trust, 199, 1);
    expect(trust.hasSingle('shop.reserve')).toBe(false);
    times(trust, 1, 1);
    expect(trust.hasSingle('shop.reserve')).toBe(true);
  });

  test('takes work that is kept', () => {
    const trust = new Trust();
    times(trust, 100, 1);
    trust.failed('shop.reserve');
    expect(trust.hasSingle('shop.reserve')).toBe(false);
    times(trust, 200, 1);
    expect(trust.hasSingle('shop.reserve')).toBe(true);
    trust.hadMore('shop.reserve');
    expect([trust.has('shop.reserve'), trust.hasSingle('shop.reserve')]).toEqual([true, false]);
  });
});
