/** The order saga on DBOS: a workflow with steps, started and awaited in its own process by POST /run. */
import { createServer } from 'node:http';
import { DBOS } from '@dbos-inc/dbos-sdk';
import { openParticipants } from './remote.mjs';

const perform = await openParticipants();

async function runOrder({ orderId, fail }) {
  const step = (command, input) =>
    DBOS.runStep(() => perform(command, `${DBOS.workflowID}-${command}`, input), { name: command });
  const compensations = [];
  const reserved = await step('reserve', { orderId });
  compensations.push(() => step('release', { bookingId: reserved.bookingId }));
  const charged = await step('charge', { orderId });
  compensations.push(() => step('refund', { bookingId: charged.bookingId }));
  const shipped = await step('ship', { orderId, fail });
  if (shipped.rejected === undefined) return { outcome: 'completed' };
  for (const compensate of compensations.reverse()) await compensate();
  return { outcome: 'compensated' };
}
const order = DBOS.registerWorkflow(runOrder, { name: 'order' });

DBOS.setConfig({
  name: 'bench',
  systemDatabaseUrl: process.env.BENCH_DATABASE_URL,
  systemDatabasePoolSize: Number(process.env.BENCH_CONNECTIONS ?? 20),
  logLevel: 'warn',
});
await DBOS.launch();

const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    DBOS.startWorkflow(order)(JSON.parse(Buffer.concat(chunks).toString()))
      .then((handle) => handle.getResult())
      .then(
        (result) => response.writeHead(200).end(JSON.stringify(result)),
        (error) => response.writeHead(500).end(JSON.stringify({ error: String(error) })),
      );
  });
});
server.keepAliveTimeout = 60_000;
server.listen(0, '127.0.0.1', () => console.log(`ready ${JSON.stringify({ port: server.address().port })}`));
process.once('SIGTERM', () => process.exit(0));
