/** Graph: what needs what. A node is a run of the spec with all its cells; what has not started is in it as well. */

import { layout, Graph as Layered } from "@dagrejs/dagre";
import { useMemo, useState } from "preact/hooks";
import { isEmpty, matcher } from "../filter.js";
import { useNarrow, useWidth } from "../hooks.js";
import { html } from "../html.js";
import { to } from "../route.js";
import { inWords, rank, signOf, sorted, wordsOf } from "../statuses.js";
import { counted, harmless, number } from "../text.js";

const MOST = 150;
/** Nodes; more are slow to lay out, and nobody reads them. */
const [WIDTH, HEIGHT] = [208, 62];
const LONGEST = 21;
const SMALLEST = 0.75;
/** Of the scale that fits: what is smaller cannot be read. */

export function Graph({ report, route, filter }) {
  const narrow = useNarrow();
  const [place, width] = useWidth();
  const [zoom, setZoom] = useState(0);
  const { groups, left } = useMemo(() => chosen(report, filter), [report, filter]);
  const picture = useMemo(() => laidOut(groups, narrow ? "TB" : "LR"), [groups, narrow]);
  const fitting = Math.max(SMALLEST, Math.min(1, (width - 4) / picture.width));
  const scale = zoom || fitting;
  return html`
    <div class="tools">
      <h2>What needs what</h2>
      <button type="button" aria-label="Larger" onClick=${() => setZoom(scale * 1.25)}>+</button>
      <button type="button" aria-label="Smaller" onClick=${() => setZoom(scale / 1.25)}>${"−"}</button>
      <button type="button" onClick=${() => setZoom(0)}>Fit</button>
      ${left > 0 && html`<span class="nothing">${counted(left, "more run")} of the spec not shown: these are the most urgent ones, and what they need. The filter shows others.</span>`}
    </div>
    <div class="graph" ref=${place} onKeyDown=${onKeyDown}>
      ${!groups.length && html`<p class="nothing">${isEmpty(filter) ? "There are no runs." : "No run matches the filter."}</p>`}
      <svg
        width=${picture.width * scale} height=${picture.height * scale} viewBox=${`0 0 ${picture.width} ${picture.height}`}
        role="group" aria-label=${`Graph of ${counted(groups.length, "run")}`}
      >
        <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" /></marker></defs>
        ${picture.edges.map((edge) => html`<path class=${`edge ${edge.problem ? "problem" : ""}`} d=${edge.path} marker-end="url(#tip)" />`)}
        ${picture.nodes.map((node) => html`<${Node} ...${node} route=${route} />`)}
      </svg>
    </div>`;
}

function Node({ group, x, y, route }) {
  const states = sorted(group.states);
  const [worst] = states[0] ?? ["planned"];
  const total = group.runs.length || 1;
  const stands = group.matrix ? `${number(group.runs.length)} cells: ${inWords(group.states)}` : wordsOf(worst);
  const again = group.runs.filter((run) => run.unstarted && run.unstarted.status !== run.status);
  const said = again.length ? `${stands} before; ${group.matrix ? `${number(again.length)} ` : ""}${again[0].unstarted.status} now` : stands;
  const upstream = group.upstream.length > 0 && `needs ${group.upstream.map((one) => one.name).join(", ")}, which failed`;
  const target = group.matrix ? to(route, "now", "", { text: `${group.name}[` }) : to(route, "run", group.runs[0]?.address ?? group.name);
  let from = 0;
  return html`
    <a class=${`node ${worst}`} href=${target} data-name=${group.name}>
      <g transform=${`translate(${x - WIDTH / 2} ${y - HEIGHT / 2})`}>
        <title>${harmless([group.name, group.description, said, upstream].filter(Boolean).join("\n"))}</title>
        <rect class="box" width=${WIDTH} height=${HEIGHT} rx="6" />
        <text class="sign" x="12" y="24">${signOf(worst)}</text>
        <text class="name" x="30" y="24">${harmless(short(group.name))}</text>
        <text class="count" x="12" y="43">${short(said, 34)}</text>
        ${upstream && html`<text class="upstream" x=${WIDTH - 20} y="24">${"⚠"}</text>`}
        ${states.map(([status, count]) => {
          const width = ((WIDTH - 24) * count) / total;
          from += width;
          return html`<rect class=${`part ${status}`} x=${12 + from - width} y=${HEIGHT - 11} width=${width} height="4" />`;
        })}
      </g>
    </a>`;
}

const short = (text, most = LONGEST) => (text.length > most ? `${text.slice(0, most - 3)}...` : text);

/** Return the groups to draw: those that match with what they need; of too many the most urgent ones. */
function chosen(report, filter) {
  const alive = report.groups.filter((group) => group.runs.length);
  const matches = matcher(filter);
  const wanted = isEmpty(filter) ? alive : alive.filter((group) => group.runs.some(matches));
  if (wanted.length <= MOST && isEmpty(filter)) return { groups: wanted, left: 0 };
  const urgency = new Map(wanted.map((group) => [group, Math.min(...[...group.states.keys()].map(rank))]));
  const found = new Set();
  const add = (group) => {
    if (found.size >= MOST || found.has(group) || !group.runs.length) return;
    found.add(group);
    group.needs.forEach(add);
  };
  [...wanted].sort((a, b) => urgency.get(a) - urgency.get(b)).forEach(add);
  return { groups: report.groups.filter((group) => found.has(group)), left: isEmpty(filter) ? alive.length - found.size : wanted.filter((group) => !found.has(group)).length };
}

/** Return the places of nodes and edges, by dagre. */
function laidOut(groups, direction) {
  const graph = new Layered();
  graph.setGraph({ rankdir: direction, nodesep: 18, ranksep: direction === "LR" ? 56 : 36, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  const shown = new Set(groups);
  for (const group of groups) graph.setNode(group.name, { width: WIDTH, height: HEIGHT });
  for (const group of groups) {
    for (const need of group.needs) if (shown.has(need)) graph.setEdge(need.name, group.name);
  }
  layout(graph);
  const byName = new Map(groups.map((group) => [group.name, group]));
  return {
    width: graph.graph().width ?? 0,
    height: graph.graph().height ?? 0,
    nodes: groups.map((group) => ({ key: group.name, group, x: graph.node(group.name).x, y: graph.node(group.name).y })),
    edges: graph.edges().map((edge) => {
      const from = byName.get(edge.v);
      return { problem: from.problem || from.upstream.length > 0, path: curve(graph.edge(edge).points) };
    }),
  };
}

/** Return a smooth path through points. */
function curve(points) {
  const [first, ...rest] = points;
  const middle = rest.slice(0, -1).map((point, i) => {
    const next = rest[i + 1];
    return ` Q${point.x} ${point.y} ${(point.x + next.x) / 2} ${(point.y + next.y) / 2}`;
  });
  const last = rest.at(-1);
  return `M${first.x} ${first.y}${middle.join("")} L${last.x} ${last.y}`;
}

/** Move the focus to the nearest node in the direction of an arrow. */
function onKeyDown(event) {
  const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  const way = ways[event.key];
  const here = event.target.closest(".node");
  if (!way || !here) return;
  event.preventDefault();
  const from = centre(here);
  const distance = (node) => {
    const [x, y] = [centre(node).x - from.x, centre(node).y - from.y];
    const along = x * way[0] + y * way[1];
    return along > 1 ? along + 2 * Math.abs(x * way[1] + y * way[0]) : Infinity;
  };
  const nodes = [...event.currentTarget.querySelectorAll(".node")].filter((node) => node !== here);
  const nearest = nodes.reduce((best, node) => (best && distance(best) <= distance(node) ? best : node), null);
  if (nearest && distance(nearest) < Infinity) nearest.focus();
}

function centre(node) {
  const box = node.getBoundingClientRect();
  return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
}
