/**
 * The gate: every route says whom it is for, and nobody else gets through.
 *
 * Guards default-deny by structure: a route without `config.access` can't be registered, so that none is left open by
 * being forgotten; what is no route asks for a reader too, so that strangers learn of none.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ApiError } from '../problems.ts';
import type { ApiDeps, ResolvedOptions } from '../deps.ts';
import { Authenticator } from './authenticate.ts';
import { assertLocal } from './loopback.ts';
import { hasRole, LOCAL, type Access, type Principal } from './principal.ts';
import { callerOf, RateLimit } from './rate.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Whom the route is for. */
    access?: Access;
    /** The route shows or changes what is not of one namespace: only for principals of all namespaces. */
    allNamespaces?: boolean;
  }
  interface FastifyRequest {
    /** Set before any handler of a route that is not public. */
    principal: Principal;
  }
}

/** Failures in a row that are let pass: somebody's script with yesterday's key. */
const FAILURE_BURST = 20;

export class Gate {
  readonly #authenticator: Authenticator | null;
  readonly #rate: RateLimit;

  constructor(app: FastifyInstance, deps: ApiDeps, options: ResolvedOptions) {
    const { clock, access } = deps;
    const now = (): number => clock.monotonic();
    const { rateLimitPerS: perSecond, authFailuresPerMin } = options;
    this.#rate = new RateLimit({ perSecond, burst: perSecond, now });
    this.#authenticator = access.required
      ? new Authenticator({
          keys: access.apiKeys,
          clock,
          failures: new RateLimit({
            perSecond: authFailuresPerMin / 60,
            burst: Math.min(FAILURE_BURST, authFailuresPerMin),
            now,
          }),
          log: {
            broken: (error) => app.log.warn({ err: error }, 'Credentials could not be checked.'),
            refused: (why, address, keyId) =>
              app.log.warn({ why, address, keyId }, 'Credentials were refused.'),
          },
          ...(access.adminKey !== undefined && { adminKey: access.adminKey }),
          ...(access.jwt !== undefined && { jwt: access.jwt }),
        })
      : null;
  }

  /** @throws ApiError UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, IDENTITY_UNAVAILABLE; SagaxError DATABASE_UNAVAILABLE */
  async admit(request: FastifyRequest): Promise<void> {
    const { access, allNamespaces } = request.routeOptions.config;
    if (access === 'public' && !request.is404) {
      this.#count(callerOf(request.ip));
      return;
    }
    request.principal = await this.#identify(request);
    const needed = request.is404 ? 'reader' : (access ?? 'admin');
    if (needed !== 'public' && !hasRole(request.principal, needed)) {
      throw new ApiError(
        'FORBIDDEN',
        `This needs the role ${needed}; yours is ${request.principal.role}.`,
      );
    }
    if (allNamespaces === true && request.principal.namespaces !== null) {
      throw new ApiError(
        'FORBIDDEN',
        'This is not of one namespace; it needs credentials for all of them.',
      );
    }
  }

  /** Whether who began a long answer may still have it: keys are revoked, tokens end. */
  async stillAdmits(request: FastifyRequest): Promise<boolean> {
    if (this.#authenticator === null) return true;
    const { authorization } = request.headers;
    try {
      await this.#authenticator.authenticate(authorization, callerOf(request.ip));
      return true;
    } catch (error) {
      // What can't be told now is told at the next look; the stream itself needs the database too.
      return !(error instanceof ApiError && error.code === 'UNAUTHENTICATED');
    }
  }

  async #identify(request: FastifyRequest): Promise<Principal> {
    const address = callerOf(request.ip);
    if (this.#authenticator === null) {
      assertLocal(request.headers);
      this.#count(address);
      return LOCAL;
    }
    const { authorization } = request.headers;
    // Who brings nothing costs nothing but the answer; it counts for the address.
    if (authorization === undefined) this.#count(address);
    const principal = await this.#authenticator.authenticate(authorization, address);
    this.#count(principal.name);
    return principal;
  }

  #count(caller: string): void {
    const waitS = this.#rate.take(caller);
    if (waitS === 0) return;
    throw new ApiError(
      'RATE_LIMITED',
      'More requests than this process takes from one caller. Try again after the time in Retry-After.',
      { retryAfterS: waitS },
    );
  }
}

/** Must be called before any route is registered. */
export function registerGate(app: FastifyInstance, gate: Gate): void {
  app.addHook('onRoute', ({ method, url, config }) => {
    if (config?.access !== undefined) return;
    throw new Error(
      `${String(method)} ${url} says not whom it is for: set config.access to reader, operator, admin or public.`,
    );
  });
  app.decorateRequest('principal', null as never);
  app.addHook('onRequest', (request) => gate.admit(request));
}
