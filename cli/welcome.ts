/** What `npm start` prints when it is up: where it is, and what to try. */
import type { AnyDefinition } from '../engine/core/define.ts';

export interface WelcomeFacts {
  bus: string;
  /** Whether it asks nobody for credentials. */
  isOpen: boolean;
  /** The user's sagas; none when the examples run. */
  own: readonly AnyDefinition[];
  hasWorkers: boolean;
}

const EXAMPLE = `{
    "definition": "order",
    "input": { "orderId": "o-1", "email": "ann@example.com", "sku": "book", "quantity": 1, "amountCents": 4200,
      "card": "4242424242424242",
      "address": { "name": "Ann", "street": "Way 1", "city": "Ulm", "postalCode": "89073", "country": "DE" } } }`;

export function welcome(address: string, { bus, isOpen, own, hasWorkers }: WelcomeFacts): string {
  // Not SAGAX_…: those are settings, and what is none of them stops the next start in that terminal.
  const key = isOpen ? '' : ` -H "authorization: Bearer $API_KEY"`;
  const who = isOpen
    ? 'It asks nobody for credentials and serves this machine alone (SAGAX_AUTH=off).\n'
    : 'Callers need a key (SAGAX_AUTH=on).\n';
  const workers = hasWorkers
    ? ''
    : 'It runs no participants: name the module of your services in SAGAX_WORKERS, or run them elsewhere.\n';
  const [first] = own;
  const body = first === undefined ? EXAMPLE : `{ "definition": "${first.name}", "input": { … } }`;
  return `
Sagax is up at ${address} (bus: ${bus}).
${who}${workers}Try:

  curl -s ${address}/v1/sagas${key} -H 'prefer: wait=10' -H 'content-type: application/json' -d '${body}'

  curl -s ${address}/v1/sagas${key}            # what runs and what ran
  curl -s ${address}/openapi.json${key}        # the whole API

Ctrl-C drains and stops everything that was started; the data stays.
`;
}
