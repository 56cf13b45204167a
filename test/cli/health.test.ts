/** The health port of processes without an API: where it listens, which the log says, and what it answers. */
import { afterEach, expect, test } from 'vitest';
import { Registry } from 'prom-client';
import { Closers, type Connections } from '../../cli/connect.ts';
import { startHealth } from '../../cli/health.ts';
import { parseSettings } from '../../cli/settings.ts';
import { openMemory } from '../../engine/memory/index.ts';

let closers = new Closers();
afterEach(async () => {
  await closers.close();
  closers = new Closers();
});

/** @returns what was logged */
async function started(env: { [name: string]: string }): Promise<object[]> {
  const said: object[] = [];
  const telemetry = { registry: new Registry(), log: { info: (what: object) => said.push(what) } };
  const { reader, bus } = openMemory();
  const settings = parseSettings(env);
  const connections = { settings, telemetry, postgres: { reader }, bus } as unknown as Connections;
  await startHealth(connections, closers);
  return said;
}

test.each([
  [{}, /^http:\/\/127\.0\.0\.1:\d+$/],
  [{ SAGAX_HOST: '0.0.0.0' }, /^http:\/\/0\.0\.0\.0:\d+$/],
])('with %j it is where the log says', async (env, form) => {
  const [said] = (await started({ ...env, SAGAX_HEALTH_PORT: '0' })) as { address: string }[];
  expect(said?.address).toMatch(form);
  for (const path of ['/healthz', '/readyz', '/metrics'])
    expect((await fetch(`${said?.address}${path}`)).status).toBe(200);
});

test('without SAGAX_HEALTH_PORT there is none', async () => {
  expect(await started({})).toEqual([]);
});
