/** Who works without a savepoint: whoever has long not needed one, and after a loss twice as long. */
import { expect, test } from 'vitest';
import { Trust } from '../../workers/trust.ts';

/** How many successes it takes until the command is trusted. */
function earn(trust: Trust): number {
  let successes = 0;
  for (; !trust.has('shop.reserve'); successes += 1) trust.succeeded('shop.reserve');
  return successes;
}

test('trust is earned by many successes in a row, and each command has its own', () => {
  const trust = new Trust();
  expect(earn(trust)).toBe(100);
  expect(trust.has('shop.release')).toBe(false);
});

test('a failure before it is earned begins anew; one after it costs twice the successes', () => {
  const trust = new Trust();
  for (let n = 0; n < 60; n++) trust.succeeded('shop.reserve');
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
