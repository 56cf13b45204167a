/**
 * Why a run does not pass a point: which campaign dies there, or what it would take to come there.
 *
 * Guards that "no run passes it" is told with its reason, and that a point with none of these reasons stands out.
 */
const ELSEWHERE: readonly [place: RegExp, what: string][] = [
  [/^engine\/postgres\/bus-trim.*#forgetGroup /, 'no process does it: it is called by hand'],
  [/^engine\/postgres\/bus/, 'the campaign crash-points-postgres-bus dies there'],
  [
    /^engine\/kafka\/(bus\.ts#ask|publisher\.ts#dropProducer) /,
    'only when a broker breaks a connection under a request',
  ],
  [/^engine\/kafka\/options/, 'only with a token of OAuth, which needs a broker that asks for one'],
  [/^engine\/kafka\/bus\.ts#createTopics /, 'the campaign crash-points-first-start dies there'],
  [/^engine\/kafka\//, 'only with Kafka, in another role'],
  [
    /^engine\/postgres\/(access|spread)\.ts#touch /,
    'only in an API process that has been up for a minute, longer than a life here',
  ],
  [
    /^engine\/postgres\/(migrate\.ts#checkSchema|index\.ts#openPostgres) /,
    'only where a caller asks for no migration, or the database is refused; no command does the one',
  ],
  [
    /^engine\/postgres\/(spread-read|spread|log-part|access|dead-letters|inspect|start-keys|node-ids)\./,
    'the campaign crash-points-api dies there',
  ],
  [/^engine\/runtime\/snowflake/, 'the campaign crash-points-api dies there'],
  [
    /\/(migrate\.ts#(applyNext|migrate) client\.query \(7\)|partitions\.ts#inTransaction client\.query \(5\))/,
    'only when a statement before it fails: it takes back what was begun',
  ],
  [
    /^workers\/postgres\/migrate\.ts#ensureSchema client\.query \(2\)/,
    'only for a service that does not make its schema itself; the examples do',
  ],
  [
    /#(markComplete|record|isComplete) db\.|\/postgres\/(partitions|migrate)/,
    'the campaign crash-points-first-start dies there',
  ],
  [
    /^engine\/postgres\/(spread-log|membership)/,
    'the campaign crash-points-two-databases dies there',
  ],
  [
    /^workers\/postgres\/store.*#prune /,
    'no process does it: it is a job of the owner of a service',
  ],
  [/#(park|keep|terminate) /, 'only for a message or handler that is broken'],
  [/^workers\/services\/(bank|airline|hotels|cars)/, 'only with other sagas than orders'],
];

export function whyNot(point: string): string {
  return ELSEWHERE.find(([place]) => place.test(point))?.[1] ?? 'only when something fails besides';
}
