/** History: how long each run took and how it ended, over time; what is slower than usual is marked. */

import uPlot from "uplot";
import { useCallback, useEffect, useMemo, useRef } from "preact/hooks";
import { Canvas, colours } from "../canvas.js";
import { axis, timeAxis } from "../chart.js";
import { isEmpty, matcher } from "../filter.js";
import { useMedia, useNarrow, useWidth } from "../hooks.js";
import { Address, html, Slow, Status, Time } from "../html.js";
import { List } from "../list.js";
import { ranFor, said, usual } from "../model.js";
import { open, to } from "../route.js";
import { inWords, isProblem } from "../statuses.js";
import { clock, counted, duration, harmless } from "../text.js";

const ROW = 40;
const PHONE_ROW = 66;
const MOST_BARS = 40;
const BAR = 5;
const MOST_APPLIES = 5;

export function History({ report, route, filter, now }) {
  const run = report.byAddress.get(route.subject);
  return run?.attempts.length ? html`<${OfRun} report=${report} run=${run} route=${route} now=${now} />` : html`<${OfAll} report=${report} route=${route} filter=${filter} now=${now} />`;
}

function OfAll({ report, route, filter, now }) {
  const narrow = useNarrow();
  const runs = useMemo(() => {
    const matches = matcher(filter);
    const urgency = (run) => (run.last.slow ? 0 : isProblem(run.last.status) ? 1 : run.managed ? 2 : 3);
    return report.runs.filter((run) => run.last && matches(run)).sort((a, b) => urgency(a) - urgency(b) || a.place - b.place);
  }, [report, filter]);
  const longest = useMemo(() => new Map(runs.map((run) => [run, Math.max(...run.attempts.map((one) => ranFor(one, now) ?? 0), 1)])), [runs]);
  return html`
    <${Applies} report=${report} now=${now} />
    <h2>${counted(runs.length, "run")} <small>the last ${MOST_BARS} attempts of each; higher is longer</small></h2>
    ${runs.length === 0 && html`<p class="nothing">${isEmpty(filter) ? "No attempt is recorded." : "No run matches the filter."}</p>`}
    <${List}
      label="History" items=${runs} heightOf=${narrow ? phoneRow : wideRow} keyOf=${(one) => one.address}
      open=${(one) => open(to(route, "history", one.address))}
      row=${(one) => html`
        <span role="gridcell" class="c-name"><a tabindex="-1" href=${to(route, "history", one.address)}><${Address} run=${one} /></a></span>
        <span role="gridcell" class="c-bars"><${Bars} run=${one} longest=${longest.get(one)} now=${now} /></span>
        <span role="gridcell" class="c-status"><${Status} status=${one.last.status} /></span>
        <span role="gridcell" class="c-took">${duration(ranFor(one.last, now))}</span>
        <span role="gridcell" class="c-slow"><${Compared} attempt=${one.last} /></span>`}
    />`;
}

const wideRow = () => ROW;
const phoneRow = () => PHONE_ROW;

/** What is usual, and that an attempt took longer. */
function Compared({ attempt }) {
  const before = usual(attempt);
  if (attempt.slow) return html`<span class="slow">slower than usual${before !== null && `, ${duration(before)}`}</span>`;
  return before === null ? null : html`<small>usually ${duration(before)}</small>`;
}

/** The applies, newest first. */
function Applies({ report, now }) {
  const applies = report.applies.filter((apply) => apply.plan).slice(-MOST_APPLIES).reverse();
  if (!applies.length) return null;
  return html`
    <section aria-labelledby="applies-title">
      <h2 id="applies-title">Applied</h2>
      <div class="wide"><table>
        <thead><tr><th scope="col">When</th><th scope="col" class="aside">By</th><th scope="col">How its attempts ended</th><th scope="col">Did not start</th></tr></thead>
        <tbody>${applies.map(
          (apply) => html`
            <tr>
              <td><${Time} at=${apply.at} now=${now} /></td>
              <td class="aside">${harmless([apply.command, apply.user && `by ${apply.user}`, apply.host && `on ${apply.host}`].filter(Boolean).join(" "))}</td>
              <td>${inWords(new Map(Object.entries(apply.ends))) || "nothing was started"}</td>
              <td>${harmless(Object.entries(apply.steps).map(([phase, n]) => `${n} ${phase}`).join(", "))}</td>
            </tr>`,
        )}</tbody>
      </table></div>
    </section>`;
}

/** The last attempts of a run as bars: height is duration, colour is outcome. */
function Bars({ run, longest, now }) {
  const shown = run.attempts.slice(-MOST_BARS);
  const draw = useCallback(
    (context, width, height, colour) => {
      shown.forEach((attempt, i) => {
        const tall = Math.max(2, ((ranFor(attempt, now) ?? 0) / longest) * (height - 2));
        context.fillStyle = colour(attempt.status);
        context.fillRect(i * BAR, height - tall, BAR - 1, tall);
        if (attempt.slow) context.fillRect(i * BAR, 0, BAR - 1, 2);
      });
    },
    [run, shown.length, longest],
  );
  const counts = new Map();
  for (const attempt of run.attempts) counts.set(attempt.status, (counts.get(attempt.status) ?? 0) + 1);
  return html`<${Canvas} draw=${draw} width=${MOST_BARS * BAR} height=${ROW - 12} label=${`${counted(run.attempts.length, "attempt")}: ${inWords(counts)}`} />`;
}

/** One run over time. */
function OfRun({ report, run, route, now }) {
  const attempts = useMemo(() => [...run.attempts].reverse(), [run]);
  return html`
    <p class="said"><a href=${to(route, "history")}>All runs</a></p>
    <h2 class="title"><a href=${to(route, "run", run.address)}><${Address} run=${run} /></a>${" "}<${Status} status=${run.last.status} /></h2>
    <${Chart} run=${run} now=${report.madeAt} />
    <${List}
      label="Attempts" items=${attempts} heightOf=${wideRow} keyOf=${(one) => String(one.number)}
      open=${(one) => open(to(route, "run", run.address, { attempt: String(one.number) }))}
      row=${(one) => html`
        <span role="gridcell" class="c-name">#${one.number}${" "}<${Time} at=${one.started ?? one.created} now=${now} /></span>
        <span role="gridcell" class="c-bars">${isProblem(one.status) ? harmless(said(one)) : ""}</span>
        <span role="gridcell" class="c-status"><${Status} status=${one.status} /></span>
        <span role="gridcell" class="c-took">${duration(ranFor(one, now))}</span>
        <span role="gridcell" class="c-slow"><${Slow} attempt=${one} /></span>`}
    />`;
}

/** Durations over time: a point for each attempt in the colour of its outcome, and a line for what was usual. */
function Chart({ run, now }) {
  const [place, width] = useWidth();
  const target = useRef(null);
  const dark = useMedia("(prefers-color-scheme: dark)");
  useEffect(() => {
    if (!width) return undefined;
    const shown = run.attempts.filter((attempt) => ranFor(attempt, now) !== null);
    const colour = colours();
    const times = shown.map((attempt) => attempt.started / 1000);
    const took = shown.map((attempt) => ranFor(attempt, now) / 1000);
    const usually = shown.map((attempt) => usual(attempt) && usual(attempt) / 1000);
    const chart = new uPlot(
      {
        width,
        height: 240,
        scales: { y: { range: (_, low, high) => [0, (high || 1) * 1.1] } },
        axes: [timeAxis(colour), { ...axis(colour), size: 70, values: (_, values) => values.map((value) => duration(value * 1000)) }],
        series: [
          { value: (_, value) => value && clock(value * 1000, now) },
          { label: "took", stroke: colour("ink"), paths: () => null, points: { show: points(shown, colour) }, value: (_, value) => value && duration(value * 1000) },
          { label: "usual", stroke: colour("quiet"), dash: [4, 4], spanGaps: true, points: { show: false }, value: (_, value) => (value ? duration(value * 1000) : "unknown") },
        ],
      },
      [times, took, usually],
      target.current,
    );
    return () => chart.destroy();
  }, [run, width, dark]);
  const slow = run.attempts.filter((attempt) => attempt.slow).length;
  return html`<div ref=${place}><div ref=${target} role="img" aria-label=${`Durations of ${counted(run.attempts.length, "attempt")}, ${slow} slower than usual; the list below tells each`} /></div>`;
}

/** Return what draws the points of a chart in the colours of the outcomes; a ring is around what is slower than usual. */
function points(attempts, colour) {
  return (chart, series, from, until) => {
    const { ctx } = chart;
    for (let i = from; i <= until; i++) {
      const [x, y] = [chart.valToPos(chart.data[0][i], "x", true), chart.valToPos(chart.data[series][i], "y", true)];
      ctx.fillStyle = ctx.strokeStyle = colour(attempts[i].status);
      ctx.beginPath();
      ctx.arc(x, y, 4 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fill();
      if (!attempts[i].slow) continue;
      ctx.beginPath();
      ctx.arc(x, y, 7 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.stroke();
    }
    return false;
  };
}
