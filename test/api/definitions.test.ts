/** Definitions as the API shows them: schemas, steps, the machine, the Mermaid diagram. */
import { describe, expect, it } from 'vitest';
import { createMachine, type AnyStateMachine } from 'xstate';
import { Catalog } from '../../api/catalog.ts';
import { machineView } from '../../api/machine-view.ts';
import { mermaidOf } from '../../api/mermaid.ts';
import { openApi, visit } from './support.ts';

describe('definitions', () => {
  it('are listed by their newest version', async () => {
    const { app } = await openApi();
    const { items } = (await app.inject('/v1/definitions')).json();
    expect(items).toMatchObject([{ name: 'visit', version: 2, versions: [2, 1] }]);
    expect((await app.inject(items[0].links.self)).json()).toMatchObject({ version: 2 });
  });

  it('show schemas, steps and the machine', async () => {
    const { app } = await openApi();
    const body = (await app.inject('/v1/definitions/visit/versions/1')).json();
    expect(body).toMatchObject({
      name: 'visit',
      version: 1,
      description: 'A visit to a city.',
      services: ['mail', 'money', 'travel'],
      input: { type: 'object', required: ['city'], properties: { cents: { default: 100 } } },
      signals: { approve: { required: ['by'] } },
    });
    expect(body.steps).toContainEqual(
      expect.objectContaining({
        step: 'book',
        class: 'compensatable',
        command: 'travel.book-flight',
        compensateWith: 'travel.cancel-flight',
        timeoutMs: 10_000,
        rejections: { SoldOut: expect.objectContaining({ required: ['next'] }) },
      }),
    );
    const booking = body.machine.states[0];
    expect(booking).toMatchObject({
      id: 'visit.booking',
      invoke: [{ src: 'book', command: 'travel.book-flight', class: 'compensatable' }],
      transitions: [
        { on: 'done of book', targets: ['visit.checking'], guard: null, actions: ['assign'] },
        { on: 'error of book', targets: ['visit.compensating'] },
      ],
    });
  });

  it('are refused when unknown, with what is known', async () => {
    const { app } = await openApi();
    const name = await app.inject('/v1/definitions/nope');
    expect([name.statusCode, name.json().detail]).toEqual([
      404,
      'No definition "nope" is known here. Known: visit.',
    ]);
    const version = await app.inject('/v1/definitions/visit/versions/3');
    expect(version.json().detail).toContain('Known: 2, 1.');
    expect((await app.inject('/v1/definitions/visit/versions/x')).statusCode).toBe(400);
  });

  it('are drawn as Mermaid', async () => {
    const { app } = await openApi();
    const response = await app.inject('/v1/definitions/visit?format=mermaid');
    expect(response.headers['content-type']).toBe('text/vnd.mermaid; charset=utf-8');
    expect(response.body).toBe(`stateDiagram-v2
  [*] --> s_booking
  state "booking · travel.book-flight (compensatable)" as s_booking
  s_booking --> s_checking : done of book
  s_booking --> s_compensating : error of book
  state "checking" as s_checking
  s_checking --> s_waiting : always [expensive]
  s_checking --> s_paying : always
  state "waiting" as s_waiting
  s_waiting --> s_paying : approve
  s_waiting --> s_compensating : after 60000 ms
  state "paying · money.pay (pivot)" as s_paying
  s_paying --> s_telling : done of pay
  s_paying --> s_compensating : error of pay
  state "telling · mail.tell (retriable)" as s_telling
  s_telling --> s_done : done of tell
  state "compensating · compensate" as s_compensating
  s_compensating --> s_cancelled : done of compensate
  state "done" as s_done
  s_done --> [*]
  state "cancelled" as s_cancelled
  s_cancelled --> [*]
`);
  });

  it('are refused when one name and version is given twice', () => {
    expect(() => new Catalog([visit, visit])).toThrow(/given twice/);
  });
});

describe('mermaid', () => {
  const draw = (machine: AnyStateMachine): string => mermaidOf(machineView(machine, new Map()));

  it('draws regions, nested states and history, and moves arrows between boxes to the end', () => {
    const text = draw(
      createMachine({
        id: 'm',
        initial: 'both',
        states: {
          both: {
            type: 'parallel',
            onDone: 'end',
            states: {
              left: {
                initial: 'a',
                states: { a: { on: { go: 'b', stop: '#m.end' } }, b: { type: 'final' } },
              },
              right: { initial: 'x', states: { x: {}, back: { type: 'history' } } },
            },
          },
          end: { type: 'final' },
        },
      }),
    );
    expect(text).toBe(`stateDiagram-v2
  [*] --> s_both
  state "both" as s_both
  state s_both {
    [*] --> s_both_left
    state "left" as s_both_left
    state s_both_left {
      [*] --> s_both_left_a
      state "a" as s_both_left_a
      s_both_left_a --> s_both_left_b : go
      state "b" as s_both_left_b
      s_both_left_b --> [*]
    }
    --
    [*] --> s_both_right
    state "right" as s_both_right
    state s_both_right {
      [*] --> s_both_right_x
      state "x" as s_both_right_x
      state "back (history)" as s_both_right_back
    }
  }
  s_both --> s_end : done
  state "end" as s_end
  s_end --> [*]
  s_both_left_a --> s_end : stop
`);
  });

  it('keeps strange names apart and out of the syntax', () => {
    const text = draw(
      createMachine({
        id: 'm',
        initial: 'a-b',
        states: {
          'a-b': { on: { 'x: "y" --> z;\n%% end': 'a_b' } },
          a_b: { on: { ping: {} } },
          'ünï "q"': {},
        },
      }),
    );
    const lines = text.trimEnd().split('\n').slice(1);
    const grammar =
      /^ +(state "[^"\n:;#%]+" as \w+|(\w+|\[\*\]) --> (\w+|\[\*\])( : [^"\n:;#%<>]+)?)$/;
    for (const line of lines) expect(line).toMatch(grammar);
    expect(text).toContain('as s_a_b\n');
    expect(text).toContain('as s_a_b_2\n');
    // A transition without a target keeps the state.
    expect(text).toContain('s_a_b_2 --> s_a_b_2 : ping');
  });

  it('gives the machine a box of its own where transitions leave from every state', () => {
    const text = draw(
      createMachine({ id: 'm', initial: 'a', on: { stop: '.b' }, states: { a: {}, b: {} } }),
    );
    expect(text).toContain('  [*] --> s_m\n  state "m" as s_m\n  state s_m {\n    [*] --> s_a\n');
    expect(text).toContain('\n  s_m --> s_b : stop\n');
  });
});
