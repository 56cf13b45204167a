/**
 * What kafkajs does not export and is mended here all the same: its classes, by the files that they stand in.
 *
 * Guards that only a class built as expected is touched: one that lacks what is to be replaced is as good as none.
 */
import { createRequire } from 'node:module';

/**
 * @param path within kafkajs
 * @param methods of its instances that must be there
 * @returns null when there is no such class, or it lacks one of them
 */
export function kafkajsClass<C extends { prototype: object }>(
  path: string,
  methods: readonly (keyof C['prototype'])[],
): C | null {
  try {
    const made = createRequire(import.meta.url)(`kafkajs/src/${path}`) as Partial<C>;
    const prototype: Partial<C['prototype']> = made.prototype ?? {};
    return methods.every((name) => typeof prototype[name] === 'function') ? (made as C) : null;
  } catch {
    return null;
  }
}
