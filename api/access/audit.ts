/**
 * The audit trail: who did what, and how it ended, for each act that a person answers for.
 *
 * Guards that no act is without an entry: it is durable before the act begins, and if that fails there is no act. The
 * result is put in after the answer, whether or not the caller is still there; an entry without one tells that the process died in between. Starts are ordinary
 * traffic and not acts: their event is their record.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { AuditEntry, AuditLog } from '../../engine/ports-access.ts';
import type { watchEnds } from '../ends.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route is an act that is kept in the audit trail. */
    audited?: boolean;
  }
  interface FastifyRequest {
    /** The entry of this request; null for a request that is no act. */
    audit: { id: string; entry: AuditEntry } | null;
    /** Code of the problem that the answer is; null when it is none. */
    problemCode: string | null;
  }
}

const MAX_REASON_LENGTH = 1_024;

export function registerAudit(
  app: FastifyInstance,
  auditLog: AuditLog,
  onEnd: ReturnType<typeof watchEnds>,
): void {
  app.decorateRequest('audit', null);
  app.decorateRequest('problemCode', null);
  // After validation, so that what is written is of known form and size; before the handler, which acts.
  app.addHook('preHandler', async (request) => {
    if (request.routeOptions.config.audited !== true) return;
    const entry = entryOf(request);
    request.audit = { id: await auditLog.begin(entry), entry };
  });
  onEnd((request, reply) => {
    const { audit, problemCode: code } = request;
    const status = reply.statusCode;
    if (audit === null) {
      if (request.routeOptions.config.audited === true) logRefused(request, status);
      return;
    }
    request.log.info({ audit: { ...audit.entry, status, code } }, 'An act.');
    auditLog.finish(audit.id, { status, code }).catch((error: unknown) => {
      request.log.warn({ err: error, auditId: audit.id }, "An act's result could not be kept.");
    });
  });
}

/** Acts that were refused before they began (role, namespace, form) are told in the log; they changed nothing. */
function logRefused(request: FastifyRequest, status: number): void {
  const { action, principal } = entryOf(request);
  const refused = { action, principal, status, code: request.problemCode };
  request.log.info({ audit: refused, requestId: request.id }, 'An act was refused.');
}

function entryOf(request: FastifyRequest): AuditEntry {
  const params = request.params as { readonly [name: string]: string | undefined };
  const body = (request.body ?? {}) as { reason?: unknown; name?: unknown };
  const operation = operationOf(request);
  const isSignal = params['name'] !== undefined;
  const isOfSaga = params['sagaId'] !== undefined || params['commandId'] !== undefined;
  // A key's name says what it is for; the other acts have a reason.
  const reason = operation === 'createKey' ? body.name : isSignal ? undefined : body.reason;
  return {
    principal: request.principal?.name ?? 'nobody',
    role: request.principal?.role ?? 'reader',
    action: isSignal ? `${operation}:${params['name']}` : operation,
    namespace: params['namespace'] ?? (isOfSaga ? 'default' : null),
    target: params['sagaId'] ?? params['commandId'] ?? params['id'] ?? null,
    reason: typeof reason === 'string' ? reason.slice(0, MAX_REASON_LENGTH).toWellFormed() : null,
    requestId: request.id,
    address: request.ip,
  };
}

/** One name over both mounts. */
function operationOf(request: FastifyRequest): string {
  const { operationId } = request.routeOptions.schema as { operationId?: string };
  return (operationId ?? 'unknown').replace(/InNamespace$/, '');
}
