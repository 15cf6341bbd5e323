/** The controls of the filter: text, status, label, provider. They change the address, which is what is shown. */

import { useMemo, useState } from "preact/hooks";
import { isEmpty, matcher } from "./filter.js";
import { html, Status } from "./html.js";
import { altered, replace } from "./route.js";
import { sorted } from "./statuses.js";
import { harmless, number } from "./text.js";

const MOST_LABELS = 500;

export function FilterBar({ report, route, filter }) {
  const [wantsLabels, setWantsLabels] = useState(false);
  const set = (name) => (event) => replace(altered(route, { [name]: event.target.value }));
  const counts = useMemo(() => countsOf(report, filter, route.view), [report, filter, route.view]);
  const providers = useMemo(() => [...new Set(report.runs.map((run) => run.provider))].filter(Boolean), [report]);
  const labels = useMemo(() => (wantsLabels ? labelsOf(report) : []), [report, wantsLabels]);
  const chosen = new Set(filter.status.split(",").filter(Boolean));
  const toggle = (status) => {
    const next = new Set(chosen);
    if (!next.delete(status)) next.add(status);
    replace(altered(route, { status: [...next].join(",") }));
  };
  return html`
    <search class="filter" aria-label="Filter">
      <input
        id="search" type="search" placeholder="Search   /" aria-label="Search in addresses and messages"
        value=${filter.text} onInput=${set("text")} onKeyDown=${toList}
      />
      <div class="chips" role="group" aria-label="Status">
        ${sorted(counts).map(
          ([status, count]) => html`
            <button type="button" class="chip" aria-pressed=${chosen.has(status)} onClick=${() => toggle(status)}>
              <${Status} status=${status} /> <b>${number(count)}</b>
            </button>`,
        )}
      </div>
      <input
        type="text" class="label" list="labels" placeholder="Label" aria-label="Label: name or name=value"
        value=${filter.label} onFocus=${() => setWantsLabels(true)} onChange=${set("label")}
      />
      <datalist id="labels">${labels.map((label) => html`<option value=${label} />`)}</datalist>
      ${providers.length > 1 && html`
        <select aria-label="Provider" value=${filter.provider} onChange=${set("provider")}>
          <option value="">All providers</option>
          ${providers.map((name) => html`<option value=${name}>${harmless(name)}</option>`)}
        </select>`}
      ${!isEmpty(filter) && html`
        <button type="button" onClick=${() => replace(altered(route, { text: "", status: "", label: "", provider: "" }))}>
          Clear
        </button>`}
    </search>`;
}

/** Return how many runs there are of each status, by the other parts of the filter. */
function countsOf(report, filter, view) {
  const matches = matcher(filter, { statuses: false });
  const counts = new Map();
  for (const run of report.runs) {
    if ((run.managed || view === "history") && matches(run)) counts.set(run.status, (counts.get(run.status) ?? 0) + 1);
  }
  return counts;
}

function labelsOf(report) {
  const found = new Set();
  for (const run of report.runs) {
    for (const [name, value] of Object.entries(run.labels)) found.add(`${name}=${value}`);
    if (found.size > MOST_LABELS) break;
  }
  return [...found].sort();
}

/** Go on from the search to what it found. */
function toList(event) {
  if (event.key !== "Enter" && event.key !== "ArrowDown") return;
  event.preventDefault();
  document.querySelector("main .list, main [tabindex='0']")?.focus();
}
