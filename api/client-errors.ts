/**
 * Connections that break HTTP's rules or this server's limits before there is a request to route.
 *
 * Guards that even these get a problem document, and that the connection ends.
 */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { ApiError, problemOf } from './problems.ts';

/** Answers on the bare socket, as there is no response object, and closes it. */
export function answerClientError(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return;
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const problem = problemOf(refusalOf(error.code));
  const body = JSON.stringify(problem);
  socket.end(
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status] ?? ''}\r\n` +
      'content-type: application/problem+json; charset=utf-8\r\n' +
      `content-length: ${Buffer.byteLength(body)}\r\n` +
      `connection: close\r\n\r\n${body}`,
  );
}

function refusalOf(code: string | undefined): ApiError {
  switch (code) {
    case 'HPE_HEADER_OVERFLOW':
      return new ApiError('PAYLOAD_REFUSED', 'The headers are over the limit of 16 KiB.', {
        status: 431,
      });
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new ApiError('INPUT_INVALID', 'The request did not come in time; send it faster.', {
        status: 408,
      });
    default:
      return new ApiError('INPUT_INVALID', 'This is not a valid HTTP/1.1 request.', {
        status: 400,
      });
  }
}
