/**
 * `createApi`: the REST API as a fastify instance that does not listen yet.
 *
 * Guards the border: nobody unknown gets in, limits on every part of a request, a problem document for every
 * refusal, and an orderly end (long polls and event streams are told when it closes, and it closes in time). Holds nothing that lasts: if the process dies,
 * clients repeat what they got no answer to.
 */
import fastify, { LogController, type FastifyReply, type FastifyRequest } from 'fastify';
import { registerAudit } from './access/audit.ts';
import { Gate, registerGate } from './access/gate.ts';
import { Catalog } from './catalog.ts';
import { answerClientError } from './client-errors.ts';
import { scopeOf, type App, type Context } from './context.ts';
import { resolveOptions, type ApiDeps, type ApiOptions } from './deps.ts';
import { Connections } from './drain.ts';
import { watchEnds } from './ends.ts';
import { Inbox } from './inbox.ts';
import { Lookup } from './lookup.ts';
import { registerMetrics } from './metrics.ts';
import { registerOpenApi } from './openapi.ts';
import { ApiError, asApiError, problemOf, RETRY_AFTER_S } from './problems.ts';
import { parseJsonBody, requestIdOf, validatorCompiler } from './request.ts';
import { commandRoutes } from './routes/commands.ts';
import { definitionRoutes } from './routes/definitions.ts';
import { historyRoutes } from './routes/history.ts';
import { keyRoutes } from './routes/keys.ts';
import { inputRoutes } from './routes/inputs.ts';
import { operationRoutes } from './routes/operations.ts';
import { processRoutes } from './routes/process.ts';
import { sagaRoutes } from './routes/sagas.ts';
import { startRoutes } from './routes/starts.ts';
import { Starts } from './start.ts';
import { SagaWatch } from './watch.ts';

export type { ApiDeps, ApiOptions } from './deps.ts';

const BODY_LIMIT_BYTES = 1024 * 1024;
/** Longest name in a path (a signal's, 128), percent-encoded in part. */
const MAX_PARAM_LENGTH = 256;
/** All of a request must have come by then, its headers sooner: a client that drips bytes is cut off. */
const REQUEST_TIMEOUT_MS = 30_000;
const HEADERS_TIMEOUT_MS = 10_000;
/** Silence on a connection. Longer than the longest wait (60 s), which is silent. */
const CONNECTION_TIMEOUT_MS = 90_000;
const KEEP_ALIVE_TIMEOUT_MS = 72_000;
const MAX_HEADER_BYTES = 16 * 1024;
/** How often Node looks for connections over their time. */
const CONNECTIONS_CHECK_MS = 5_000;

/**
 * Builds the API. Call `listen` on what it returns, `close` to drain it.
 * @throws SagaxError CONFIG_INVALID when two definitions have one name and version
 */
export function createApi(deps: ApiDeps, options: ApiOptions = {}): App {
  const app = createServer(options);
  const context = createContext(deps, options, app);
  app.server.maxConnections = context.options.maxConnections;
  app.setValidatorCompiler(validatorCompiler);
  // Answers are typed by their schemas when compiled; checking each again would only cost time and add failures.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    'application/json',
    { parseAs: 'string' },
    async (_request: FastifyRequest, body: string) => parseJsonBody(body),
  );
  const onEnd = watchEnds(app);
  app.addHook('onRequest', async (request, reply) => {
    void reply.header('x-request-id', request.id);
    void reply.header('x-content-type-options', 'nosniff');
  });
  app.setErrorHandler(sendProblem);
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?')[0] ?? '';
    sendProblem(
      new ApiError(
        'ROUTE_UNKNOWN',
        `${request.method} ${path.slice(0, 512)} is no route; see /openapi.json.`,
      ),
      request,
      reply,
    );
  });
  closeInOrder(app, context);
  registerGate(app, context.gate);
  registerAudit(app, deps.access.auditLog, onEnd);
  registerMetrics(app, deps.metrics, {
    watch: context.watch,
    inbox: context.inbox,
    processMetrics: context.options.processMetrics,
    onEnd,
  });
  registerOpenApi(app, context.options.version);
  // In a plugin of their own, so that they come after the one that listens for routes.
  void app.register(async (root: App) => registerRoutes(root, context));
  return app;
}

/** While the process drains, those who wait are answered, and those who come are sent elsewhere. */
function closeInOrder(app: App, { watch, options, deps }: Context): void {
  const connections = new Connections(app.server);
  const done = new AbortController();
  let closing = false;
  app.addHook('preClose', async () => {
    closing = true;
    watch.close();
    void connections.drain(deps.clock, options.drainMs, done.signal).then((late) => {
      if (late > 0)
        app.log.warn({ connections: late }, 'Connections were cut off: the drain is over.');
    });
  });
  // Called when the server has closed.
  app.addHook('onClose', async () => done.abort());
  app.addHook('onRequest', async () => {
    if (!closing) return;
    throw new ApiError(
      'OVERLOADED',
      'This process is closing. Send the request again; another one takes it.',
    );
  });
}

function createServer(options: ApiOptions): App {
  return fastify({
    ...(options.logger === undefined ? { logger: false } : { loggerInstance: options.logger }),
    bodyLimit: BODY_LIMIT_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionTimeout: CONNECTION_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    genReqId: requestIdOf,
    ...(isBehindProxy(options) && { trustProxy: [...options.trustProxy] }),
    // A line for each request would cost more than most requests; /metrics counts them.
    logController: new LogController({ disableRequestLogging: true }),
    // Ids are checked and made by genReqId alone.
    requestIdHeader: false,
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    http: {
      headersTimeout: HEADERS_TIMEOUT_MS,
      maxHeaderSize: MAX_HEADER_BYTES,
      connectionsCheckingInterval: CONNECTIONS_CHECK_MS,
    },
    // Failures before routing (a badly encoded address) get the same kind of answer.
    frameworkErrors: sendProblem,
    clientErrorHandler: answerClientError,
    // Answered by our own hook, as a problem.
    return503OnClosing: false,
  });
}

function isBehindProxy(
  options: ApiOptions,
): options is ApiOptions & { trustProxy: readonly string[] } {
  return options.trustProxy !== undefined && options.trustProxy.length > 0;
}

function createContext(deps: ApiDeps, given: ApiOptions, app: App): Context {
  const options = resolveOptions(given);
  const { reader, clock, bus, startKeys, ids, topology } = deps;
  const catalog = new Catalog(deps.definitions);
  const watch = new SagaWatch({
    reader,
    clock,
    limit: options.maxWaiters,
    onError: (error) => app.log.warn({ err: error }, 'Polling for sagas failed.'),
  });
  const inbox = new Inbox({
    bus,
    clock,
    ...topology,
    maxQueuedMessages: options.maxQueuedMessages,
  });
  const lookup = new Lookup({ reader, watch, clock, visibilityWaitMs: options.visibilityWaitMs });
  const starts = new Starts({ catalog, inbox, startKeys, reader, ids, clock });
  const gate = new Gate(app, deps, options);
  return { deps, options, gate, catalog, inbox, lookup, starts, watch };
}

function registerRoutes(app: App, context: Context): void {
  processRoutes(app, context);
  for (const [prefix, namespaced] of [
    ['/v1', false],
    ['/v1/namespaces/:namespace', true],
  ] as const) {
    const scope = scopeOf(namespaced);
    void app.register(
      async (mounted: App) => {
        startRoutes(mounted, context, scope);
        sagaRoutes(mounted, context, scope);
        historyRoutes(mounted, context, scope);
        inputRoutes(mounted, context, scope);
        commandRoutes(mounted, context, scope);
        definitionRoutes(mounted, context, scope);
        if (namespaced) return;
        operationRoutes(mounted, context);
        keyRoutes(mounted, context);
      },
      { prefix },
    );
  }
}

function sendProblem(thrown: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const { error, unexpected } = asApiError(thrown);
  if (unexpected) request.log.error({ err: thrown, requestId: request.id }, 'A request failed.');
  request.problemCode = error.code;
  if (error.status === 503 || error.status === 429)
    void reply.header('retry-after', String(error.retryAfterS ?? RETRY_AFTER_S));
  if (error.status === 401) void reply.header('www-authenticate', 'Bearer realm="sagax"');
  const instance = request.url.split('?')[0];
  void reply
    .code(error.status)
    .type('application/problem+json; charset=utf-8')
    .send(problemOf(error, instance, request.id));
}
