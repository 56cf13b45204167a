/** How the API puts inputs on the bus: batches, back-pressure, failures. */
import { describe, expect, it } from 'vitest';
import { Inbox } from '../../api/inbox.ts';
import { SagaxError } from '../../engine/core/errors.ts';
import { ManualClock } from '../../engine/memory/index.ts';
import type { BusMessage } from '../../engine/ports.ts';

/** A bus whose publishes end when the test says so. */
function slowBus() {
  const calls: { messages: readonly BusMessage[]; done: () => void; fail: (e: unknown) => void }[] =
    [];
  return {
    calls,
    publish: (messages: readonly BusMessage[]) =>
      new Promise<void>((done, fail) => calls.push({ messages, done, fail })),
  };
}

function openInbox(maxQueuedMessages = 10_000) {
  const bus = slowBus();
  const options = { bus, clock: new ManualClock(), topicPrefix: 't', shards: 4, maxQueuedMessages };
  const inbox = new Inbox(options);
  const message = (sagaId: string) =>
    inbox.message(
      `x:${sagaId}`,
      {
        type: 'cancel',
        body: { sagaId, namespace: 'default', requestId: 'r', reason: '', by: 'me' },
      },
      undefined,
    );
  return { bus, inbox, message };
}

describe('Inbox', () => {
  it('gathers what comes while a publish is under way into the next one', async () => {
    const { bus, inbox, message } = openInbox();
    const first = inbox.send([message('1')]);
    const rest = ['2', '3', '4'].map((id) => inbox.send([message(id)]));
    expect(bus.calls.map((call) => call.messages.length)).toEqual([1]);
    bus.calls[0]!.done();
    await first;
    await Promise.resolve();
    expect(bus.calls.map((call) => call.messages.map(({ key }) => key))).toEqual([
      ['1'],
      ['2', '3', '4'],
    ]);
    expect(inbox.queued).toBe(3);
    bus.calls[1]!.done();
    await Promise.all(rest);
    expect(inbox.queued).toBe(0);
  });

  it('fails those of a failed publish, and goes on with the next', async () => {
    const { bus, inbox, message } = openInbox();
    const first = inbox.send([message('1')]);
    const second = inbox.send([message('2')]);
    bus.calls[0]!.fail(new SagaxError('BUS_UNAVAILABLE', 'gone'));
    await expect(first).rejects.toThrow('gone');
    await Promise.resolve();
    bus.calls[1]!.done();
    await expect(second).resolves.toBeUndefined();
  });

  it('refuses beyond its limit, and has room again afterwards', async () => {
    const { bus, inbox, message } = openInbox(2);
    const sent = inbox.send([message('1'), message('2')]);
    await expect(inbox.send([message('3')])).rejects.toMatchObject({ code: 'OVERLOADED' });
    bus.calls[0]!.done();
    await sent;
    expect(() => inbox.assertRoom(2)).not.toThrow();
  });
});
