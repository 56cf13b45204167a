/**
 * Without authentication the API is for the person at this machine alone.
 *
 * Guards that machine's browser: a web page can't use the API behind its owner's back, neither by a request to another
 * origin (CSRF) nor by a name of its own that it has lead to the loopback address (DNS rebinding).
 */
import type { IncomingHttpHeaders } from 'node:http';
import { ApiError } from '../problems.ts';

/** Whether a host (no port) can be reached from this machine only. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^\[(.*)\]$/, '$1');
  return name === 'localhost' || name === '::1' || /^127(\.\d{1,3}){3}$/.test(name);
}

/** @throws ApiError FORBIDDEN when the request is not one that the machine's own user can have meant */
export function assertLocal(headers: IncomingHttpHeaders): void {
  const host = headers.host ?? '';
  if (!isLoopback(host.replace(/:\d+$/, ''))) {
    throw new ApiError(
      'FORBIDDEN',
      'This API runs without authentication, for this machine alone: call it as localhost or 127.0.0.1. ' +
        'For others set SAGAX_AUTH=on and give them keys.',
    );
  }
  const { origin } = headers;
  const site = headers['sec-fetch-site'];
  const isForeign = origin !== undefined && hostOf(origin) !== host.toLowerCase();
  if (isForeign || (site !== undefined && site !== 'same-origin' && site !== 'none')) {
    throw new ApiError(
      'FORBIDDEN',
      'This API runs without authentication and takes no requests from web pages of other origins. ' +
        'Set SAGAX_AUTH=on and send a key.',
    );
  }
}

function hostOf(origin: string): string | null {
  return URL.canParse(origin) ? new URL(origin).host : null;
}
