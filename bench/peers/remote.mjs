/** Calls the participants over HTTP, or in this process; both give the same answers. */
import { Agent, request } from 'node:http';
import { openWork } from './work.mjs';

const agent = new Agent({ keepAlive: true, maxSockets: 256 });

/** `BENCH_PARTICIPANTS` is the port of participants.mjs; without it their work is done in this process. */
export async function openParticipants() {
  const port = process.env.BENCH_PARTICIPANTS;
  if (port !== undefined) return (command, commandId, input) => post(Number(port), command, { commandId, input });
  const { perform } = await openWork();
  return perform;
}

function post(port, command, body) {
  return new Promise((resolve, reject) => {
    const text = JSON.stringify(body);
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const call = request({ agent, port, host: '127.0.0.1', path: `/${command}`, method: 'POST', headers }, (answer) => {
      const chunks = [];
      answer.on('data', (chunk) => chunks.push(chunk));
      answer.on('error', reject);
      answer.on('end', () => {
        const parsed = JSON.parse(Buffer.concat(chunks).toString());
        if (answer.statusCode === 200 || answer.statusCode === 409) resolve(parsed);
        else reject(new Error(`${command} answered ${answer.statusCode}: ${parsed.error}`));
      });
    });
    call.on('error', reject);
    call.end(text);
  });
}
