/** The example services, for whoever starts workers for all of them or for some. */
import { airline } from './airline/service.ts';
import { bankA } from './bank-a/service.ts';
import { bankB } from './bank-b/service.ts';
import { cars } from './cars/service.ts';
import { hotels } from './hotels/service.ts';
import { inventory } from './inventory/service.ts';
import { notifications } from './notifications/service.ts';
import { payments } from './payments/service.ts';
import type { ExampleService } from './service.ts';
import { shipping } from './shipping/service.ts';

export type { ExampleService } from './service.ts';

export const exampleServices: readonly ExampleService[] = [
  inventory,
  payments,
  shipping,
  notifications,
  airline,
  hotels,
  cars,
  bankA,
  bankB,
];
