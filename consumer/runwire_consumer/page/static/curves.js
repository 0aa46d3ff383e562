// Curves as columns: what they say, smoothed, found at a place.

import { duration, moment, number } from "./format.js";

/**
 * What the server tells of a curve, as columns.
 *
 * @typedef {{run_id: string, metric: string, x: number[], first_step: number[], last_step: number[], value: (number|null)[],
 *   min: (number|null)[], max: (number|null)[], nonfinite: number[], points: number}} Curve
 */

/**
 * Exponential smoothing, the weights divided by their sum so that the beginning isn't drawn to zero.
 *
 * @param {(number|null)[]} values What is null stays a gap.
 * @param {number} weight From 0 (nothing) to below 1.
 * @returns {(number|null)[]}
 */
export function smoothed(values, weight) {
  let sum = 0;
  let weights = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    sum = sum * weight + value;
    weights = weights * weight + 1;
    return sum / weights;
  });
}

/**
 * How a place on the axis reads.
 *
 * @param {string} axis
 * @param {number} x
 * @returns {string}
 */
export function placed(axis, x) {
  if (axis === "time") return moment(new Date(x * 1000).toISOString());
  return axis === "step" ? `step ${number(Math.round(x))}` : duration(x);
}

/**
 * A curve in a sentence, for those who don't see it.
 *
 * @param {{label: string, curve: Curve}} line
 * @returns {string}
 */
export function summary({ label, curve }) {
  const least = curve.min.reduce((low, value) => (value !== null && (low === null || value < low) ? value : low), null);
  const most = curve.max.reduce(
    (high, value) => (value !== null && (high === null || value > high) ? value : high),
    null,
  );
  const last = curve.value.length - 1;
  if (last < 0) return `${label}: no values`;
  const gone = curve.nonfinite.reduce((sum, count) => sum + count, 0);
  return `${label}: ${number(curve.points)} points, last ${number(curve.value[last])} at step ${number(curve.last_step[last])}, least ${number(least)}, greatest ${number(most)}${gone ? `, ${gone} not finite` : ""}`;
}

/**
 * @param {number[]} ordered
 * @param {number} wanted
 * @returns {number} Its place; -1: there is none.
 */
export function nearest(ordered, wanted) {
  let low = 0;
  let high = ordered.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ordered[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low > 0 && wanted - ordered[low - 1] < ordered[low] - wanted ? low - 1 : Math.min(low, ordered.length - 1);
}

/**
 * By time the buckets of steps may come in any order.
 *
 * @param {Curve} curve
 * @returns {Curve}
 */
export function inOrder(curve) {
  if (curve.x.every((x, at) => at === 0 || curve.x[at - 1] <= x)) return curve;
  const order = curve.x.map((_, at) => at).sort((one, other) => curve.x[one] - curve.x[other]);
  const sorted = (column) => order.map((at) => column[at]);
  return {
    ...curve,
    x: sorted(curve.x),
    first_step: sorted(curve.first_step),
    last_step: sorted(curve.last_step),
    value: sorted(curve.value),
    min: sorted(curve.min),
    max: sorted(curve.max),
    nonfinite: sorted(curve.nonfinite),
  };
}
