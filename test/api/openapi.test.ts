/** The OpenAPI document is valid, complete, and true of real answers. */
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { beginning, openApi, type Answered, type TestApi } from './support.ts';

interface Operation {
  operationId: string;
  summary: string;
  description?: string;
  security: { [scheme: string]: string[] }[];
  tags: string[];
  parameters?: { name: string; in: string; required?: boolean; schema: object }[];
  requestBody?: { required: boolean; content: Record<string, { schema: object }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: object }> }>;
}
interface OpenApi {
  openapi: string;
  info: { title: string; version: string };
  tags: { name: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, object>; securitySchemes: Record<string, object> };
}

const documentOf = async ({ app }: TestApi): Promise<OpenApi> =>
  (await app.inject('/openapi.json')).json();
const operationsOf = (document: OpenApi) =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );

function ajvFor(document: OpenApi): Ajv2020 {
  const ajv = new Ajv2020({ strict: false, allErrors: true, validateFormats: false });
  ajv.addSchema(document, 'api');
  return ajv;
}

/** Says what is wrong with each answer by the document; an answer that is not in it is wrong too. */
function misfits(document: OpenApi, answered: readonly Answered[]): string[] {
  const ajv = ajvFor(document);
  const compiled = new Map<string, ValidateFunction>();
  const wrong: string[] = [];
  for (const { method, route, status, contentType, payload } of answered) {
    if (route === '' || (status === 404 && !(route in document.paths))) continue;
    const where = `${method} ${route} ${status} ${contentType}`;
    const response = document.paths[route]?.[method]?.responses[String(status)];
    if (response === undefined) {
      wrong.push(`${where}: not in the document`);
      continue;
    }
    if (payload === '' && response.content === undefined) continue;
    if (response.content?.[contentType] === undefined) {
      wrong.push(`${where}: no such content`);
      continue;
    }
    if (!contentType.endsWith('json')) continue;
    const pointer = [
      'paths',
      route,
      method,
      'responses',
      String(status),
      'content',
      contentType,
      'schema',
    ]
      .map((part) => encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1')))
      .join('/');
    const validate = compiled.get(where) ?? ajv.compile({ $ref: `api#/${pointer}` });
    compiled.set(where, validate);
    if (!validate(JSON.parse(payload))) wrong.push(`${where}: ${ajv.errorsText(validate.errors)}`);
  }
  return wrong;
}

describe('the OpenAPI document', () => {
  it('is a sound OpenAPI 3.1 document', async () => {
    const document = await documentOf(await openApi());
    expect(document.openapi).toBe('3.1.0');
    expect(document.info).toMatchObject({ title: 'Sagax', version: '0.1.0' });
    const operations = operationsOf(document);
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    const tags = new Set(document.tags.map(({ name }) => name));
    for (const { path, method, operation } of operations) {
      const where = `${method} ${path}`;
      expect(operation.summary, where).toMatch(/./);
      expect(
        operation.tags.every((tag) => tags.has(tag)),
        where,
      ).toBe(true);
      // Every path parameter is declared, and no other.
      const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path');
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
      expect(new Set(declared.map(({ name }) => name)), where).toEqual(new Set(inPath));
      expect(declared, where).toHaveLength(inPath.length);
      expect(
        declared.every((parameter) => parameter.required === true),
        where,
      ).toBe(true);
      for (const response of Object.values(operation.responses)) {
        expect(response.description, where).toMatch(/./);
      }
      expect(
        Object.keys(operation.responses).some((status) => status.startsWith('2')),
        where,
      ).toBe(true);
    }
  });

  it('says who may call each operation, and how they show it', async () => {
    const document = await documentOf(await openApi());
    expect(document.components.securitySchemes).toMatchObject({
      bearer: { type: 'http', scheme: 'bearer' },
    });
    const open: string[] = [];
    for (const { path, operation } of operationsOf(document)) {
      if (operation.security.length === 0) {
        open.push(path);
        continue;
      }
      expect(operation.security, path).toEqual([{ bearer: [] }]);
      expect(operation.description, path).toMatch(/For the role (reader|operator|admin) and above/);
      const refusals = ['401', '403', '429'];
      expect(Object.keys(operation.responses), path).toEqual(expect.arrayContaining(refusals));
    }
    expect(new Set(open)).toEqual(new Set(['/healthz', '/readyz']));
  });

  it('has schemas that are JSON Schema 2020-12, and no reference to nowhere', async () => {
    const document = await documentOf(await openApi());
    const ajv = new Ajv2020({ strict: false });
    const isSchema = ajv.getSchema('https://json-schema.org/draft/2020-12/schema');
    let schemas = 0;
    const references: string[] = [];
    const check = (schema: object): void => {
      schemas += 1;
      expect(isSchema?.(schema), JSON.stringify(schema)).toBe(true);
    };
    const walk = (node: unknown): void => {
      if (typeof node !== 'object' || node === null) return;
      for (const [key, value] of Object.entries(node)) {
        if (key === 'schema' && typeof value === 'object') check(value as object);
        if (key === '$ref') references.push(String(value));
        walk(value);
      }
    };
    walk(document.paths);
    Object.values(document.components.schemas).forEach(check);
    walk(document.components.schemas);
    expect(schemas).toBeGreaterThan(200);
    expect(references.length).toBeGreaterThan(100);
    for (const reference of new Set(references)) {
      const name = /^#\/components\/schemas\/([\w.-]+)$/.exec(reference)?.[1] ?? '';
      expect(Object.keys(document.components.schemas)).toContain(name);
    }
  });

  it('has every route, each with the problems that it may answer', async () => {
    const api = await openApi();
    const document = await documentOf(api);
    const printed = api.app.printRoutes({ commonPrefix: false, includeHooks: false });
    const served = new Set<string>();
    const stack: string[] = [];
    for (const line of printed.split('\n')) {
      const match = /^([│ ]*)(?:├── |└── )(\S*)(?: \(([A-Z, ]+)\))?$/u.exec(line);
      if (match === null) continue;
      const depth = (match[1] ?? '').length / 4;
      stack.length = depth;
      stack.push(match[2] ?? '');
      for (const method of match[3]?.split(', ') ?? []) {
        if (method === 'HEAD') continue;
        served.add(`${method.toLowerCase()} ${stack.join('').replace(/:(\w+)/g, '{$1}')}`);
      }
    }
    const documented = operationsOf(document).map(({ path, method }) => `${method} ${path}`);
    expect(served.size).toBeGreaterThan(40);
    expect(documented.sort()).toEqual([...served].sort());
    for (const { path, method, operation } of operationsOf(document)) {
      const problems = Object.entries(operation.responses).filter(
        ([, response]) => response.content?.['application/problem+json'] !== undefined,
      );
      const statuses = problems.map(([status]) => status);
      const expected = method === 'post' ? ['400', '413', '415', '422', '503'] : ['400', '500'];
      expect(statuses, `${method} ${path}`).toEqual(expect.arrayContaining(expected));
    }
  });

  it('says which bodies may be left out, and which parameters the list takes', async () => {
    const { paths } = await documentOf(await openApi());
    expect(paths['/v1/sagas']?.['post']?.requestBody?.required).toBe(true);
    expect(paths['/v1/sagas/{sagaId}/pause']?.['post']?.requestBody?.required).toBe(false);
    const names = paths['/v1/sagas']?.['get']?.parameters?.map(({ name }) => name);
    expect(names).toEqual([
      'definition',
      'version',
      'status',
      'businessKey',
      'startedFrom',
      'startedBefore',
      'limit',
      'cursor',
      'attributes',
    ]);
  });

  it('describes the answers that are really given', async () => {
    const api = await openApi();
    const document = await documentOf(api);
    await tour(api);
    const paths = new Set(
      api.answered.map(({ method, route, status }) => `${method} ${route} ${status}`),
    );
    expect(paths.size).toBeGreaterThan(45);
    expect(misfits(document, api.answered)).toEqual([]);
  });

  it('is told apart from answers that do not fit', async () => {
    const document = await documentOf(await openApi());
    const healthy = {
      method: 'get',
      route: '/healthz',
      status: 200,
      contentType: 'application/json',
    };
    expect(misfits(document, [{ ...healthy, payload: '{"status":"ok"}' }])).toEqual([]);
    expect(misfits(document, [{ ...healthy, payload: '{"status":"fine"}' }])).toHaveLength(1);
    expect(misfits(document, [{ ...healthy, status: 201, payload: '{}' }])).toHaveLength(1);
  });
});

/** Calls every route, for good and for bad. */
async function tour(api: TestApi): Promise<void> {
  const { app, become, log, memory } = api;
  const [running, ended] = [1, 2].map((n) => composeSnowflake(Date.UTC(2025, 5, 1), 1, n)) as [
    string,
    string,
  ];
  log(running, ...beginning(running));
  become({
    sagaId: running,
    attributes: { a: 1, b: 'x', c: true },
    businessKey: 'bk',
    failureCode: 'X',
  });
  log(ended, ...beginning(ended), { type: 'SagaCompleted', output: { ok: true } });
  become({ sagaId: ended, status: 'completed', endedAt: 5, output: { ok: [1, null] } });
  memory.db.deadLetters.push({
    id: '1',
    topic: 'test.inbox',
    partition: 0,
    offset: 1n,
    key: '1',
    headers: { h: 'v' },
    value: 'x',
    code: 'MESSAGE_INVALID',
    reason: 'r',
    at: 1,
    redrivenAt: null,
  });
  const start = { definition: 'visit', input: { city: 'x' } };
  const posts: [string, object | undefined][] = [
    ['sagas', start],
    ['sagas', start],
    ['sagas', {}],
    ['sagas', { definition: 'nope', input: 1 }],
    ['sagas/batch', { items: [start, 7] }],
    ['sagas/batch', {}],
    [`sagas/${running}/signals/approve`, { by: 'a' }],
    [`sagas/${running}/signals/nope`, {}],
    [`sagas/${ended}/signals/approve`, { by: 'a' }],
    ...['cancel', 'pause', 'resume', 'retry'].flatMap((verb): [string, undefined][] => [
      [`sagas/${running}/${verb}`, undefined],
      [`sagas/${ended}/${verb}`, undefined],
      [`sagas/5/${verb}`, undefined],
    ]),
    [`commands/${running}.1/retry`, undefined],
    [`commands/${running}.7/retry`, undefined],
    [`commands/${running}.1/skip`, { reason: 'r' }],
    [`commands/${running}.1/resolve`, { reason: 'r', output: { seat: 's' } }],
    [`commands/${running}.1/complete`, { outcome: 'succeeded', output: { seat: 's' } }],
    [`commands/${running}.1/complete`, { outcome: 'succeeded', output: {} }],
    ['dead-letters/1/redrive', undefined],
    ['dead-letters/1/redrive', undefined],
    ['dead-letters/2/redrive', undefined],
  ];
  const gets = [
    'sagas',
    'sagas?limit=1',
    'sagas?nope=1',
    'sagas?cursor=x',
    `sagas/${running}`,
    `sagas/${ended}`,
    'sagas/5',
    'sagas/x',
    `sagas/${running}/result`,
    `sagas/${ended}/result`,
    `sagas/${running}/history`,
    `sagas/${running}/history?limit=1`,
    'definitions',
    'definitions/visit',
    'definitions/visit?format=mermaid',
    'definitions/visit/versions/1',
    'definitions/x',
    'dead-letters',
    'dead-letters/1',
    'dead-letters/2',
    'shards',
  ];
  for (const prefix of ['/v1', '/v1/namespaces/default']) {
    for (const [path, payload] of posts) {
      const headers = { 'idempotency-key': 'k' };
      await app.inject({
        method: 'POST',
        url: `${prefix}/${path}`,
        headers,
        ...(payload && { payload }),
      });
    }
    for (const path of gets) await app.inject(`${prefix}/${path}`);
  }
  const text = { 'content-type': 'text/plain' };
  await app.inject({ method: 'POST', url: '/v1/sagas', headers: text, payload: 'x' });
  for (const path of ['/', '/healthz', '/readyz', '/metrics', '/openapi.json'])
    await app.inject(path);
  const reconnect = { 'last-event-id': '99' };
  await app.inject({ url: `/v1/sagas/${ended}/history/stream`, headers: reconnect });
}
