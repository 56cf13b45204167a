/** Figures out of samples: percentiles of one run, medians and ranges over rounds. */

export interface Latency {
  count: number;
  p50_ms: number;
  p99_ms: number;
  max_ms: number;
}

export function latencyOf(samples_ms: readonly number[]): Latency {
  const sorted = Float64Array.from(samples_ms).sort();
  return {
    count: sorted.length,
    p50_ms: percentile(sorted, 0.5),
    p99_ms: percentile(sorted, 0.99),
    max_ms: sorted.at(-1) ?? NaN,
  };
}

/** The smallest sample that at least `part` of all are not above; of sorted samples. */
function percentile(sorted: Float64Array, part: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)] ?? NaN;
}

export interface Spread {
  median: number;
  min: number;
  max: number;
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? NaN;
  const median = sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2;
  return { median, min: sorted[0] ?? NaN, max: sorted.at(-1) ?? NaN };
}

/** By how much the line that fits best (least squares) rises from one value to the next. */
export function trendOf(values: readonly number[]): number {
  const middle = (values.length - 1) / 2;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  let rise = 0;
  let run = 0;
  values.forEach((value, index) => {
    rise += (index - middle) * (value - mean);
    run += (index - middle) ** 2;
  });
  return rise / run;
}
