/** Timeline: when each attempt waited, was pending and ran, and how many ran at a time. Zoom and pan with mouse or keys. */

import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Canvas } from "../canvas.js";
import { Concurrency } from "../concurrency.js";
import { isEmpty, matcher } from "../filter.js";
import { listening, useNarrow, useWidth } from "../hooks.js";
import { html } from "../html.js";
import { ranFor } from "../model.js";
import { altered, open, replace, to } from "../route.js";
import { isLive, isProblem, wordsOf } from "../statuses.js";
import { Tip } from "../strip.js";
import { clock, counted, duration, harmless } from "../text.js";

const ROW = 22;
const PHONE_ROW = 36;
/** On a phone, names stand above the bars. */
const NAMES = 230;
const SCROLL_BAR = 16;
const AXIS = 34;
/** Pixels that the numbers of the curve take. */
const SHORTEST = 20;
/** Milliseconds that the window shows at least. */

export function Timeline({ report, route, filter, now }) {
  const span = route.query.span === "all" ? "all" : "last";
  const runs = useMemo(() => rowsOf(report, filter, span), [report, filter, span]);
  const whole = useMemo(() => extent(runs, span, report.madeAt), [runs, span, report]);
  const [asked, zoom] = useZoom(route, whole);
  const range = asked ?? whole;
  const narrow = useNarrow();
  const names = narrow ? 0 : NAMES;
  const [place, width] = useWidth();
  return html`
    <div class="tools">
      <h2>How many ran at a time</h2>
      <${Spans} route=${route} span=${span} />
      <button type="button" aria-label="Zoom in" onClick=${() => zoom(0.5)}>+</button>
      <button type="button" aria-label="Zoom out" onClick=${() => zoom(2)}>${"−"}</button>
      <button type="button" aria-label="Earlier" onClick=${() => zoom(1, -0.25)}>${"←"}</button>
      <button type="button" aria-label="Later" onClick=${() => zoom(1, 0.25)}>${"→"}</button>
      <button type="button" onClick=${() => zoom(0)}>Fit</button>
    </div>
    <div ref=${place}>
      ${runs.length === 0 && html`<p class="nothing">${isEmpty(filter) ? "No attempt is recorded." : "No attempt matches the filter."}</p>`}
      ${width > 0 && runs.length > 0 && html`
        <${Concurrency} runs=${runs} range=${range} width=${width} names=${names || AXIS} now=${now} />
        <${Rows} runs=${runs} range=${range} width=${width} names=${names} now=${now} zoom=${zoom} route=${route} />`}
    </div>
    <p class="legend">
      <span class="key waiting"></span> waiting to be started <span class="key pending"></span> pending on the engine
      <span class="key running"></span> running <span class="key succeeded"></span> succeeded <span class="key failed"></span> failed.
      Drag or arrow keys move, Ctrl and the wheel or + and ${"−"} zoom, 0 fits.
    </p>`;
}

function Spans({ route, span }) {
  const choice = (name, words) => html`
    <button type="button" class="chip" aria-pressed=${span === name} onClick=${() => replace(altered(route, { span: name === "all" ? "all" : "", from: "", until: "" }))}>${words}</button>`;
  return html`<div class="chips" role="group" aria-label="Time">${choice("last", "Last apply")} ${choice("all", "All")}</div>`;
}

/** Return the runs with something to draw, in the order in which they were started. */
function rowsOf(report, filter, span) {
  const matches = matcher(filter);
  const newest = report.attempts.findLast((attempt) => attempt.apply)?.apply;
  const counts = (attempt) => span === "all" || attempt.apply === newest;
  const rows = [];
  for (const run of report.runs) {
    if (!matches(run)) continue;
    const attempts = run.attempts.filter(counts);
    if (attempts.length || run.unstarted) rows.push({ run, attempts, first: attempts[0]?.created ?? Infinity });
  }
  return rows.sort((a, b) => a.first - b.first || a.run.place - b.run.place);
}

/** Return the time from the first to the last thing that happened, with a margin. */
function extent(rows, span, now) {
  let [low, high] = [Infinity, -Infinity];
  for (const { attempts } of rows) {
    for (const attempt of attempts) {
      low = Math.min(low, span === "all" ? attempt.created ?? now : attempt.accepted ?? attempt.created ?? now);
      high = Math.max(high, attempt.finished ?? (isLive(attempt.status) ? now : attempt.started ?? attempt.created ?? low));
    }
  }
  if (low > high) [low, high] = [now - 60_000, now];
  const margin = Math.max(SHORTEST, (high - low) * 0.02);
  return [low - margin, high + margin];
}

/** Return the range that was zoomed to, null for all; and what zooms by a factor (0 fits) and moves by a part of the width. */
function useZoom(route, whole) {
  const given = [Number(route.query.from), Number(route.query.until)];
  const [range, setRange] = useState(given[0] < given[1] ? given : null);
  const timer = useRef(0);
  useEffect(() => {
    if (!route.query.from) setRange(null);
  }, [route.query.from, route.query.span]);
  const zoom = useCallback(
    (factor, moved = 0, centre = 0.5) => {
      setRange((old) => {
        const [from, until] = old ?? whole;
        const length = Math.max(SHORTEST, (until - from) * factor);
        const start = from + (until - from) * centre - length * centre + length * moved;
        const next = factor === 0 ? null : [start, start + length];
        clearTimeout(timer.current);
        timer.current = setTimeout(() => {
          const [a, b] = next ? next.map((time) => String(Math.round(time))) : ["", ""];
          history.replaceState(null, "", altered(route, { from: a, until: b }));
        }, 300);
        return next;
      });
    },
    [whole, route],
  );
  return [range, zoom];
}

/** The bars: one line for each run. Only what can be seen is drawn. */
function Rows({ runs, range, width: outer, names, now, zoom, route }) {
  const place = useRef(null);
  const [scrolled, setScrolled] = useState(0);
  const [active, setActive] = useState(-1);
  const [tip, setTip] = useState(null);
  const row = names ? ROW : PHONE_ROW;
  const height = Math.min(runs.length * row, Math.max(200, innerHeight * 0.62));
  const width = outer - (runs.length * row > height ? SCROLL_BAR : 0);
  const scale = (width - names) / (range[1] - range[0]);
  const draw = useCallback(
    (context, _width, _height, colour) => drawRows(context, colour, { runs, range, width, names, now, scrolled, height, active, scale, row }),
    [runs, range, width, names, now, scrolled, height, active, scale, row],
  );
  useEffect(
    () =>
      listening(place.current, "wheel", (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        zoom(event.deltaY < 0 ? 0.8 : 1.25, 0, Math.max(0, (event.offsetX - names) / (width - names)));
      }, { passive: false }),
    [zoom, width, names],
  );
  const openRow = (index) => runs[index] && open(to(route, "run", runs[index].run.address));
  const go = (index) => {
    const next = Math.max(0, Math.min(runs.length - 1, index));
    setActive(next);
    const { scrollTop } = place.current;
    if (next * row < scrollTop) place.current.scrollTop = next * row;
    if ((next + 1) * row > scrollTop + height) place.current.scrollTop = (next + 1) * row - height;
  };
  const onKeyDown = (event) => {
    const actions = {
      ArrowDown: () => go(active + 1), ArrowUp: () => go(active - 1), Home: () => go(0), End: () => go(runs.length - 1),
      ArrowLeft: () => zoom(1, -0.1), ArrowRight: () => zoom(1, 0.1), "+": () => zoom(0.5), "-": () => zoom(2), 0: () => zoom(0),
      Enter: () => openRow(active),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  };
  const pointer = useDrag(zoom, width - names, openRow, (event) => {
    const index = Math.floor((event.clientY - place.current.getBoundingClientRect().top + place.current.scrollTop) / row);
    const x = event.clientX - place.current.getBoundingClientRect().left;
    return { index, time: range[0] + (x - names) / scale, x };
  }, setTip);
  const said = active >= 0 && runs[active] ? describe(runs[active], null, now).join(", ") : "";
  const pointed = tip && runs[tip.index];
  return html`
    <div
      ref=${place} class="timeline-rows" style=${{ height: `${height}px` }} tabindex="0" role="group"
      aria-label=${`Timeline of ${counted(runs.length, "run")}`}
      onScroll=${(event) => setScrolled(event.target.scrollTop)} onKeyDown=${onKeyDown} onFocus=${() => active < 0 && setActive(0)} ...${pointer}
    >
      <div style=${{ height: `${runs.length * row}px` }}>
        <${Canvas} draw=${draw} width=${width} height=${height} class="sticky" label="When each attempt waited, was pending and ran" />
      </div>
    </div>
    <p class="unseen" role="status">${harmless(said)}</p>
    ${pointed && html`<${Tip} x=${tip.x} y=${tip.y}>${describe(pointed, tip.time, now).map((line) => html`${harmless(line)}<br />`)}<//>`}`;
}

/** Return handlers that move the range with the pointer, open what is clicked, and tell what is pointed at. */
function useDrag(zoom, width, openRow, at, setTip) {
  const start = useRef(null);
  return {
    onPointerDown: (event) => {
      start.current = { x: event.clientX, moved: false };
    },
    onPointerMove: (event) => {
      const { index, time } = at(event);
      setTip({ index, time, x: event.clientX, y: event.clientY });
      if (!start.current || event.pointerType === "touch") return;
      const moved = event.clientX - start.current.x;
      if (Math.abs(moved) < 4 && !start.current.moved) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      zoom(1, -moved / width);
      start.current = { x: event.clientX, moved: true };
    },
    onPointerUp: (event) => {
      if (start.current && !start.current.moved) openRow(at(event).index);
      start.current = null;
    },
    onPointerLeave: () => {
      start.current = null;
      setTip(null);
    },
  };
}

/** Return what is known of a row at a time, in lines. */
function describe({ run, attempts }, time, now) {
  const attempt = attempts.find((one) => time !== null && time <= (one.finished ?? now)) ?? attempts.at(-1);
  if (!attempt) return [run.address, `${run.unstarted.status} ${run.unstarted.reason}`];
  const waited = attempt.accepted && attempt.created - attempt.accepted;
  const pending = (attempt.started ?? attempt.finished ?? now) - attempt.created;
  return [
    `${run.address} #${attempt.number}: ${wordsOf(attempt.status)}`,
    waited > 0 && `waited ${duration(waited)}`,
    `pending ${duration(pending)}`,
    attempt.started && `ran ${duration(ranFor(attempt, now))}${attempt.slow ? ", slower than usual" : ""}`,
    `created ${clock(attempt.created, now)}`,
  ].filter(Boolean);
}

function drawRows(context, colour, { runs, range, width, names, now, scrolled, height, active, scale, row }) {
  const xOf = (time) => names + Math.max(0, Math.min(width - names, (time - range[0]) * scale));
  const middle = (y) => y + (names ? row / 2 : row - 10);
  const bar = (name, from, until, y, tall) => {
    if (from === null || until < range[0] || from > range[1]) return;
    context.fillStyle = colour(name);
    context.fillRect(xOf(from), middle(y) - tall / 2, Math.max(1.5, xOf(until) - xOf(from)), tall);
  };
  context.font = "12px ui-monospace, Menlo, Consolas, 'Liberation Mono', monospace";
  context.textBaseline = "middle";
  const first = Math.floor(scrolled / row);
  for (let index = first; index < Math.min(runs.length, first + Math.ceil(height / row) + 1); index++) {
    const { run, attempts } = runs[index];
    const y = index * row - scrolled;
    if (index === active || index % 2) {
      context.fillStyle = colour(index === active ? "line" : "ground");
      context.fillRect(0, y, width, row);
    }
    context.fillStyle = isProblem(run.status) ? colour(run.status) : colour("ink");
    context.fillText(fitting(context, harmless(run.address), (names || width) - 14), 4, y + ROW / 2 - (names ? 0 : 2));
    let before = -Infinity;
    for (const attempt of attempts) {
      const end = attempt.finished ?? (isLive(attempt.status) ? now : attempt.started ?? attempt.created);
      if (attempt.accepted !== null) bar("waiting", Math.max(attempt.accepted, before), attempt.created, y, 2);
      before = end;
      bar("pending", attempt.created, attempt.started ?? end, y, 6);
      bar(attempt.status, attempt.started, end, y, 13);
    }
    if (run.unstarted?.status === "waiting") bar("waiting", run.unstarted.apply?.at ?? null, now, y, 2);
    if (run.status === "skipped") {
      context.fillStyle = colour("skipped");
      context.fillText("skipped", names + 6, middle(y));
    }
  }
  context.fillStyle = colour("line");
  context.fillRect(names - 1, 0, 1, height);
  if (now > range[0] && now < range[1]) context.fillRect(xOf(now), 0, 1, height);
}

/** Return a text that fits a width; its middle is cut, never its end, for that tells the cells apart. */
function fitting(context, text, width) {
  const most = Math.floor(width / context.measureText("m").width);
  if (text.length <= most) return text;
  const end = Math.floor((most - 1) / 2);
  return `${text.slice(0, most - 1 - end)}${"…"}${text.slice(text.length - end)}`;
}
