/** Maintenance of an engine node: what a pass left undone is in the log and in the figures. */
import { expect, it, vi } from 'vitest';
import { Closers, type Connections } from '../../cli/connect.ts';
import { createTelemetry } from '../../cli/telemetry.ts';
import { keepMaintained } from '../../cli/upkeep.ts';
import type { MaintenanceReport } from '../../engine/postgres/index.ts';

it('tells each time what a pass left undone, and goes on after one that failed', async () => {
  const telemetry = createTelemetry('silent');
  const warn = vi.spyOn(telemetry.log, 'warn');
  const said = (): unknown[] => warn.mock.calls.splice(0).map(([fields]) => fields);
  const nothing: MaintenanceReport = { created: [], skipped: [], dropped: [], refused: [] };
  const skipped = [{ name: 'start_keys', reason: 'some are left' }];
  const refused = [
    { weekMs: Date.UTC(2026, 2, 2), sagas: 7, refusal: '1 sagas have not ended' },
    { weekMs: Date.UTC(2026, 2, 9), sagas: null, refusal: 'Postgres refused' },
  ];
  const failure = new Error('away');
  const maintain = vi
    .fn<(options: object) => Promise<MaintenanceReport>>()
    .mockResolvedValueOnce({ ...nothing, skipped, refused })
    .mockRejectedValueOnce(failure)
    .mockResolvedValue(nothing);
  let nextPass = (): void => undefined;
  const sleep = async (_ms: number, signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      nextPass = resolve;
      signal.addEventListener('abort', () => resolve());
    });
  const settled = async (): Promise<void> => {
    await new Promise(setImmediate);
  };
  const closers = new Closers();
  const parts = {
    telemetry,
    settings: { SAGAX_RETENTION_DAYS: 30 },
    postgres: { maintain, clock: { sleep } },
  };
  keepMaintained(parts as unknown as Connections, closers);
  const figures = async (): Promise<unknown[]> =>
    Promise.all(
      ['sagax_weeks_kept', 'sagax_maintenance_left'].map(
        async (name) => (await telemetry.registry.getSingleMetric(name)?.get())?.values[0]?.value,
      ),
    );

  await settled();
  expect(maintain).toHaveBeenCalledWith({
    retentionMs: 30 * 86_400_000,
    signal: expect.any(AbortSignal) as AbortSignal,
  });
  expect(said()).toEqual([
    { skipped },
    {
      weeks: [
        { week: '2026-03-02', sagas: 7, reason: '1 sagas have not ended' },
        { week: '2026-03-09', sagas: null, reason: 'Postgres refused' },
      ],
    },
  ]);
  expect(await figures()).toEqual([2, 1]);

  nextPass();
  await settled();
  expect(said()).toEqual([{ err: failure }]);
  expect(await figures()).toEqual([2, 1]);

  nextPass();
  await settled();
  expect(said()).toEqual([]);
  expect(await figures()).toEqual([0, 0]);
  await closers.close();
  expect(maintain).toHaveBeenCalledTimes(3);
});
