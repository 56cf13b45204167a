/**
 * What an engine node does every hour: partitions are made ahead, old weeks are dropped; any number of nodes may.
 *
 * Guards that what a pass could not do is told, each time: else the disk fills, or inserts go into the default
 * partition, and nobody knows why.
 */
import type { Closers, Connections } from './connect.ts';

const MAINTENANCE_MS = 3_600_000;

/** Begins at once, and ends with the process. */
export function keepMaintained(
  { postgres, settings, telemetry }: Pick<Connections, 'postgres' | 'settings' | 'telemetry'>,
  closers: Closers,
): void {
  const stop = new AbortController();
  const days = settings.SAGAX_RETENTION_DAYS;
  let kept = 0;
  let left = 0;
  telemetry.gauge(
    'weeks_kept',
    'Weeks over their retention time that something keeps.',
    () => kept,
  );
  telemetry.gauge('maintenance_left', 'Things that the last maintenance left undone.', () => left);
  const pass = async (): Promise<void> => {
    const options = days === undefined ? {} : { retentionMs: days * 86_400_000 };
    const { refused, skipped } = await postgres.maintain({ ...options, signal: stop.signal });
    kept = refused.length;
    left = skipped.length;
    if (skipped.length > 0) {
      telemetry.log.warn(
        { skipped },
        'maintenance left something undone; the next pass tries again',
      );
    }
    if (refused.length > 0) {
      const weeks = refused.map(({ weekMs, sagas, refusal }) => ({
        week: new Date(weekMs).toISOString().slice(0, 10),
        sagas,
        reason: refusal,
      }));
      telemetry.log.warn({ weeks }, 'weeks over their retention time were kept');
    }
  };
  const run = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      await pass().catch((err: unknown) =>
        telemetry.log.warn({ err }, 'maintenance failed; it is tried again'),
      );
      await postgres.clock.sleep(MAINTENANCE_MS, stop.signal);
    }
  };
  const running = run();
  closers.add(() => {
    stop.abort();
    return running;
  });
}
