/** The participants of the peers as a service of their own: POST /<command> { commandId, input }, over HTTP with keep-alive. */
import { createServer } from 'node:http';
import { openWork } from './work.mjs';

const work = await openWork();

const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const { commandId, input } = JSON.parse(Buffer.concat(chunks).toString());
    work.perform(request.url.slice(1), commandId, input).then(
      (answer) => send(response, answer.rejected === undefined ? 200 : 409, answer),
      (error) => send(response, 500, { error: String(error) }),
    );
  });
});

function send(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

server.keepAliveTimeout = 60_000;
server.listen(0, '127.0.0.1', () => console.log(`ready ${JSON.stringify({ port: server.address().port })}`));
process.once('SIGTERM', () => process.exit(0));
