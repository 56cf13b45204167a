/**
 * `sagax keys`: API keys from the command line, by whoever has the database's password.
 *
 * Guards that a whole key goes to standard output once and nowhere else, and that each making and revoking is in the
 * audit trail. Touches nothing but keys: on a new database it makes the schema and fixes no shard count.
 */
import { randomUUID } from 'node:crypto';
import { userInfo } from 'node:os';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { makeKey } from '../api/access/keys.ts';
import { SagaxError } from '../engine/core/errors.ts';
import { namespaceSchema } from '../engine/core/wire.ts';
import {
  ROLES,
  type ApiKey,
  type ApiKeys,
  type AuditLog,
  type Role,
} from '../engine/ports-access.ts';
import { postgresApiKeys, postgresAuditLog } from '../engine/postgres/access.ts';
import { createPool, Database, migrate } from '../engine/postgres/index.ts';
import type { Settings } from './settings.ts';

export const KEYS_USAGE = `  keys      API keys: keys create --role reader|operator|admin [--namespace NAME]… [--name TEXT]
            --expires 30d|12h|never, keys list, keys revoke ID, keys generate (for SAGAX_ADMIN_KEY)
`;

const UNIT_MS = { m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** Wrong usage of the command; the caller exits with the code for that. */
export class UsageError extends Error {}

export interface KeyOrder {
  role: Role;
  /** null: all. */
  namespaces: string[] | null;
  name: string;
  /** ms from now; null: never. */
  lifetimeMs: number | null;
}

/** @throws UsageError */
export function parseKeyOrder(args: readonly string[]): KeyOrder {
  const { values } = parse(args);
  const role = z.enum(ROLES).safeParse(values.role);
  if (!role.success) throw new UsageError('`keys create` needs --role reader, operator or admin');
  const namespaces = z.array(namespaceSchema).safeParse(values.namespace ?? []);
  if (!namespaces.success)
    throw new UsageError('--namespace takes lower-case letters, digits and "-"');
  const { data } = namespaces;
  return {
    role: role.data,
    namespaces: data.length === 0 ? null : data,
    name: (values.name ?? 'made on the command line').slice(0, 128),
    lifetimeMs: lifetimeOf(values.expires),
  };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        role: { type: 'string' },
        namespace: { type: 'string', multiple: true },
        name: { type: 'string' },
        expires: { type: 'string' },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function lifetimeOf(text: string | undefined): number | null {
  if (text === 'never') return null;
  const match = /^([1-9]\d{0,5})([mhd])$/.exec(text ?? '');
  if (match === null) {
    throw new UsageError('`keys create` needs --expires: minutes, hours or days (30d), or never');
  }
  return Number(match[1]) * UNIT_MS[match[2] as keyof typeof UNIT_MS];
}

/**
 * @returns what goes to standard output, and what to standard error
 * @throws UsageError; SagaxError CONFIG_INVALID, DATABASE_UNAVAILABLE
 */
export async function runKeys(
  args: readonly string[],
  settings: Settings,
): Promise<{ out: string; note: string }> {
  const [verb, ...rest] = args;
  if (verb === 'generate' && rest.length === 0) {
    return { out: makeKey().key, note: 'Set it as SAGAX_ADMIN_KEY. It is kept nowhere else.' };
  }
  if (verb === 'create') {
    const order = parseKeyOrder(rest);
    if (parse(rest).positionals.length === 0)
      return onDatabase(settings, (at) => create(at, order));
  }
  if (verb === 'list' && rest.length === 0) {
    return onDatabase(settings, async ({ keys, now }) => ({
      out: table(await keys.list(), now),
      note: '',
    }));
  }
  const [id] = rest;
  if (verb === 'revoke' && id !== undefined && rest.length === 1) {
    return onDatabase(settings, (at) => revoke(at, id));
  }
  throw new UsageError('there are keys create, keys list, keys revoke ID and keys generate');
}

interface At {
  keys: ApiKeys;
  auditLog: AuditLog;
  /** By the database's clock, ms. */
  now: number;
}

async function onDatabase<T>(settings: Settings, work: (at: At) => Promise<T>): Promise<T> {
  const url = settings.SAGAX_LOG_DATABASES?.[0] ?? settings.DATABASE_URL;
  if (url === undefined) {
    throw new SagaxError(
      'CONFIG_INVALID',
      '`keys` needs DATABASE_URL. For the embedded Postgres of `npm start` set SAGAX_ADMIN_KEY (`keys generate` prints ' +
        'one), and make keys by POST /v1/keys.',
    );
  }
  await migrate({ url });
  const pool = createPool({ url, applicationName: 'sagax-keys', max: 1 });
  try {
    const db = new Database(pool);
    const [row] = await db.read<{ now: string }>({
      text: 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now',
    });
    const now = Number(row?.now);
    return await work({ keys: postgresApiKeys(db), auditLog: postgresAuditLog(db), now });
  } finally {
    await pool.end();
  }
}

/** Who is at the command line, by the system. A container's user may have a number and no name. */
export function whoActs(look: () => { username: string } = userInfo): string {
  let name: string;
  try {
    name = look().username;
  } catch {
    name = `uid ${process.getuid?.() ?? 'unknown'}`;
  }
  return `cli:${name}`.slice(0, 160);
}

async function audited<T>(
  { auditLog }: At,
  act: { action: string; target: string; reason: string | null },
  work: () => Promise<T>,
): Promise<T> {
  const entry = { ...act, principal: whoActs(), role: 'admin' as const, namespace: null };
  const id = await auditLog.begin({ ...entry, requestId: randomUUID(), address: null });
  const done = await work();
  await auditLog.finish(id, { status: 200, code: null });
  return done;
}

async function create(at: At, order: KeyOrder): Promise<{ out: string; note: string }> {
  const { role, namespaces, name, lifetimeMs } = order;
  const { id, key, hash } = makeKey();
  const expiresAt = lifetimeMs === null ? null : at.now + lifetimeMs;
  const stored = { id, hash, name, role, namespaces, createdBy: whoActs(), expiresAt };
  await audited(at, { action: 'createKey', target: id, reason: name }, () =>
    at.keys.create(stored),
  );
  return {
    out: key,
    note: `Key ${id}: ${role} of ${shown(namespaces)}, ${ends(expiresAt)}. It is shown this once.`,
  };
}

async function revoke(at: At, id: string): Promise<{ out: string; note: string }> {
  const act = { action: 'revokeKey', target: id, reason: null };
  const found = await audited(at, act, () => at.keys.revoke(id));
  if (!found) throw new SagaxError('KEY_UNKNOWN', `There is no API key ${id}; see \`keys list\`.`);
  return { out: '', note: `Key ${id} is revoked; every API refuses it within 10 seconds.` };
}

const shown = (namespaces: readonly string[] | null): string =>
  namespaces === null ? 'all namespaces' : namespaces.join(', ');
const day = (ms: number): string => new Date(ms).toISOString().slice(0, 16).replace('T', ' ');
const ends = (expiresAt: number | null): string =>
  expiresAt === null ? 'without an end' : `until ${day(expiresAt)} UTC`;

function table(keys: readonly ApiKey[], now: number): string {
  const rows = keys.map((key) => [
    key.id,
    key.role,
    stateOf(key, now),
    key.usedAt === null ? 'never used' : `used ${day(key.usedAt)}`,
    shown(key.namespaces),
    key.name,
  ]);
  const widths = [0, 1, 2, 3, 4].map((n) => Math.max(0, ...rows.map((row) => row[n]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, n) => cell.padEnd(widths[n] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function stateOf({ revokedAt, expiresAt }: ApiKey, now: number): string {
  if (revokedAt !== null) return `revoked ${day(revokedAt)}`;
  if (expiresAt !== null && expiresAt <= now) return `expired ${day(expiresAt)}`;
  return ends(expiresAt);
}
