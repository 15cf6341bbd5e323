/** The curve of how many attempts ran at a time. */

import uPlot from "uplot";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { colours } from "./canvas.js";
import { axis, timeAxis } from "./chart.js";
import { useMedia } from "./hooks.js";
import { html } from "./html.js";
import { isLive } from "./statuses.js";

const HEIGHT = 120;

/**
 * @param {object} props
 * @param {{attempts: object[]}[]} props.runs  rows of the timeline
 * @param {[number, number]} props.range  what is shown, in milliseconds
 * @param {number} props.width, props.names  in pixels; `names` are left of the curve, as in the timeline
 */
export function Concurrency({ runs, range, width, names, now }) {
  const target = useRef(null);
  const chart = useRef(null);
  const dark = useMedia("(prefers-color-scheme: dark)");
  const steps = useMemo(() => stepsOf(runs, now), [runs]);
  const data = useMemo(() => within(steps, range, width - names), [steps, range, width, names]);
  useEffect(() => {
    const colour = colours();
    chart.current = new uPlot(
      {
        width,
        height: HEIGHT,
        padding: [8, 0, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: { y: { range: (_, low, high) => [0, Math.max(1, high) * 1.1] } },
        axes: [timeAxis(colour), { ...axis(colour), size: names, space: 24, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] }],
        series: [{}, { stroke: colour("running"), fill: `${colour("running")}22`, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }],
      },
      data,
      target.current,
    );
    chart.current.setScale("x", { min: range[0] / 1000, max: range[1] / 1000 });
    return () => chart.current.destroy();
  }, [width, names, dark]);
  useEffect(() => {
    chart.current.setData(data, false);
    chart.current.setScale("x", { min: range[0] / 1000, max: range[1] / 1000 });
  }, [data]);
  const most = steps.reduce((high, [, count]) => Math.max(high, count), 0);
  return html`<div ref=${target} role="img" aria-label=${`How many ran at a time: at most ${most}`} />`;
}

/** Return `[time, how many run from then on]`, in the order of time. */
function stepsOf(runs, now) {
  const [begins, ends] = [[], []];
  for (const { attempts } of runs) {
    for (const { started, finished, status } of attempts) {
      if (started === null) continue;
      begins.push(started);
      if (finished !== null) ends.push(finished);
      else if (!isLive(status)) ends.push(started); // nobody knows when
    }
  }
  const [up, down] = [Float64Array.from(begins).sort(), Float64Array.from(ends).sort()];
  const steps = [];
  let [i, j] = [0, 0];
  while (i < up.length || j < down.length) {
    const time = j >= down.length || up[i] < down[j] ? up[i] : down[j];
    while (down[j] === time) j++;
    while (up[i] === time) i++;
    steps.push([time, i - j]);
  }
  steps.push([now, up.length - down.length]);
  return steps;
}

/** Return the columns of a chart: the steps in a range, of many in one pixel the highest and the last. */
function within(steps, [from, until], pixels) {
  const bucket = (until - from) / Math.max(1, pixels) / 1000;
  const [times, counts] = [[from / 1000], [0]];
  let lower = null;
  const add = (time, count) => {
    times.push(time);
    counts.push(count);
    lower = null;
  };
  for (const [time, count] of steps) {
    const at = time / 1000;
    if (time <= from) counts[0] = count;
    else if (time > until) break;
    else if (at - times.at(-1) < bucket && times.length > 1 && count <= counts.at(-1)) lower = [at, count];
    else {
      if (lower) add(...lower);
      add(at, count);
    }
  }
  if (lower) add(...lower);
  add(until / 1000, counts.at(-1));
  return [times, counts];
}
