/** Bodies of requests that the docs give are ones that the API takes. */
import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { completeRequest } from '../../api/schemas.ts';
import { chargeCard } from '../../definitions/order/contracts.ts';

/** What the file gives in backticks as a body that begins with an outcome. */
async function bodiesOf(name: string): Promise<unknown[]> {
  const text = await readFile(new URL(`../../docs/${name}`, import.meta.url), 'utf8');
  return [...text.matchAll(/`(\{ "outcome": [^`]*\})`/g)].map(([, body]) => JSON.parse(body ?? ''));
}

describe.each([['AUTHORING.md'], ['OPERATIONS.md']])('bodies of `complete` in %s', (name) => {
  test('are taken, and each outcome is there', async () => {
    const bodies = (await bodiesOf(name)).map((body) => completeRequest.parse(body));
    const outcomes = new Set(bodies.map(({ outcome }) => outcome));
    expect(outcomes).toEqual(new Set(['succeeded', 'rejected', 'failed']));
  });

  test('fit the contract of the example', async () => {
    const bodies = (await bodiesOf(name)).map((body) => completeRequest.parse(body));
    const outputs = bodies.flatMap((body) => (body.outcome === 'succeeded' ? [body.output] : []));
    for (const output of outputs) expect(chargeCard.output.parse(output)).toEqual(output);
    const refusals = bodies.flatMap((body) => (body.outcome === 'rejected' ? [body.failure] : []));
    for (const { code, data } of refusals) {
      expect(code).toBe('CardDeclined');
      expect(chargeCard.rejections.CardDeclined.parse(data)).toEqual(data);
    }
  });
});
