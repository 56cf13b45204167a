/** When a reader of a bus waits for company: never for lone messages, soon for those that come together. */
import { describe, expect, it } from 'vitest';
import { Patience } from '../../engine/core/patience.ts';

describe('patience', () => {
  function after(...found: readonly number[]): Patience {
    const patience = new Patience();
    for (const messages of found) patience.found(messages);
    return patience;
  }

  it('does not pay while messages come one by one, however many', () => {
    expect(after().pays).toBe(false);
    expect(after(...Array.from({ length: 1_000 }, () => 1)).pays).toBe(false);
  });

  it('pays soon once they come together, and no more soon after they have stopped', () => {
    const together = Array.from({ length: 20 }, () => 2);
    expect(after(...together).pays).toBe(true);
    const alone = Array.from({ length: 20 }, () => 1);
    expect(after(...together, ...alone).pays).toBe(false);
  });

  it('takes nothing from looks that bring nothing', () => {
    const patience = after(8, 8);
    expect(patience.pays).toBe(true);
    for (let n = 0; n < 1_000; n++) patience.found(0);
    expect(patience.pays).toBe(true);
  });
});
