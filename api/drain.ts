/**
 * The connections of the process, and their end.
 *
 * Guards that closing ends in time, whatever clients do (keep connections open, drip their bodies, read nothing), and
 * that an answer which can be out by then is not cut off. On return of the server's `close` there is no connection.
 */
import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock } from '../engine/ports.ts';

export class Connections {
  readonly #server: Server;
  /** What each connection is being answered; nothing for an idle one. */
  readonly #answers = new Map<Socket, Set<ServerResponse>>();
  #draining = false;

  constructor(server: Server) {
    this.#server = server;
    server.on('connection', (socket) => {
      this.#answers.set(socket, new Set());
      socket.once('close', () => this.#answers.delete(socket));
    });
    server.on('request', ({ socket }, response) => {
      this.#answers.get(socket)?.add(response);
      response.once('close', () => this.#answered(socket, response));
    });
    // The server's `close` asks for it. Node's own takes a connection for idle, and ends it, whose answer has been
    // written but not read yet.
    server.closeIdleConnections = () => this.#closeIdle();
  }

  /**
   * From now on connections end with their answers.
   * @param done aborted when all have ended
   * @returns how many had not by `ms`, and were cut off
   */
  async drain(clock: Clock, ms: number, done: AbortSignal): Promise<number> {
    this.#draining = true;
    this.#closeIdle();
    for (const answers of this.#answers.values()) {
      const [only, ...more] = answers;
      // Where others follow on the same connection, it has to stay.
      if (more.length === 0 && only?.headersSent === false) only.setHeader('connection', 'close');
    }
    if (!(await clock.sleep(ms, done))) return 0;
    const late = this.#answers.size;
    this.#server.closeAllConnections();
    return late;
  }

  #closeIdle(): void {
    for (const [socket, answers] of this.#answers) if (answers.size === 0) socket.destroy();
  }

  #answered(socket: Socket, response: ServerResponse): void {
    const answers = this.#answers.get(socket);
    answers?.delete(response);
    if (this.#draining && answers?.size === 0) socket.destroySoon();
  }
}
