/**
 * Settings of who may use the API, and how much of it.
 *
 * Guards that an API is open only by an explicit word, and only to its own machine. Secrets are marked, so that they are
 * never shown.
 */
import { isIP } from 'node:net';
import { z } from 'zod';
import { isLoopback } from '../api/access/loopback.ts';
import { parseKey } from '../api/access/keys.ts';

const claim = z.string().min(1).max(128).optional();
const whole = (from: number, to: number): z.ZodType<number> =>
  z.string().regex(/^\d+$/, 'a whole number').transform(Number).pipe(z.int().min(from).max(to));

/** Keys are fetched over TLS: whoever can change them on their way can sign tokens. */
function isSafeUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const url = new URL(text);
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url.hostname));
}

const isNetwork = (text: string): boolean => {
  const [address = '', bits] = text.split('/');
  const family = isIP(address);
  if (bits === undefined) return family !== 0;
  return family !== 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128);
};

export const ACCESS_SETTINGS = {
  SAGAX_AUTH: {
    schema: z.enum(['on', 'off']).optional(),
    what: 'whether callers of the API must bring credentials: on or off; off needs SAGAX_HOST to be a loopback address; default: off for `start` on a loopback address, else on',
    example: 'on',
  },
  SAGAX_ADMIN_KEY: {
    schema: z
      .string()
      .refine((text) => parseKey(text) !== null, 'a whole key, sgx_…')
      .optional(),
    what: 'an API key of an admin over everything, to begin with; `npm run -s sagax -- keys generate` prints a new one',
    example: 'sgx_…',
    secret: true,
  },
  SAGAX_JWKS_URL: {
    schema: z
      .string()
      .refine(isSafeUrl, 'an https:// URL (http:// on a loopback address only)')
      .optional(),
    what: "the identity provider's public keys (JWKS); its tokens are taken then",
    example: 'https://id.example.com/.well-known/jwks.json',
  },
  SAGAX_JWT_ISSUER: {
    schema: z.string().min(1).optional(),
    what: '`iss` that a token must have',
    example: 'https://id.example.com/',
  },
  SAGAX_JWT_AUDIENCE: {
    schema: z.string().min(1).optional(),
    what: '`aud` that a token must have',
    example: 'sagax',
  },
  SAGAX_JWT_ROLE_CLAIM: {
    schema: claim,
    what: 'claim with the role (reader, operator or admin, or a list with one in it), a name or a path with dots; default: sagax_role',
    example: 'realm_access.roles',
  },
  SAGAX_JWT_NAMESPACES_CLAIM: {
    schema: claim,
    what: 'claim with the namespaces, a list or text with blanks between; * is all; default: sagax_namespaces',
    example: 'sagax_namespaces',
  },
  SAGAX_RATE_LIMIT_PER_S: {
    schema: whole(1, 1_000_000).default(10_000),
    what: 'requests a second that one caller may make of one API process',
    example: '10000',
  },
  SAGAX_AUTH_FAILURES_PER_MIN: {
    schema: whole(1, 100_000).default(30),
    what: 'refused credentials a minute after which an address may try no others',
    example: '30',
  },
  SAGAX_MAX_CONNECTIONS: {
    schema: whole(10, 1_000_000).default(10_000),
    what: 'connections of one API process; more are closed at once',
    example: '10000',
  },
  SAGAX_TRUST_PROXY: {
    schema: z
      .string()
      .transform((text) => text.split(',').map((part) => part.trim()))
      .pipe(z.array(z.string().refine(isNetwork, 'an address or a network')).min(1))
      .optional(),
    what: 'addresses or networks of proxies whose X-Forwarded-For is believed, comma-separated; default: none',
    example: '10.0.0.0/8',
  },
} as const;

interface Given {
  SAGAX_AUTH?: 'on' | 'off' | undefined;
  SAGAX_HOST: string;
  SAGAX_JWKS_URL?: string | undefined;
  SAGAX_JWT_ISSUER?: string | undefined;
  SAGAX_JWT_AUDIENCE?: string | undefined;
}

/** What is wrong between settings that are right by themselves. */
export function accessProblems(given: Given): string[] {
  const problems: string[] = [];
  if (given.SAGAX_AUTH === 'off' && !isLoopback(given.SAGAX_HOST)) {
    problems.push(
      `SAGAX_AUTH=off lets in everyone who reaches SAGAX_HOST=${given.SAGAX_HOST}. Leave SAGAX_AUTH out and make keys ` +
        '(`npm run -s sagax -- keys create --role admin --expires 90d`), or listen on 127.0.0.1.',
    );
  }
  const jwt = [given.SAGAX_JWKS_URL, given.SAGAX_JWT_ISSUER, given.SAGAX_JWT_AUDIENCE];
  const set = jwt.filter((value) => value !== undefined).length;
  if (set !== 0 && set !== jwt.length) {
    problems.push(
      'SAGAX_JWKS_URL, SAGAX_JWT_ISSUER and SAGAX_JWT_AUDIENCE go together: set all three or none.',
    );
  }
  return problems;
}
