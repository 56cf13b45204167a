/** The order saga on Restate, as its documentation writes one: steps in ctx.run, compensations in reverse on a terminal error. */
import { createServer } from 'node:http2';
import * as restate from '@restatedev/restate-sdk';
import { openParticipants } from './remote.mjs';

const perform = await openParticipants();

const order = restate.service({
  name: 'order',
  handlers: {
    run: async (ctx, { orderId, fail }) => {
      const compensations = [];
      const step = async (command, input) => {
        const answer = await ctx.run(command, () => perform(command, `${ctx.request().id}-${command}`, input));
        if (answer.rejected !== undefined) throw new restate.TerminalError(answer.rejected);
        return answer;
      };
      try {
        const reserved = await step('reserve', { orderId });
        compensations.push(() => step('release', { bookingId: reserved.bookingId }));
        const charged = await step('charge', { orderId });
        compensations.push(() => step('refund', { bookingId: charged.bookingId }));
        await step('ship', { orderId, fail });
        return { outcome: 'completed' };
      } catch (error) {
        if (!(error instanceof restate.TerminalError)) throw error;
        for (const compensate of compensations.reverse()) await compensate();
        return { outcome: 'compensated' };
      }
    },
  },
});

const server = createServer(restate.endpoint().bind(order).http2Handler());
server.listen(0, '127.0.0.1', () => console.log(`ready ${JSON.stringify({ port: server.address().port })}`));
process.once('SIGTERM', () => process.exit(0));
