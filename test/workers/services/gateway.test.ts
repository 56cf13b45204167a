/** The simulated payment gateway with its books in memory. */
import { describe } from 'vitest';
import type {
  GatewayOperation,
  GatewayStorage,
} from '../../../workers/services/payments/gateway.ts';
import { gatewayCases } from './gateway-cases.ts';

const operations: GatewayOperation[] = [];
const requests = new Map<string, { count: number; fencingToken: bigint }>();

const storage: GatewayStorage = {
  record: async (operation) => {
    const known = operations.find((o) => o.idempotencyKey === operation.idempotencyKey);
    if (known !== undefined) return { operation: known, fresh: false };
    const refunded = operations.some((o) => o.kind === 'refund' && o.target === operation.target);
    if (operation.kind === 'refund' && refunded) return null;
    operations.push(operation);
    return { operation, fresh: true };
  },
  find: async (operationId) => operations.find((o) => o.operationId === operationId) ?? null,
  admit: async (key, token) => {
    const seen = requests.get(key) ?? { count: 0, fencingToken: 0n };
    if (BigInt(token) < seen.fencingToken) return null;
    requests.set(key, { count: seen.count + 1, fencingToken: BigInt(token) });
    return seen.count + 1;
  },
};

describe('the payment gateway, its books in memory', () => {
  gatewayCases(
    () => storage,
    async (prefix) => operations.filter((o) => o.idempotencyKey.startsWith(prefix)).length,
  );
});
