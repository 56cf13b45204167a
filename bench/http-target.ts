/** A system that answers a POST when the saga has ended, as the driver sees it. */
import { Agent, request } from 'node:http';
import type { Target, Work } from './load.ts';

export class HttpTarget implements Target {
  readonly #url: string;
  readonly #agent = new Agent({ keepAlive: true });
  #number = 0;

  constructor(url: string) {
    this.#url = url;
  }

  watch(): void {
    // The answer comes by itself.
  }

  async run(work: Work): Promise<'completed' | 'compensated'> {
    this.#number += 1;
    const input = { orderId: `order-${this.#number}`, fail: work === 'compensated' };
    const { status, body } = await postJson(this.#agent, this.#url, input);
    if (status !== 200) throw new Error(`The system answered ${status}: ${body}`);
    return (JSON.parse(body) as { outcome: 'completed' | 'compensated' }).outcome;
  }

  async close(): Promise<void> {
    this.#agent.destroy();
  }
}

export function postJson(
  agent: Agent,
  url: string,
  value: unknown,
): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const text = JSON.stringify(value);
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
    };
    const call = request(url, { agent, method: 'POST', headers }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('error', reject);
      answer.on('end', () =>
        resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }),
      );
    });
    call.on('error', reject);
    call.end(text);
  });
}
