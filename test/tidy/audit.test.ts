/** The audit step tells holes from clean from not looked at. */
import { describe, expect, test } from 'vitest';
import { verdictOf } from '../../scripts/audit.ts';

const report = (counts: object, vulnerabilities: object = {}): string =>
  JSON.stringify({ metadata: { vulnerabilities: counts }, vulnerabilities });

describe('npm audit', () => {
  test('with holes of high or critical weight fails, and names them', () => {
    const left = { pad: { severity: 'critical', range: '<1.3.0', isDirect: true } };
    const right = { pod: { severity: 'low', range: '*', isDirect: true } };
    const verdict = verdictOf(report({ critical: 1, low: 1 }, { ...left, ...right }));
    expect(verdict.state).toBe('holes');
    expect(verdict.text).toContain('pad <1.3.0: critical');
    expect(verdict.text).not.toContain('pod');
    expect(verdictOf(report({ high: 2 })).state).toBe('holes');
  });

  test('with less is clean', () => {
    expect(verdictOf(report({ high: 0, critical: 0, moderate: 3 })).state).toBe('clean');
  });

  test.each(['', 'not JSON', '{}', '{"message":"405 Method Not Allowed","statusCode":405}'])(
    'that did not look (%s) is told as skipped, never as clean',
    (json) => {
      const verdict = verdictOf(json);
      expect(verdict.state).toBe('skipped');
      expect(verdict.text).toMatch(/^skipped: /);
    },
  );
});
