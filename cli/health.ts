/** /healthz, /readyz and /metrics of processes that have no API: `engine` and `worker`. */
import { createServer } from 'node:http';
import { isIPv6, type AddressInfo } from 'node:net';
import { SagaxError } from '../engine/core/errors.ts';
import type { Closers, Connections } from './connect.ts';

/** Says in the log where it listens; does nothing when SAGAX_HEALTH_PORT is not set. @throws SagaxError PORT_TAKEN */
export async function startHealth(connections: Connections, closers: Closers): Promise<void> {
  const { settings, telemetry, postgres, bus } = connections;
  const port = settings.SAGAX_HEALTH_PORT;
  if (port === undefined) return;
  const answer = async (path: string): Promise<{ status: number; type: string; body: string }> => {
    switch (path) {
      case '/healthz':
        return { status: 200, type: 'application/json', body: '{"status":"up"}' };
      case '/readyz': {
        // A part of the log that is away leaves the shards of the others to work on.
        const missing: number[] = [];
        const [database, messages] = await Promise.allSettled([
          postgres.reader.ping({ onMissing: ({ part }) => missing.push(part) }),
          bus.ping(),
        ]);
        const ready = database.status === 'fulfilled' && messages.status === 'fulfilled';
        const body = JSON.stringify({
          status: ready ? 'ready' : 'not ready',
          database: database.status === 'fulfilled',
          bus: messages.status === 'fulfilled',
          ...(missing.length === 0 ? {} : { missingLogParts: missing }),
        });
        return { status: ready ? 200 : 503, type: 'application/json', body };
      }
      case '/metrics':
        return {
          status: 200,
          type: telemetry.registry.contentType,
          body: await telemetry.registry.metrics(),
        };
      default:
        return {
          status: 404,
          type: 'text/plain',
          body: 'There are /healthz, /readyz and /metrics.\n',
        };
    }
  };
  const server = createServer((request, response) => {
    void answer((request.url ?? '').split('?')[0] ?? '').then(({ status, type, body }) => {
      response.writeHead(status, { 'content-type': type }).end(body);
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'EADDRINUSE'
          ? new SagaxError(
              'PORT_TAKEN',
              `Port ${port} on ${settings.SAGAX_HOST} is in use; choose another SAGAX_HEALTH_PORT.`,
              { cause: error },
            )
          : error,
      ),
    );
    server.listen(port, settings.SAGAX_HOST, resolve);
  });
  closers.add(() => new Promise((resolve) => server.close(resolve)));
  const host = isIPv6(settings.SAGAX_HOST) ? `[${settings.SAGAX_HOST}]` : settings.SAGAX_HOST;
  const address = `http://${host}:${(server.address() as AddressInfo).port}`;
  telemetry.log.info({ address }, 'health and metrics are served');
}
