/**
 * The clockwork of group membership: renews leases, looks at the groups, rebalances; for all subscriptions.
 *
 * Guards that leases are renewed well within their time, and that an idle process asks little: one look
 * every LOOK_MS, one renewal every third of a lease, and one for a member that is not known yet. While the database
 * is away it tries on; leases that ran out meanwhile and that another member took are found lost by the next renewal.
 */
import type { BusBells } from './bus-bells.ts';
import type { BusGroups, Held } from './bus-groups.ts';
import type { BusLog } from './bus-log.ts';
import type { PostgresSubscription } from './bus-subscription.ts';

/** How soon a partition that came free, or a new member, is seen: with the lease, within a second of its end. */
const LOOK_MS = 750;

export class BusMembership {
  readonly #groups: BusGroups;
  readonly #subscriptions: () => PostgresSubscription[];
  readonly #bells: Pick<BusBells, 'address' | 'isMember'>;
  readonly #log: BusLog;
  readonly #renewMs: number;
  /** Members that a renewal has made known to the others. */
  readonly #known = new WeakSet<PostgresSubscription>();
  #lastRenewal = Number.NEGATIVE_INFINITY;
  #closed = false;
  #woken = false;
  #endSleep: (() => void) | null = null;
  #loop: Promise<void> | null = null;

  constructor(
    groups: BusGroups,
    leaseMs: number,
    subscriptions: () => PostgresSubscription[],
    bells: Pick<BusBells, 'address' | 'isMember'>,
    log: BusLog,
  ) {
    this.#groups = groups;
    this.#renewMs = leaseMs / 3;
    this.#subscriptions = subscriptions;
    this.#bells = bells;
    this.#log = log;
  }

  /** Looks at once; a member of this process that is new is made known first. */
  wake(): void {
    this.#woken = true;
    this.#endSleep?.();
    if (!this.#closed) this.#loop ??= this.#run();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#endSleep?.();
    await this.#loop;
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      this.#woken = false;
      await this.#round().catch((err: unknown) =>
        this.#log.warn({ err }, 'bus membership could not be kept; trying again'),
      );
      if (!this.#woken && !this.#closed) await this.#sleep();
    }
  }

  async #round(): Promise<void> {
    const registered: PostgresSubscription[] = [];
    for (const subscription of this.#subscriptions()) {
      if (await subscription.register()) registered.push(subscription);
    }
    if (registered.length === 0) {
      this.#bells.isMember = false;
      return;
    }
    const isDue = performance.now() - this.#lastRenewal >= this.#renewMs;
    if (isDue || registered.some((subscription) => !this.#known.has(subscription)))
      await this.#renew(registered);
    const views = await this.#groups.view([...new Set(registered.map(({ group }) => group))]);
    for (const subscription of registered) {
      const view = views.get(subscription.group);
      if (view !== undefined) await subscription.rebalance(view);
    }
  }

  async #renew(subscriptions: readonly PostgresSubscription[]): Promise<void> {
    const bell = await this.#bells.address();
    const started = performance.now();
    const asked = subscriptions.map((subscription) => subscription.held());
    const members = subscriptions.map(({ group, member }) => ({ group, member }));
    const renewed = await this.#groups.renew(members, asked.flat(), bell);
    subscriptions.forEach((subscription, i) =>
      subscription.dropLost(renewed, asked[i] as readonly Held[]),
    );
    for (const subscription of subscriptions) this.#known.add(subscription);
    this.#bells.isMember = bell !== null;
    this.#lastRenewal = started;
  }

  async #sleep(): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, LOOK_MS);
      this.#endSleep = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#endSleep = null;
  }
}
