/** The README's code is real: it compiles under the project's own settings with AUTHORING's services, and defines a saga that runs. */
import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decide } from '../../engine/core/decide.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { SagaState } from '../../engine/core/state.ts';
import { root, sampleOf } from '../support/samples.ts';

const sample = `${root}readme-sample.ts`;
const services = `${root}readme-services.ts`;
const config = `${root}tsconfig.readme-sample.json`;
let saga: string;

const HEADER = '/** Out of a document, while its test runs. */\n';

beforeAll(async () => {
  saga = await sampleOf('README.md', '## A saga in 40');
  await writeFile(sample, `${HEADER}${saga}`);
  const code = await sampleOf('docs/AUTHORING.md', '### A service of your own');
  await writeFile(services, `${HEADER}${code.replace('./book-room.ts', './readme-sample.ts')}`);
  await writeFile(
    config,
    JSON.stringify({
      extends: './tsconfig.json',
      include: ['readme-sample.ts', 'readme-services.ts'],
    }),
  );
});
afterAll(async () => {
  await rm(sample, { force: true });
  await rm(services, { force: true });
  await rm(config, { force: true });
});

describe('README', () => {
  test('the saga is no longer than it says', () => {
    expect(saga.trimEnd().split('\n').length).toBeLessThanOrEqual(46);
  });

  test('the saga compiles, and the services that answer it', { timeout: 60_000 }, async () => {
    const compiled = await promisify(execFile)(`${root}node_modules/.bin/tsc`, ['-p', config], {
      cwd: root,
    });
    expect(compiled.stdout).toBe('');
  });

  test('the saga books a room, and gives it back when the payment is declined', async () => {
    const { definitions } = (await import(sample)) as { definitions: AnyDefinition[] };
    const [definition] = definitions;
    if (definition === undefined) throw new Error('no definition');
    const start = {
      type: 'start' as const,
      body: {
        sagaId: '7',
        namespace: 'default',
        definition: 'book-room',
        definitionVersion: 1,
        input: { room: 'blue', cents: 900 },
      },
    };
    let state: SagaState | null = null;
    const asked: string[] = [];
    const put = (input: Parameters<typeof decide>[3]): void => {
      const decision = decide(definition, '7', state, input, 1_000);
      if (decision.kind !== 'accepted') throw new Error(JSON.stringify(decision));
      state = decision.state;
      for (const event of decision.events)
        if ('command' in event) asked.push(`${event.type} ${event.command}`);
    };
    const reply = { sagaId: '7', namespace: 'default', attempt: 1 };
    put(start);
    put({
      type: 'reply',
      body: { ...reply, commandId: '7.1', outcome: 'succeeded', output: { reservationId: 'r' } },
    });
    put({
      type: 'reply',
      body: {
        ...reply,
        commandId: '7.2',
        outcome: 'rejected',
        failure: { code: 'Declined', message: '', data: {} },
      },
    });
    put({
      type: 'reply',
      body: { ...reply, commandId: '7.1.c', outcome: 'succeeded', output: null },
    });
    expect(asked).toEqual([
      'StepRequested rooms.reserve',
      'StepRequested till.pay',
      'CompensationRequested rooms.release',
    ]);
    expect(state).toMatchObject({
      phase: 'ended',
      compensated: true,
      machine: { value: 'cancelled' },
    });
  });
});
