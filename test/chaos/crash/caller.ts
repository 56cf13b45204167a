/**
 * A client of the API for what the load leaves out: reads of each kind, API keys, dead letters and their redrive, starts
 * that are said twice.
 *
 * Guards that what was acknowledged holds after the death of the process that acknowledged it: a key that was made opens,
 * one that was revoked is listed so, a letter that was redriven is in the inbox again, a start that is repeated names the
 * same saga. What got no answer is asked again, as a good client does.
 */
import { setTimeout as pause } from 'node:timers/promises';
import {
  isInjected,
  type DeadLetterRow,
  type Evidence,
  type Violation,
} from '../checker/evidence.ts';
import { Stranger } from '../messages/stranger.ts';
import type { Stage } from '../stage.ts';
import { Requests, type Answer } from '../wire/requests.ts';
import type { Beside } from './campaign.ts';
import { completes } from './shapes.ts';

/** Between two rounds of one kind; a life must pass each soon after its start. */
const PAUSE_MS = 250;
const LETTERS = 4;
/** Apart from the load's own, whose sagas are counted from 0. */
const FIRST_ORDER = 1_000_000;
/** Of a message that can't be read. A letter of any other code is none of ours. */
const LETTER_CODE = 'MESSAGE_INVALID';

export function isOurLetter({ topic, code }: DeadLetterRow): boolean {
  return topic.endsWith('.inbox') && code === LETTER_CODE;
}

export class Caller implements Beside {
  readonly #stage: Stage;
  readonly #url: string;
  readonly #stop = new AbortController();
  readonly #requests: Requests;
  readonly #wrong: string[] = [];
  readonly #redriven = new Set<string>();
  readonly #counts = { reads: 0, keys: 0, starts: 0 };
  #rounds: Promise<unknown> = Promise.resolve();

  private constructor(stage: Stage) {
    this.#stage = stage;
    this.#url = `http://127.0.0.1:${stage.env['SAGAX_PORT']}`;
    this.#requests = this.#client(`Bearer ${stage.env['SAGAX_ADMIN_KEY']}`);
  }

  /** On return there are letters to redrive, or will be as soon as the engine has read them. */
  static async begin(stage: Stage): Promise<Caller> {
    const stranger = new Stranger(stage.servers.brokers ?? []);
    const topic = `${stage.env['SAGAX_TOPIC_PREFIX']}.inbox`;
    const headers = { ce_type: 'sagax.reply.v1', ce_specversion: '1.0' };
    const letter = { kind: 'no JSON', topic, headers, key: 'none', value: '{"sagaId": "1' };
    try {
      await stranger.send(
        Array.from({ length: LETTERS }, (_, partition) => ({ ...letter, partition })),
      );
    } finally {
      await stranger.close();
    }
    const caller = new Caller(stage);
    caller.#rounds = Promise.all([
      caller.#again(() => caller.#read()),
      caller.#again(() => caller.#useKey()),
      caller.#again(() => caller.#redrive()),
      caller.#again((n) => caller.#startTwice(n)),
    ]);
    return caller;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#rounds;
  }

  get notes(): { [name: string]: number } {
    const { reads, keys, starts } = this.#counts;
    const letters = this.#redriven.size;
    return { reads, keys_made: keys, starts_said_twice: starts, letters_redriven: letters };
  }

  judge(evidence: Evidence): Violation[] {
    const found = [...this.#wrong, ...this.#requests.wrong];
    const inInbox = evidence.messages.filter(isInjected).length;
    if (inInbox < LETTERS + this.#redriven.size) {
      found.push(`${this.#redriven.size} letters were redriven, and the inbox has ${inInbox}`);
    }
    for (const [name, count] of Object.entries(this.notes)) {
      if (count === 0) found.push(`the campaign was to have ${name}, and has none`);
    }
    return found.map((what): Violation => ({ invariant: 'I4', sagaId: null, what }));
  }

  #client(authorization: string): Requests {
    return new Requests(() => this.#url, this.#stop.signal, { authorization });
  }

  async #again(round: (n: number) => Promise<void>): Promise<void> {
    const { signal } = this.#stop;
    for (let n = 0; !signal.aborted; n++) {
      try {
        await round(n);
        await pause(PAUSE_MS, undefined, { signal });
      } catch (error) {
        if (!signal.aborted) this.#wrong.push(String(error));
      }
    }
  }

  #expect(what: string, { status, body }: Answer, wanted: readonly number[]): boolean {
    if (wanted.includes(status)) return true;
    this.#wrong.push(`${what} was answered by ${status} ${JSON.stringify(body)}`);
    return false;
  }

  async #read(): Promise<void> {
    const get = async (path: string): Promise<void> => {
      // Not found: its start is durable, but not applied yet.
      this.#expect(`GET ${path}`, await this.#requests.get(path), [200, 202, 404]);
      this.#counts.reads += 1;
    };
    const { accepted } = this.#stage.load;
    const sagaId = accepted.at(-1)?.sagaId ?? '1';
    await get('/readyz');
    await get('/v1/shards');
    await get('/v1/sagas?limit=5');
    await get(`/v1/sagas/${sagaId}`);
    await get(`/v1/sagas/${sagaId}/history`);
    await get(`/v1/sagas/${sagaId}/result?wait=1`);
  }

  /** A key is made, opens a door, is revoked, and is listed as what it is at each time. */
  async #useKey(): Promise<void> {
    const order = { name: 'of a campaign', role: 'reader', namespaces: null, expiresAt: null };
    const made = await this.#requests.post('/v1/keys', '', order);
    if (!this.#expect('the making of a key', made, [201])) return;
    this.#counts.keys += 1;
    const { id, key } = made.body as { id: string; key: string };
    const read = await this.#client(`Bearer ${key}`).get('/v1/sagas?limit=1');
    this.#expect('a read under a key that was made', read, [200]);
    const revoked = await this.#requests.post(`/v1/keys/${id}/revoke`, '', {});
    if (!this.#expect('the revoking of a key', revoked, [200])) return;
    const { body } = await this.#requests.get('/v1/keys');
    const items = body['items'] as { id: string; revokedAt: string | null }[] | undefined;
    if (typeof items?.find((one) => one.id === id)?.revokedAt !== 'string') {
      this.#wrong.push(`the key ${id} was revoked, and is not listed so`);
    }
  }

  async #redrive(): Promise<void> {
    const list = await this.#requests.get('/v1/dead-letters?limit=5');
    if (!this.#expect('the list of dead letters', list, [200])) return;
    const [letter] = (list.body['items'] ?? []) as { id: string }[];
    if (letter === undefined) return;
    const path = `/v1/dead-letters/${letter.id}`;
    const answer = await this.#requests.post(`${path}/redrive`, '', {});
    if (!this.#expect(`the redrive of letter ${letter.id}`, answer, [200, 202])) return;
    this.#redriven.add(letter.id);
    const { body } = await this.#requests.get(path);
    if (typeof body['redrivenAt'] !== 'string') {
      this.#wrong.push(`letter ${letter.id} was redriven, and is shown as ${JSON.stringify(body)}`);
    }
  }

  async #startTwice(n: number): Promise<void> {
    const { definition, input } = completes.draw(FIRST_ORDER + n);
    const start = { definition, input, businessKey: `twice-${n}` };
    const say = (): Promise<Answer> =>
      this.#requests.post('/v1/sagas', `twice-${n}`, start, { kind: 'start' });
    const [first, second] = [await say(), await say()];
    this.#expect('a start', first, [200, 202]);
    this.#expect('a start that is repeated', second, [200, 202]);
    if (first.body['sagaId'] !== second.body['sagaId']) {
      const ids = [first, second].map(({ body }) => String(body['sagaId']));
      this.#wrong.push(`the start twice-${n} made ${ids.join(', then ')}`);
    }
    this.#counts.starts += 1;
    // Which process answered is not known here, so the order of ids within one can't be told from them.
    for (const one of this.#requests.accepted.splice(0)) {
      this.#stage.load.accepted.push({ ...one, isFirstTry: false });
    }
  }
}
