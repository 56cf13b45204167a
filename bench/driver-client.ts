/** The bench's side of the driver process: starts it, asks it one thing at a time, ends it. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Load, LoadResult, OnWindow } from './load.ts';
import type { SagaxAccess } from './sagax-target.ts';

const DRIVER = fileURLToPath(new URL('./driver.ts', import.meta.url));

export type TargetAddress = ({ kind: 'sagax' } & SagaxAccess) | { kind: 'http'; url: string };

export type DriverTask =
  | { kind: 'load'; load: Load }
  /** Starts sleeping sagas whose timers are due one after another. */
  | { kind: 'sleep'; count: number; first_due_at_ms: number; spread_ms: number }
  /** Wakes sleeping sagas by a signal. */
  | { kind: 'go'; sagaIds: readonly string[] }
  /** Waits for the ends of those that it put to sleep, or of all. */
  | { kind: 'awaitAll'; sagaIds: readonly string[] | null }
  /** Starts by REST, one or a batch a request, as fast as `lanes` connections can. */
  | { kind: 'rest'; url: string; lanes: number; batch: number; seconds: number };

export interface DriverRequest {
  open?: TargetAddress;
  task?: DriverTask;
}
export type DriverAnswer = { edge: 'begin' | 'end' } | { result: unknown } | { error: string };

export class Driver {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  static async open(address: TargetAddress): Promise<Driver> {
    const child = fork(DRIVER, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const driver = new Driver(child);
    await driver.#ask({ open: address });
    return driver;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  load(load: Load, onWindow: OnWindow): Promise<LoadResult> {
    return this.#ask({ task: { kind: 'load', load } }, onWindow) as Promise<LoadResult>;
  }

  sleep(task: Omit<DriverTask & { kind: 'sleep' }, 'kind'>): Promise<{ elapsed_ms: number }> {
    return this.#ask({ task: { kind: 'sleep', ...task } }) as Promise<{ elapsed_ms: number }>;
  }

  async go(sagaIds: readonly string[]): Promise<void> {
    await this.#ask({ task: { kind: 'go', sagaIds } });
  }

  /** @returns saga id and when its end was seen, ms since the epoch */
  awaitAll(sagaIds: readonly string[] | null): Promise<[string, number][]> {
    return this.#ask({ task: { kind: 'awaitAll', sagaIds } }) as Promise<[string, number][]>;
  }

  rest(task: Omit<DriverTask & { kind: 'rest' }, 'kind'>): Promise<{ per_s: number }> {
    return this.#ask({ task: { kind: 'rest', ...task } }) as Promise<{ per_s: number }>;
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'exit');
    this.#child.disconnect();
    await gone;
  }

  #ask(request: DriverRequest, onWindow: OnWindow = () => undefined): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        this.#child.off('message', listener);
        this.#child.off('exit', ended);
      };
      const listener = (answer: DriverAnswer): void => {
        if ('edge' in answer) return onWindow(answer.edge);
        done();
        if ('error' in answer) reject(new Error(`The driver failed: ${answer.error}`));
        else resolve(answer.result);
      };
      const ended = (): void => {
        done();
        reject(new Error('The driver ended.'));
      };
      this.#child.on('message', listener);
      this.#child.once('exit', ended);
      this.#child.send(request);
    });
  }
}
