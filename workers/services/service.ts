/** What an example service is to whoever starts it: its name, its tables and its handlers. */
import type { Handler } from '../handlers.ts';
import type { Sql } from './sql.ts';

export interface ServiceDeps {
  /**
   * A connection or pool for systems that are simulated as being elsewhere (the payment gateway).
   * It is never the transaction of a command, just as a real gateway is not.
   */
  outside: Sql;
}

export interface ExampleService {
  /** The part of a command's name before the dot. */
  readonly service: string;
  /** The database schema it owns; the worker's inbox goes into it too. */
  readonly schema: string;
  /** Creates tables and seed data where they are missing. May be called at any time, by many at once. */
  migrate(sql: Sql): Promise<void>;
  handlers(deps: ServiceDeps): Handler<Sql>[];
}
