/**
 * What every `SagaReader` has to give of a history: in order, behind a version, no more than asked for, and no more at
 * once than memory is meant to hold.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SagaEvent } from '../../engine/core/events.ts';
import type { EventLog, ShardLeases } from '../../engine/ports.ts';
import { HISTORY_BYTES, type SagaReader } from '../../engine/ports-read.ts';
import { noted, sagaId, taken, Writer } from '../postgres/fixtures.ts';

export interface HistoryPorts {
  eventLog: Pick<EventLog, 'append'>;
  shardLeases: Pick<ShardLeases, 'acquire'>;
  reader: Pick<SagaReader, 'history'>;
  close(): Promise<void>;
}

/** Nearly as large as any; compressed it is nothing, so that a limit of what is on disk would let it through. */
const LARGE = 800_000;
const large = (n: number): SagaEvent => ({
  type: 'TimerFired',
  timerId: `${n}${'x'.repeat(LARGE)}`,
});

export function historyConformance(adapter: string, open: () => Promise<HistoryPorts>): void {
  describe(`history: ${adapter}`, () => {
    let ports: HistoryPorts;
    let writer: Writer;
    beforeAll(async () => {
      ports = await open();
      writer = new Writer(await taken(ports.shardLeases.acquire(0, 'me', 60_000)));
    });
    afterAll(() => ports.close());

    async function written(events: SagaEvent[]) {
      const id = sagaId();
      const logged = events.map((event) => writer.event(id, event));
      for (const event of logged) await ports.eventLog.append(writer.batch({ events: [event] }));
      return { id, logged };
    }

    it('gives events behind a version, in order, at most so many', async () => {
      const { id, logged } = await written([1, 2, 3, 4, 5].map(noted));
      const { reader } = ports;
      expect(await reader.history(id, 0, 100)).toEqual(logged);
      expect(await reader.history(id, 2, 2)).toEqual(logged.slice(2, 4));
      expect(await reader.history(id, 5, 2)).toEqual([]);
      expect(await reader.history(id, 0, 0)).toEqual([]);
      expect(await reader.history(sagaId(), 0, 2)).toEqual([]);
      expect(await reader.history('x', 0, 2)).toEqual([]);
    });

    it('gives values back as they went in, whatever text they hold', async () => {
      const odd = ['\0', '\ud800', '"\\\n', 'é€😀', '{"$sagax.json":"1"}'];
      const { id, logged } = await written(odd.map((timerId) => ({ type: 'TimerFired', timerId })));
      expect(await ports.reader.history(id, 0, 100)).toEqual(logged);
    });

    it('stops with the event that makes it large; the pages together are all', async () => {
      const { id, logged } = await written(Array.from({ length: 15 }, (_, n) => large(n)));
      const first = await ports.reader.history(id, 0, 1_000);
      // Ten are 8,000,000 bytes and a little.
      expect(first.map(({ streamVersion }) => streamVersion)).toEqual(
        Array.from({ length: Math.ceil(HISTORY_BYTES / LARGE) }, (_, n) => n + 1),
      );
      const rest = await ports.reader.history(id, first.length, 1_000);
      expect([...first, ...rest]).toEqual(logged);
    });

    it('is as large as the caller says, and one event at least', async () => {
      const { id, logged } = await written(Array.from({ length: 30 }, (_, n) => noted(n)));
      const some = await ports.reader.history(id, 0, 100, 500);
      expect(some.length).toBeGreaterThan(1);
      expect(some.length).toBeLessThan(20);
      expect(some).toEqual(logged.slice(0, some.length));
      expect(await ports.reader.history(id, 3, 100, 1)).toEqual(logged.slice(3, 4));
    });
  });
}
