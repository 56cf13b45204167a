/** Where the Postgres bus reports; a pino logger fits. */
export interface BusLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export const SILENT_LOG: BusLog = { debug() {}, info() {}, warn() {}, error() {} };
