/** The page around the views: what it is about, the way to the views, the filter, and how the connection is. */

import { useEffect, useMemo } from "preact/hooks";
import { FilterBar } from "./filterbar.js";
import { filterOf } from "./filter.js";
import { listening, useNow, useRoute } from "./hooks.js";
import { html, Time } from "./html.js";
import { open, to, VIEWS } from "./route.js";
import { inWords, isProblem } from "./statuses.js";
import { counted, harmless } from "./text.js";
import { Graph } from "./views/graph.js";
import { History } from "./views/history.js";
import { Now } from "./views/now.js";
import { Plan } from "./views/plan.js";
import { Run } from "./views/run.js";
import { Timeline } from "./views/timeline.js";

const SHOWN = { now: Now, plan: Plan, timeline: Timeline, graph: Graph, history: History, run: Run };

/**
 * @param {object} props
 * @param {import("./model.js").Report|null} props.report  null before the first one has come
 * @param {{lost: boolean, since: number, why: string}|null} props.connection  null for a file
 */
export function App({ report, connection }) {
  const route = useRoute();
  const now = useNow(report, connection !== null && !connection.lost);
  const filter = useMemo(() => filterOf(route.query), [JSON.stringify(route.query)]);
  useEffect(() => listening(document, "keydown", onKey), []);
  useEffect(() => {
    if (report) document.title = titleOf(report);
  }, [report]);
  const view = route.view || (report?.runs.some((run) => run.attempts.length || run.unstarted) ? "now" : "plan");
  useEffect(() => scrollTo(0, 0), [view, route.subject]);
  if (!report) return html`<main class="sorry"><p role="status">${connection ? `Nothing to show yet: ${connection.why}` : "Waiting for the data ..."}</p></main>`;
  const View = SHOWN[view];
  const known = { ...route, view };
  return html`
    <a class="skip" href="#main" onClick=${skip}>To the content</a>
    <header class="top">
      <h1>${harmless(report.title)}<small> flowplan</small></h1>
      <nav aria-label="Views">
        ${Object.entries(VIEWS).map(
          ([name, title]) => html`<a href=${to(known, name)} aria-current=${name === view ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <${Connection} connection=${connection} report=${report} now=${now} />
    </header>
    ${view !== "run" && html`<${FilterBar} report=${report} route=${known} filter=${filter} />`}
    <main id="main" tabindex="-1" class=${`view-${view}`}>
      <${View} report=${report} route=${known} filter=${filter} now=${now} />
    </main>
    <${Footer} report=${report} />`;
}

function Connection({ connection, report, now }) {
  if (!connection) return html`<p class="connection">as of <${Time} at=${report.madeAt} now=${NaN} /></p>`;
  if (!connection.lost) return html`<p class="connection live" role="status"><span aria-hidden="true">${"●"}</span> live</p>`;
  return html`<p class="connection lost" role="alert" title=${connection.why}>
    connection lost <${Time} at=${connection.since} now=${now} />, trying again; this is as of <${Time} at=${report.madeAt} now=${now} />
  </p>`;
}

function Footer({ report }) {
  const { document } = report;
  return html`<footer>
    ${document.left_out.map((sentence) => html`<p class="left-out">${harmless(sentence)}</p>`)}
    <p>
      ${counted(report.runs.length, "run")}, ${counted(report.attempts.length, "attempt")}.
      ${document.follower && ` Carried on by ${harmless(document.follower)}.`}
      ${" "}Times are in the zone of this computer (${Intl.DateTimeFormat().resolvedOptions().timeZone}).
      Made by flowplan ${document.flowplan_version} on <time dateTime=${document.made_at}>${new Date(report.madeAt).toUTCString()}</time>.
    </p>
    <p class="keys"><kbd>/</kbd> search, <kbd>${"↑"}</kbd> <kbd>${"↓"}</kbd> move, <kbd>Enter</kbd> open, <kbd>Escape</kbd> back</p>
  </footer>`;
}

/** Return the title of the window: what asks for attention comes first. */
function titleOf(report) {
  const problems = new Map();
  for (const run of report.runs) {
    if (run.managed && isProblem(run.status)) problems.set(run.status, (problems.get(run.status) ?? 0) + 1);
  }
  return [inWords(problems), report.title, "flowplan"].filter(Boolean).map(harmless).join(" · ");
}

/** Move the focus to the content without a change of the fragment, which is the route. */
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.getElementById("search");
  const writing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !writing && search) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "Escape") {
    if (writing) writing.blur();
    else if (location.hash.startsWith("#run/")) history.length > 1 ? history.back() : open("#now");
  }
}
