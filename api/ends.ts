/**
 * The end of each request: its answer is out, or it has come to one and nobody is there any more to take it.
 *
 * Guards what is kept of every request (audit trail, metrics) against clients that hang up: fastify's onResponse hook
 * is not run for those. Told once for each; the status is that of the answer, whether or not it could be given.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whether the request has come to an answer, and whether its end was told. */
    stage: 'open' | 'answered' | 'ended';
  }
}

type OnEnd = (request: FastifyRequest, reply: FastifyReply) => void;

/**
 * Must be called before any other hook is added: one that refuses a request stops those behind it.
 * @returns adds a listener, which must not throw
 */
export function watchEnds(app: FastifyInstance): (listener: OnEnd) => void {
  const listeners: OnEnd[] = [];
  const end: OnEnd = (request, reply) => {
    if (request.stage === 'ended') return;
    request.stage = 'ended';
    for (const listener of listeners) listener(request, reply);
  };
  app.decorateRequest('stage', 'open');
  app.addHook('onRequest', (request, reply, next) => {
    reply.raw.once('close', () => {
      // Else the handler is still at it; what it comes to is seen below. Streams send no answer, they take it over.
      if (request.stage === 'answered' || reply.sent) end(request, reply);
    });
    next();
  });
  app.addHook('onSend', (request, reply, payload, next) => {
    if (request.stage === 'open') request.stage = 'answered';
    if (reply.raw.destroyed) end(request, reply);
    next(null, payload);
  });
  app.addHook('onResponse', (request, reply, next) => {
    end(request, reply);
    next();
  });
  return (listener) => listeners.push(listener);
}
