/**
 * Why a run of orders on one database does not pass a point: what it takes to come there.
 *
 * Guards that "no run passes it" is told with its reason, and that a point with none of these reasons stands out.
 */
const ELSEWHERE: readonly [place: RegExp, what: string][] = [
  [/^engine\/postgres\/bus/, 'only with the Postgres bus'],
  [/^engine\/kafka\//, 'only with Kafka: a broker that is away or new, or a token of OAuth'],
  [/^engine\/postgres\/(spread|log-part|membership)/, 'only with a log over several databases'],
  [
    /^engine\/(postgres\/(access|dead-letters|inspect|start-keys|node-ids)|runtime\/snowflake)/,
    'only in the API process',
  ],
  [
    /\/postgres\/(partitions|migrate)|#openPostgres|#createTopics/,
    'only at the first start, or in the upkeep',
  ],
  [
    /#(prune|park|keep|terminate) /,
    'only in the upkeep, or for a message or handler that is broken',
  ],
  [/^workers\/services\/(bank|airline|hotels|cars)/, 'only with other sagas than orders'],
];

export function whyNot(point: string): string {
  return ELSEWHERE.find(([place]) => place.test(point))?.[1] ?? 'only when something fails besides';
}
