/**
 * Why Kafka can't be used, in words that name the remedy; and bounded waits.
 *
 * Guards that a wrong setting can be told from a broker that is away. kafkajs tries both again in the same
 * way, so that a call ends at its time limit and knows no more than that: the sockets are watched, and
 * what the last one died of goes into the message. No secret does: only names of settings.
 */
import { connect as connectTcp, isIP } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { ISocketFactory } from 'kafkajs';
import { SagaxError } from '../core/errors.ts';

const KEEP_ALIVE_MS = 60_000;
/** An error's causes are looked at to this depth. */
const MAX_CAUSES = 8;
const ANY_REMEDY = 'Check that the brokers answer and that the topics exist';

export class DeadlineError extends Error {}

/** `work`, or DeadlineError after `ms`; `timer` is aborted then, so that the work can stop. */
export async function withDeadline<T>(
  work: Promise<T>,
  ms: number,
  timer?: AbortController,
): Promise<T> {
  let timeout: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timeout = setTimeout(() => {
      timer?.abort();
      reject(new DeadlineError('no answer in time'));
    }, ms);
  });
  // Whoever loses the race may still reject; that is no unhandled rejection.
  work.catch(() => undefined);
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timeout);
  }
}

export function unavailable(what: string, cause?: unknown, remedy = ANY_REMEDY): SagaxError {
  return new SagaxError(
    'BUS_UNAVAILABLE',
    `Kafka can't be used: ${what}. ${remedy}, then try again.`,
    { cause },
  );
}

/** What one bus has seen of its connections. */
export class Connections {
  readonly #settings: { tls: boolean; sasl: boolean };
  #last: { error: Error; at: number } | null = null;
  /** A broker has done what was asked: from then on it isn't for the settings that one can't be used. */
  #proved = false;

  constructor(settings: { tls: boolean; sasl: boolean }) {
    this.#settings = settings;
  }

  /** As kafkajs makes its sockets, and watched. */
  readonly socketFactory: ISocketFactory = ({ host, port, ssl, onConnect }) => {
    const name = isIP(host) === 0 ? { servername: host } : {};
    const socket = (ssl as typeof ssl | undefined)
      ? connectTls({ host, port, ...name, ...ssl }, onConnect)
      : connectTcp({ host, port }, onConnect);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.on('error', (error: Error) => this.#note(error));
    socket.on('end', () => this.#note(new Error(CLOSED)));
    return socket;
  };

  proved(): void {
    this.#proved = true;
  }

  /** @param startedAt when the call began, by the monotonic clock: older troubles aren't its cause */
  late(budgetMs: number, startedAt: number, cause?: unknown): SagaxError {
    const what = `no answer within ${budgetMs} ms`;
    const last = this.#last !== null && this.#last.at >= startedAt ? this.#last.error : null;
    if (last === null) return unavailable(what, cause);
    const told = `${what}; the last connection ended with "${last.message}"`;
    return unavailable(told, cause ?? last, this.#remedyFor(last));
  }

  /** What a failed call says. */
  failure(error: unknown, budgetMs: number, startedAt: number): SagaxError {
    if (error instanceof SagaxError) return error;
    if (error instanceof DeadlineError) return this.late(budgetMs, startedAt, error);
    return unavailable((error as Error).message, error, this.#remedyFor(error));
  }

  #note(error: Error): void {
    this.#last = { error, at: performance.now() };
  }

  #remedyFor(error: unknown): string {
    const facts = factsOf(error);
    const known = REMEDIES.find(({ signs }) => signs.some((sign) => facts.has(sign)));
    if (known !== undefined && !(this.#proved && known.alsoOfOutages)) return known.remedy;
    if (this.#proved || !CLOSINGS.some((sign) => facts.has(sign))) return ANY_REMEDY;
    const { tls, sasl } = this.#settings;
    const wants = [
      ...(tls ? [] : ['TLS (set KAFKA_TLS=true)']),
      ...(sasl ? [] : ['a login (set KAFKA_SASL_MECHANISM, _USERNAME and _PASSWORD)']),
    ];
    if (wants.length > 0) return `Check whether this port wants ${wants.join(' or ')}`;
    return 'Check that this port is one for TLS and a login, or unset KAFKA_TLS';
  }
}

const CLOSED = 'the broker closed the connection';
const NO_TLS = 'Client network socket disconnected before secure TLS connection was established';
/** How a broker ends a connection on which another protocol is spoken than it expects. */
const CLOSINGS = [CLOSED, 'KafkaJSConnectionClosedError', 'ECONNRESET'];

/** By the names, types and codes of kafkajs's and Node's errors. */
const REMEDIES: readonly { signs: readonly string[]; remedy: string; alsoOfOutages?: true }[] = [
  {
    signs: ['UNSUPPORTED_SASL_MECHANISM'],
    remedy: 'Set KAFKA_SASL_MECHANISM to one that the broker has enabled',
  },
  {
    signs: ['ILLEGAL_SASL_STATE'],
    remedy:
      'This port knows no login: unset KAFKA_SASL_MECHANISM, _USERNAME and _PASSWORD, or use the port that has one',
  },
  {
    signs: ['KafkaJSSASLAuthenticationError', 'SASL_AUTHENTICATION_FAILED'],
    remedy:
      'Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, and that the broker knows this user for KAFKA_SASL_MECHANISM',
  },
  {
    signs: ['ERR_TLS_CERT_ALTNAME_INVALID'],
    remedy: 'Name the brokers in KAFKA_BROKERS as their certificates name them',
  },
  {
    signs: ['CERT_HAS_EXPIRED', 'CERT_NOT_YET_VALID'],
    remedy: "Renew the brokers' certificates, or set this machine's clock",
  },
  {
    signs: ['INVALID_TIMESTAMP'],
    remedy:
      "Set this machine's clock, and let the topics have the brokers' time (message.timestamp.type=LogAppendTime)",
  },
  {
    signs: [
      'DEPTH_ZERO_SELF_SIGNED_CERT',
      'SELF_SIGNED_CERT_IN_CHAIN',
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'UNABLE_TO_GET_ISSUER_CERT',
      'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
      'CERT_UNTRUSTED',
      'CERT_SIGNATURE_FAILURE',
    ],
    remedy:
      "Set KAFKA_TLS_CA_FILE to the PEM of the authority that signed the brokers' certificates",
  },
  {
    signs: [
      'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED',
      'ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE',
      'ERR_SSL_SSL/TLS_ALERT_BAD_CERTIFICATE',
    ],
    remedy:
      'Set KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE to a client certificate that the brokers accept',
  },
  {
    signs: [NO_TLS, 'EPROTO', 'ERR_SSL_WRONG_VERSION_NUMBER', 'ERR_SSL_PACKET_LENGTH_TOO_LONG'],
    remedy: 'Check that this port speaks TLS, or unset KAFKA_TLS',
    alsoOfOutages: true,
  },
];

/** What brokers say of a topic that nothing can be published to. */
const TOPIC_FAULTS = [
  'UNKNOWN_TOPIC_OR_PARTITION',
  'INVALID_TOPIC_EXCEPTION',
  'TOPIC_AUTHORIZATION_FAILED',
] as const;
export type TopicFault = (typeof TOPIC_FAULTS)[number];

export function topicFaultOf(error: unknown): TopicFault | null {
  const facts = factsOf(error);
  return TOPIC_FAULTS.find((fault) => facts.has(fault)) ?? null;
}

/** What they say of a topic that is being made (or deleted); kafkajs tries the first of them once only. */
const NOT_YET = ['UNKNOWN_TOPIC_OR_PARTITION', 'LEADER_NOT_AVAILABLE', 'NOT_LEADER_FOR_PARTITION'];

export function topicNotYet(error: unknown): boolean {
  const facts = factsOf(error);
  return NOT_YET.some((answer) => facts.has(answer));
}

/** Name, type, code and message of an error and of all its causes. */
function factsOf(error: unknown): Set<string> {
  const facts = new Set<string>();
  let at = error;
  for (let depth = 0; at instanceof Error && depth < MAX_CAUSES; depth++) {
    const { name, type, code, message } = at as Error & { type?: string; code?: unknown };
    for (const fact of [name, type, code]) if (typeof fact === 'string') facts.add(fact);
    facts.add(message.replace(/^Connection error: /, ''));
    at = at.cause;
  }
  return facts;
}
