/** A log that keeps what it is told. */
import type { Log } from '../../../workers/handlers.ts';

export interface LogLine {
  level: string;
  fields: { [name: string]: unknown };
  message: string;
}

export function keptLog(): Log & { lines: LogLine[] } {
  const lines: LogLine[] = [];
  const at = (level: string) => (fields: object, message: string) =>
    void lines.push({ level, fields: { ...fields }, message });
  return { lines, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}
