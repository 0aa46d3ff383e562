// Which curves are asked for together.

const METRICS_A_REQUEST = 12;
const CURVES_A_REQUEST = 60;
const BUCKETS_MIN = 200;
const BUCKETS_MAX = 2000;

/**
 * @typedef {import("./panel.js").Panel} Panel
 * @typedef {import("./panel.js").Drawn} Drawn
 */

/**
 * As few as may be.
 *
 * @param {Panel[]} panels
 * @param {import("./charts.js").Look} look
 * @param {boolean} isSide A run a chart.
 * @returns {Array<{panels: Panel[], runs: Drawn[], steps: [number, number]|null, buckets: number}>}
 */
export function curveRequests(panels, look, isSide) {
  const found = [];
  const bySteps = look.axis !== "step" && look.range;
  const bundles = new Map();
  for (const panel of panels) {
    for (const runs of isSide || bySteps ? panel.runs.map((run) => [run]) : [panel.runs]) {
      const key = runs.map(({ run_id: id }) => id).join("\n");
      bundles.set(key, { runs, panels: [...(bundles.get(key)?.panels ?? []), panel] });
    }
  }
  for (const { runs, panels: bundled } of bundles.values()) {
    const size = Math.max(1, Math.min(METRICS_A_REQUEST, Math.floor(CURVES_A_REQUEST / runs.length)));
    for (let at = 0; at < bundled.length; at += size) {
      const some = bundled.slice(at, at + size);
      const buckets = Math.max(
        BUCKETS_MIN,
        Math.min(BUCKETS_MAX, ...some.map((panel) => panel.plot.clientWidth || 400)),
      );
      found.push({ panels: some, runs, steps: stepsInSight(look, some[0], runs[0]), buckets });
    }
  }
  return found;
}

/**
 * The steps in sight: what the server cuts by, whatever the axis is.
 *
 * @param {import("./charts.js").Look} look
 * @param {Panel} panel
 * @param {Drawn} run
 * @returns {[number, number]|null}
 */
function stepsInSight({ axis, range }, panel, run) {
  if (!range) return null;
  if (axis === "step") return [Math.floor(range[0]), Math.ceil(range[1])];
  const curve = panel.curves.get(run.run_id);
  const within = curve
    ? curve.x.map((x, at) => (x >= range[0] && x <= range[1] ? at : -1)).filter((at) => at >= 0)
    : [];
  return within.length
    ? [
        curve.first_step[Math.max(0, within[0] - 1)],
        curve.last_step[Math.min(curve.x.length - 1, within[within.length - 1] + 1)],
      ]
    : null;
}
