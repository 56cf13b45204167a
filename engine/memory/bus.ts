/**
 * `Bus` in memory: a client of a `MemoryBroker`, living in one host and dying with it.
 *
 * Guards the port's promises and its lack of promises: order per partition, at least once, lazily kept
 * commits; a member learns late that a partition was taken from it, and goes on delivering until then.
 */
import type { Bus, BusMessage, SubscribeOptions, Subscription } from '../ports.ts';
import type { MemoryBroker } from './broker.ts';
import { busUnavailable, type Host } from './host.ts';
import { MemorySubscription } from './subscription.ts';

export interface MemoryBusOptions {
  /** How long commits are gathered before they are kept. Default 0: kept at once. */
  commitIntervalMs?: number;
  /** Pause before messages come again whose `onBatch` rejected. Default 100 ms. */
  retryPauseMs?: number;
  /** Called for each publish that got through, so that a simulation can let it come a second time. */
  onPublished?: (messages: readonly BusMessage[]) => void;
}

export function memoryBus(broker: MemoryBroker, host: Host, options: MemoryBusOptions = {}): Bus {
  const subscriptions = new Set<MemorySubscription>();
  const io = <T>(point: string, work: () => T): Promise<T> =>
    host.io({ point, work, failure: () => busUnavailable(point) });
  return {
    kind: 'memory',
    ensureTopics: (specs) => io('bus.ensureTopics', () => broker.ensureTopics(specs)),
    publish: (messages) => {
      const copies = messages.map((message) => ({ ...message, headers: { ...message.headers } }));
      return host.io({
        point: 'bus.publish',
        work: () => {
          broker.append(copies);
          options.onPublished?.(copies);
        },
        partial: (share) => broker.append(copies.slice(0, Math.floor(share * copies.length))),
        failure: () => busUnavailable('bus.publish'),
      });
    },
    subscribe: (subscribe: SubscribeOptions): Subscription => {
      const subscription = new MemorySubscription(broker, host, subscribe, {
        commitIntervalMs: options.commitIntervalMs ?? 0,
        retryPauseMs: options.retryPauseMs ?? 100,
      });
      subscriptions.add(subscription);
      subscription.closed.then(
        () => subscriptions.delete(subscription),
        () => undefined,
      );
      return subscription;
    },
    endOffsets: (topic) => io('bus.endOffsets', () => broker.endOffsets(topic)),
    ping: () => io('bus.ping', () => undefined),
    close: async () => {
      await Promise.all([...subscriptions].map((subscription) => subscription.close()));
    },
  };
}
