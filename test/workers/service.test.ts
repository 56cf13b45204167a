/** What `defineService` refuses, so that a mistake shows at the start and not at the first command. */
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { command, defineService, transactional } from '../../workers/index.ts';

const pay = command('till.pay', { input: z.object({}), output: z.null() });
const handler = transactional(pay, () => Promise.resolve(null));

describe('defineService', () => {
  test('takes its name for its schema', () => {
    const open = command('bank-a.open', { input: z.object({}), output: z.null() });
    const service = defineService({
      service: 'bank-a',
      handlers: [transactional(open, () => Promise.resolve(null))],
    });
    expect(service).toMatchObject({ kind: 'sagax.service', service: 'bank-a', schema: 'bank_a' });
  });

  test.each([
    ['no handlers', { service: 'till', handlers: [] }, /has no handlers/],
    ["another service's handler", { service: 'rooms', handlers: [handler] }, /a worker of "till"/],
    ['two for one command', { service: 'till', handlers: [handler, handler] }, /two handlers/],
    [
      'a schema that is none',
      { service: 'till', schema: 'Till; DROP', handlers: [handler] },
      /must be lower-case/,
    ],
  ])('refuses %s', (_, options, words) => {
    expect(() => defineService(options)).toThrow(
      expect.objectContaining({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(words) as string,
      }) as Error,
    );
  });
});
