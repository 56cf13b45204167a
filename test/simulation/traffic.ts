/**
 * Who uses the engine in a simulation: clients that start sagas and send signals, cancels and verbs, an
 * operator who tends what is stuck, and outside systems that answer later.
 *
 * Guards that what was accepted is known: an input counts as accepted when its publish had resolved.
 */
import { SagaxError } from '../../engine/core/errors.ts';
import { CE_TYPES, encodeMessage, topicNames } from '../../engine/core/wire.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { OperatorAction, SagaEvent } from '../../engine/core/events.ts';
import type { Json } from '../../engine/core/json.ts';
import { murmur2, partitionOf } from '../../engine/core/shards.ts';
import type { BusMessage, SagaSummary } from '../../engine/ports.ts';
import type { AcceptedInput } from './evidence.ts';
import { SERVED } from './participants.ts';
import { drawInput, drawSignalPayload } from './plan.ts';
import { TOPIC_PREFIX, type ClientRole, type Setting } from './processes.ts';

const PUBLISH_TRIES = 12;
const OPERATOR_ACTS_PER_SAGA = 6;
const INBOX = topicNames(TOPIC_PREFIX).inbox;

type Kind = AcceptedInput['kind'];

export class Traffic {
  readonly accepted: AcceptedInput[] = [];
  readonly ids: { process: string; id: string }[] = [];
  /** Which sagas a start key was answered with. */
  readonly keyed = new Map<string, Set<string>>();
  /** Requests whose outcome the client still waits for. */
  pending = 0;
  readonly #setting: Setting;
  readonly #clients: readonly ClientRole[];
  readonly #acts = new Map<string, number>();
  #requests = 0;

  constructor(setting: Setting, clients: readonly ClientRole[]) {
    this.#setting = setting;
    this.#clients = clients;
  }

  /** Schedules all that clients do by themselves. */
  begin(): void {
    const { world, plan } = this.#setting;
    for (let n = 0; n < plan.sagas; n++) {
      const definition = world.random.pick(plan.definitions);
      world.schedule(world.random.int(0, plan.chaosMs * 0.6), () => this.#start(definition, n));
    }
    world.schedule(3_000, () => this.#tend());
  }

  // -------------------------------------------------------------- starts

  #start(definition: AnyDefinition, n: number): void {
    const { plan, world } = this.#setting;
    const input = drawInput(definition, n, world.random);
    if (!world.random.chance(plan.keyedChance))
      return void this.#startOnce(definition, input, null);
    // Two requests with one key, side by side: one saga must come of them.
    void this.#startOnce(definition, input, `key-${n}`);
    void this.#startOnce(definition, input, `key-${n}`);
  }

  async #startOnce(definition: AnyDefinition, input: object, key: string | null): Promise<void> {
    const { world } = this.#setting;
    const client = world.random.pick(this.#clients);
    const { node, ports } = client;
    let sagaId = await this.#makeId(client);
    if (sagaId === null) return;
    if (key !== null) {
      const won = await this.#reserve(client, definition, sagaId, key);
      if (won === null) return;
      sagaId = won;
      this.keyed.set(key, (this.keyed.get(key) ?? new Set()).add(sagaId));
    }
    const parsed = (definition.input as { parse(value: object): Json }).parse(input);
    const body = {
      sagaId,
      namespace: 'default',
      definition: definition.name,
      definitionVersion: definition.version,
      input: parsed,
      attributes: { n: 1 },
    };
    if (!node.alive || ports.host !== node) return;
    await this.#send('start', sagaId, sagaId, body, client);
    this.#poke(definition, sagaId);
  }

  async #makeId(client: ClientRole): Promise<string | null> {
    const { node } = client;
    for (let tries = 0; tries < 40 && node.alive; tries++) {
      try {
        let id: string | undefined;
        // More ids than are used, so that rivals would be found out.
        for (let i = 0; i < 5; i++) {
          id = client.snowflakes?.next();
          if (id !== undefined) this.ids.push({ process: node.name, id });
        }
        if (id !== undefined) return id;
      } catch (error) {
        this.#setting.world.count('id refused');
        this.#countError(error);
      }
      await node.clock.sleep(250);
    }
    return null;
  }

  async #reserve(
    { node, ports }: ClientRole,
    { name }: AnyDefinition,
    sagaId: string,
    idempotencyKey: string,
  ): Promise<string | null> {
    const reservation = { namespace: 'default', definition: name, sagaId, idempotencyKey };
    for (let tries = 0; tries < PUBLISH_TRIES; tries++) {
      try {
        const won = await ports.startKeys.reserve({ ...reservation, fingerprint: 'same' });
        return won.sagaId;
      } catch (error) {
        this.#countError(error);
        await node.clock.sleep(300);
      }
    }
    return null;
  }

  /** What happens to a saga from outside, at drawn times. */
  #poke(definition: AnyDefinition, sagaId: string): void {
    const { world, plan } = this.#setting;
    const { random } = world;
    const later = (run: () => void): void => world.schedule(random.int(100, 12_000), run);
    const signals = Object.keys(definition.signals);
    for (let n = 0; n < plan.signalsPerSaga && signals.length > 0; n++) {
      later(() => this.#signal(sagaId, random.pick(signals)));
    }
    if (random.chance(plan.cancelChance)) {
      later(() => this.#request('cancel', sagaId, { reason: 'changed my mind', by: 'client' }));
    }
    if (random.chance(plan.blunderChance)) later(() => this.#blunder(definition, sagaId));
    if (random.chance(plan.pauseChance)) {
      later(() => this.operate(sagaId, { verb: 'pause' }));
      later(() => this.operate(sagaId, { verb: 'resume' }));
    }
  }

  #signal(sagaId: string, name: string): void {
    const signalId = `s${++this.#requests}`;
    const payload = drawSignalPayload(name);
    this.#submit('signal', sagaId, signalId, {
      sagaId,
      namespace: 'default',
      signalId,
      name,
      payload,
    });
  }

  /** What a client sends by mistake: it must be refused and parked, and change nothing. */
  #blunder(definition: AnyDefinition, sagaId: string): void {
    const id = `b${++this.#requests}`;
    const { random } = this.#setting.world;
    const signal = { sagaId, namespace: 'default', signalId: id, payload: {} };
    const verb = { sagaId, namespace: 'default', requestId: id, by: 'operator', reason: 'drawn' };
    const [name = 'go'] = Object.keys(definition.signals);
    const never = `${BigInt(sagaId) + 1n}`;
    const start = { namespace: 'default', input: {}, attributes: {} };
    const blunders: (() => void)[] = [
      () => this.#submit('signal', sagaId, id, { ...signal, name: 'no-such-signal' }),
      () => this.#submit('signal', sagaId, id, { ...signal, name, payload: 'no object' }),
      () => this.#submit('signal', never, id, { ...signal, sagaId: never, name }),
      () => this.#submit('signal', sagaId, id, { ...signal, namespace: 'another', name }),
      () =>
        this.#submit('operator', sagaId, id, {
          ...verb,
          action: { verb: 'retry', commandId: `${sagaId}.99` },
        }),
      () =>
        this.#submit('start', never, never, {
          ...start,
          sagaId: never,
          definition: 'no-such-saga',
          definitionVersion: 1,
        }),
    ];
    this.#setting.world.count('blunder');
    if (random.chance(0.15)) return this.#answerUnasked(sagaId);
    random.pick(blunders)();
  }

  /** A participant that answers what nobody asked it. */
  #answerUnasked(sagaId: string): void {
    const { lasting, plan } = this.#setting;
    const commandId = `${sagaId}.99`;
    const head = { commandId, sagaId, namespace: 'default', attempt: 1 };
    const message = this.#encode('reply', sagaId, `${commandId}#1#succeeded`, {
      ...head,
      outcome: 'succeeded',
      output: {},
    });
    const partition = partitionOf(sagaId, plan.shards);
    lasting.broker.append([{ ...message, topic: INBOX, partition }]);
  }

  #request(kind: 'cancel', sagaId: string, more: object): void {
    const requestId = `r${++this.#requests}`;
    this.#submit(kind, sagaId, requestId, { sagaId, namespace: 'default', requestId, ...more });
  }

  operate(sagaId: string, action: OperatorAction): void {
    const requestId = `r${++this.#requests}`;
    const head = { sagaId, namespace: 'default', requestId, by: 'operator', reason: 'drawn' };
    this.#setting.world.count(`operator ${action.verb}`);
    this.#submit('operator', sagaId, requestId, { ...head, action });
  }

  /** Sends it, sometimes twice under one id, by two clients. */
  #submit(kind: Kind, sagaId: string, id: string, body: object): void {
    const { random } = this.#setting.world;
    void this.#send(kind, sagaId, id, body, random.pick(this.#clients));
    if (random.chance(0.2)) void this.#send(kind, sagaId, id, body, random.pick(this.#clients));
  }

  async #send(
    kind: Kind,
    sagaId: string,
    id: string,
    body: object,
    client: ClientRole,
  ): Promise<void> {
    const { world, plan } = this.#setting;
    const { node } = client;
    const stray = kind !== 'start' && world.random.chance(plan.strayChance);
    const partition = stray
      ? world.random.int(0, plan.shards - 1)
      : partitionOf(sagaId, plan.shards);
    const message = this.#encode(kind, sagaId, `${kind}:${id}`, body);
    this.pending += 1;
    world.schedule(60_000, () => (this.pending -= 1));
    for (let tries = 0; tries < PUBLISH_TRIES; tries++) {
      try {
        await client.ports.bus.publish([{ ...message, topic: INBOX, partition }]);
        if (node.alive) this.accepted.push({ kind, sagaId, id });
        return;
      } catch (error) {
        this.#countError(error);
        await node.clock.sleep(300);
      }
    }
  }

  #countError(error: unknown): void {
    if (error instanceof SagaxError) this.#setting.world.count(`code ${error.code}`);
  }

  #encode(
    kind: Kind | 'reply',
    sagaId: string,
    id: string,
    body: object,
  ): Omit<BusMessage, 'topic' | 'partition'> {
    const { now } = this.#setting.world;
    const envelope = { type: CE_TYPES[kind], id, source: '/sim/client', at: now, sagaId };
    return encodeMessage(envelope, body);
  }

  // -------------------------------------------------------------- answers that come later

  /** An outside system answers a pending command after a while, or never. */
  completeLater(commandId: string, sagaId: string, output: Json): void {
    const { world, lasting, plan, participants } = this.#setting;
    if (world.random.chance(0.1)) return world.count('pending for ever');
    world.schedule(world.random.int(200, 15_000), () => {
      participants.outside.complete(commandId, world.now);
      const body = {
        commandId,
        sagaId,
        namespace: 'default',
        attempt: 1,
        outcome: 'succeeded',
        output,
      };
      const message = this.#encode('reply', sagaId, `${commandId}#1#succeeded`, body);
      // Told by a system that does not go away, so straight into the lasting state.
      lasting.broker.append([
        { ...message, topic: INBOX, partition: partitionOf(sagaId, plan.shards) },
      ]);
      world.count('answered later');
    });
  }

  /** Garbage, as any producer may put it on any topic. */
  poison(): void {
    const { world, lasting, plan } = this.#setting;
    const service = world.random.pick(plan.definitions.flatMap(({ services }) => services));
    const commands = topicNames(TOPIC_PREFIX).commands(service);
    const topic = world.random.pick([INBOX, commands, commands]);
    const value = world.random.pick([null, '', '{', '{"sagaId":1}', '[[[[]]]]']);
    const headers = world.random.pick([
      {},
      { ce_type: CE_TYPES.reply },
      { ce_type: CE_TYPES.command },
    ]);
    world.count('poison message');
    try {
      lasting.broker.appendRaw({
        topic,
        partition: 0,
        key: null,
        value,
        headers: { ...headers, poison: '1' },
      });
    } catch {
      // The topic is not there yet.
    }
  }

  // -------------------------------------------------------------- the operator

  /** Looks for what is stuck, and acts on a part of it; some is left alone for good. */
  #tend(): void {
    const { world, plan, lasting } = this.#setting;
    for (const summary of lasting.db.summaries.values()) {
      if (summary.status !== 'stuck') continue;
      const share = (murmur2(new TextEncoder().encode(`tend${summary.sagaId}`)) & 0xffff) / 0xffff;
      const acts = this.#acts.get(summary.sagaId) ?? 0;
      if (share >= plan.operatorChance || acts >= OPERATOR_ACTS_PER_SAGA) continue;
      this.#acts.set(summary.sagaId, acts + 1);
      this.#mend(summary);
    }
    world.schedule(world.random.int(2_000, 9_000), () => this.#tend());
  }

  #mend(summary: SagaSummary): void {
    const { world, lasting } = this.#setting;
    const events = lasting.db.stream(summary.sagaId).map(({ event }) => event);
    const commandId = stuckCommand(events);
    if (commandId === null) {
      if (world.random.chance(0.5)) this.operate(summary.sagaId, { verb: 'retry' });
      else this.#request('cancel', summary.sagaId, { reason: 'broken', by: 'operator' });
      return;
    }
    const output = outputOf(events, commandId);
    const verbs: OperatorAction[] = [
      { verb: 'retry', commandId },
      { verb: 'retry', commandId },
      { verb: 'resolve', commandId, ...(output === null ? {} : { output }) },
      { verb: 'skip', commandId },
    ];
    this.operate(summary.sagaId, world.random.pick(verbs));
  }

  /** Sagas that are still paused go on; called once faults have stopped. */
  resumeAll(): void {
    for (const { sagaId, status } of this.#setting.lasting.db.summaries.values()) {
      if (status === 'paused') this.operate(sagaId, { verb: 'resume' });
    }
  }
}

/** The last command that got stuck and has not come unstuck; null for a faulted input. */
function stuckCommand(events: readonly SagaEvent[]): string | null {
  const stuck = new Set<string | null>();
  for (const event of events) {
    if (event.type === 'SagaStuck') stuck.add(event.commandId ?? null);
    if (event.type === 'SagaUnstuck') stuck.delete(event.commandId ?? null);
  }
  return [...stuck].at(-1) ?? null;
}

/** What the step that a command is about would have answered. */
function outputOf(events: readonly SagaEvent[], commandId: string): Json | null {
  const stepId = commandId.replace(/\.[cs]$/, '');
  for (const event of events) {
    if (event.type !== 'StepRequested' || event.commandId !== stepId) continue;
    const served = SERVED.find(({ contract }) => contract.name === event.command);
    return (served?.output(stepId) ?? null) as Json | null;
  }
  return null;
}
