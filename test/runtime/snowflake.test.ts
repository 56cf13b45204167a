/** A source of ids whose lease can't be renewed for a while: ids stop in time, and come back by themselves (I13). */
import { describe, expect, test } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import { ManualClock, openMemory } from '../../engine/memory/index.ts';
import type { NodeIdLeases } from '../../engine/ports.ts';
import { createSnowflakes } from '../../engine/runtime/snowflake.ts';
import { failing, Faults, Recorder, unavailable } from './support.ts';

const TTL_MS = 9_000;
const refused = (): Error => new SagaxError('CONFIG_INVALID', 'Postgres lets nobody in.');
const crowded = (): Error => Object.assign(new Error('too many open files'), { code: 'EMFILE' });

describe('a lease that can not be renewed', () => {
  test.each([
    ['the database does not answer', unavailable],
    ['the password is refused', refused],
    ['no more files can be opened', crowded],
  ])('since %s: it is told, and tried until it can be', async (_, makeError) => {
    const clock = new ManualClock();
    const nodeIds = new Faults<NodeIdLeases>(openMemory({ clock }).nodeIds);
    const { log, lines } = new Recorder();
    const ids = await createSnowflakes(nodeIds.port, clock, 'a', TTL_MS, log);
    nodeIds.always('renew', failing(makeError));
    await clock.advance(TTL_MS);
    expect(() => ids.next()).toThrow(expect.objectContaining({ code: 'NODE_LEASE_LOST' }));
    expect(lines).toHaveLength(3);
    expect(lines[0]).toMatchObject({ level: 'warn', fields: { owner: 'a', err: makeError() } });
    nodeIds.heal();
    await clock.advance(TTL_MS / 3);
    expect(ids.next()).toMatch(/^[0-9]+$/);
    expect(lines).toHaveLength(3);
    await ids.close();
  });
});
