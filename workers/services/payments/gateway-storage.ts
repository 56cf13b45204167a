/**
 * The gateway's books in SQL. Each method is one or two statements that commit on their own, since a
 * caller's transaction does not reach the gateway.
 */
import { first, type Sql } from '../sql.ts';
import type { GatewayOperation, GatewayStorage } from './gateway.ts';

interface OperationRow {
  idempotency_key: string;
  operation_id: string;
  kind: GatewayOperation['kind'];
  status: GatewayOperation['status'];
  target: string;
  amount_cents: string;
  decline_code: string | null;
}

const COLUMNS = 'idempotency_key, operation_id, kind, status, target, amount_cents, decline_code';

function fromRow(row: OperationRow): GatewayOperation {
  return {
    idempotencyKey: row.idempotency_key,
    operationId: row.operation_id,
    kind: row.kind,
    status: row.status,
    target: row.target,
    amountCents: Number(row.amount_cents),
    declineCode: row.decline_code,
  };
}

/** @param sql a pool, or a connection outside any transaction */
export function sqlGatewayStorage(sql: Sql): GatewayStorage {
  return {
    async record(operation) {
      const inserted = await first<OperationRow>(
        sql,
        `INSERT INTO payment_gateway.operations (${COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT DO NOTHING RETURNING ${COLUMNS}`,
        [
          operation.idempotencyKey,
          operation.operationId,
          operation.kind,
          operation.status,
          operation.target,
          operation.amountCents,
          operation.declineCode,
        ],
      );
      if (inserted !== undefined) return { operation: fromRow(inserted), fresh: true };
      const known = await first<OperationRow>(
        sql,
        `SELECT ${COLUMNS} FROM payment_gateway.operations WHERE idempotency_key = $1`,
        [operation.idempotencyKey],
      );
      return known === undefined ? null : { operation: fromRow(known), fresh: false };
    },

    async find(operationId) {
      const row = await first<OperationRow>(
        sql,
        `SELECT ${COLUMNS} FROM payment_gateway.operations WHERE operation_id = $1`,
        [operationId],
      );
      return row === undefined ? null : fromRow(row);
    },

    async admit(idempotencyKey, fencingToken) {
      const row = await first<{ requests: number }>(
        sql,
        `INSERT INTO payment_gateway.requests AS r (idempotency_key, requests, fencing_token)
         VALUES ($1, 1, $2)
         ON CONFLICT (idempotency_key) DO UPDATE
           SET requests = r.requests + 1, fencing_token = excluded.fencing_token
         WHERE r.fencing_token <= excluded.fencing_token
         RETURNING requests`,
        [idempotencyKey, fencingToken],
      );
      return row?.requests ?? null;
    },
  };
}
