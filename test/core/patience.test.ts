/** When a reader of a bus waits for company: never where messages are few, soon where there are many. */
import { describe, expect, it } from 'vitest';
import { Patience } from '../../engine/core/patience.ts';

describe('patience', () => {
  const patience = new Patience();
  let now = 0;
  /** `messages` come `every_ms`, for two seconds. */
  function come(messages: number, every_ms: number): void {
    const until = now + 2_000;
    while (now < until) patience.found(messages, (now += every_ms));
  }

  it('does not pay before anything has come, nor for lone sagas', () => {
    expect(patience.pays(now)).toBe(false);
    come(1, 6);
    expect(patience.pays(now)).toBe(false);
  });

  it('pays where many come, though each look finds but one', () => {
    come(1, 1.25);
    expect(patience.pays(now)).toBe(true);
  });

  it('goes by the rate alone: the same in company, with empty looks between', () => {
    for (let n = 0; n < 400; n++) {
      patience.found(4, (now += 5));
      patience.found(0, now);
    }
    expect(patience.pays(now)).toBe(true);
  });

  it('does not pay any more soon after they have stopped, nor after a single small burst', () => {
    expect(patience.pays(now + 200)).toBe(false);
    patience.found(10, (now += 10_000));
    expect(patience.pays(now)).toBe(false);
  });
});
