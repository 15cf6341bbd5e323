/** One run: what became of it, its attempts, output, objects and what changed in them, and its events. */

import { useMemo } from "preact/hooks";
import { changes, lines } from "../difference.js";
import { Address, html, Slow, Status, Time } from "../html.js";
import { outcome, ranFor, said } from "../model.js";
import { Output } from "../output.js";
import { altered, to } from "../route.js";
import { inWords, isProblem } from "../statuses.js";
import { counted, duration, harmless, harmlessLines } from "../text.js";
import { HeldBack, took } from "./first.js";

export function Run({ report, route, now }) {
  const run = report.byAddress.get(route.subject);
  if (!run) return html`<p class="nothing">Nothing is known of ${harmless(route.subject)}. <a href=${to(route, "now")}>All runs</a></p>`;
  const number = Number(route.query.attempt);
  const attempt = run.attempts.find((one) => one.number === number) ?? run.last;
  return html`
    <h2 class="title"><${Address} run=${run} />${" "}<${Status} status=${run.status} /></h2>
    ${run.group.description && html`<p>${harmless(run.group.description)}</p>`}
    <div class="columns">
      <div>
        <${Facts} report=${report} run=${run} attempt=${attempt} route=${route} now=${now} />
        <${Attempts} run=${run} shown=${attempt} route=${route} now=${now} />
        <${Events} report=${report} run=${run} now=${now} />
      </div>
      <div>
        ${attempt && html`
          <section aria-labelledby="output-title">
            <h3 id="output-title">Output of attempt ${attempt.number}</h3>
            <${Output} key=${attempt.row} attempt=${attempt} />
          </section>
          <${Objects} report=${report} attempt=${attempt} />`}
      </div>
    </div>`;
}

function Facts({ report, run, attempt, route, now }) {
  const { unstarted } = run;
  const facts = [];
  const fact = (name, value) => value && facts.push(html`<dt>${name}</dt><dd>${value}</dd>`);
  if (attempt) {
    fact("Outcome", harmless(said(attempt)));
    fact("Started", attempt.started && html`<${Time} at=${attempt.started} now=${now} />`);
    fact("Ended", attempt.finished && html`<${Time} at=${attempt.finished} now=${now} />`);
    fact("Took", took(attempt, now));
    fact("Executions", attempt.tries > 1 && `${attempt.tries} within this attempt`);
  }
  if (unstarted) fact(unstarted.status === "skipped" ? "Skipped" : "Waits", harmless(unstarted.reason || "for its turn"));
  if (isProblem(run.status)) fact("Because of it", html`<${HeldBack} report=${report} run=${run} route=${route} />`);
  if (run.needs.length) fact("Needs", html`<${Needs} runs=${run.needs} route=${route} />`);
  fact("Labels", Object.entries(run.labels).map(([name, value], i) => html`${i > 0 && ", "}<a href=${to(route, "now", "", { label: `${name}=${value}` })}>${harmless(`${name}=${value}`)}</a>`));
  fact("Provider", harmless([run.provider, run.target].filter(Boolean).join(" on ")));
  fact("Name", attempt && harmless(attempt.name));
  fact("Image", harmless(run.image));
  fact("Run id", harmless(run.runId));
  fact("On the engine", harmless(run.infrastructureId));
  return html`<section aria-label="Facts"><dl class="facts">${facts}</dl></section>`;
}

const MOST_CELLS = 3;

function Needs({ runs, route }) {
  const groups = Map.groupBy(runs, (run) => run.group);
  return [...groups].map(([group, cells], i) => html`${i > 0 && ", "}<${Need} group=${group} cells=${cells} route=${route} />`);
}

/** What is needed of a group: the runs, or how many of them stand how. */
function Need({ group, cells, route }) {
  if (cells.length <= MOST_CELLS) {
    return cells.map((run, i) => html`${i > 0 && ", "}<a href=${to(route, "run", run.address)}><${Address} run=${run} /></a>${" "}<${Status} status=${run.status} />`);
  }
  const states = new Map([...Map.groupBy(cells, (run) => run.status)].map(([status, runs]) => [status, runs.length]));
  return html`<a href=${to(route, "now", "", { text: `${group.name}[` })}><b class="address">${harmless(group.name)}</b></a> (${counted(cells.length, "cell")}: ${inWords(states)})`;
}

function Attempts({ run, shown, route, now }) {
  if (!run.attempts.length) return html`<p class="nothing">It has not been started.</p>`;
  return html`
    <section aria-labelledby="attempts-title">
      <h3 id="attempts-title">${counted(run.attempts.length, "attempt")}</h3>
      <div class="wide"><table>
        <thead><tr><th scope="col">#</th><th scope="col">Outcome</th><th scope="col">Started</th><th scope="col">Took</th></tr></thead>
        <tbody>${[...run.attempts].reverse().slice(0, MOST_ATTEMPTS).map(
          (attempt) => html`
            <tr class=${attempt === shown ? "shown" : ""}>
              <td><a href=${altered(route, { attempt: String(attempt.number) })} aria-current=${attempt === shown ? "true" : undefined}>${attempt.number}</a></td>
              <td><${Status} status=${attempt.status} />${" "}${harmless(isProblem(attempt.status) ? outcome(attempt) : "")}</td>
              <td><${Time} at=${attempt.started ?? attempt.created} now=${now} /></td>
              <td>${duration(ranFor(attempt, now))}${" "}<${Slow} attempt=${attempt} /></td>
            </tr>`,
        )}</tbody>
      </table></div>
      ${run.attempts.length > MOST_ATTEMPTS && html`<p><a href=${to(route, "history", run.address)}>All attempts</a></p>`}
    </section>`;
}

const MOST_ATTEMPTS = 20;

function Events({ report, run, now }) {
  const events = useMemo(() => report.events(run).reverse(), [report, run]);
  if (!events.length) return null;
  return html`
    <section aria-labelledby="events-title">
      <h3 id="events-title">Events</h3>
      <ol class="events">${events.slice(0, MOST_EVENTS).map(
        (event) => html`
          <li><${Time} at=${event.at} now=${now} />${" "}<small>#${event.number}</small>${" "}<${Status} status=${event.status} />
            ${" "}${harmless([event.reason, event.message].filter(Boolean).join(": "))}</li>`,
      )}</ol>
      ${events.length > MOST_EVENTS && html`<p>${events.length - MOST_EVENTS} older events are not shown.</p>`}
    </section>`;
}

const MOST_EVENTS = 200;

/** The objects of an attempt, and what differs from those of the attempt before it. */
function Objects({ report, attempt }) {
  const objects = useMemo(() => report.objects(attempt), [report, attempt]);
  const before = attempt.run.attempts[attempt.run.attempts.indexOf(attempt) - 1];
  const changed = useMemo(() => {
    const old = before && report.objects(before);
    return old && objects ? changes(old, objects) : null;
  }, [report, attempt]);
  if (!objects) return html`<p class="nothing">The report holds no objects of this attempt.</p>`;
  return html`
    <section aria-labelledby="objects-title">
      <h3 id="objects-title">Objects</h3>
      ${changed && html`<p>${changed.length ? `${counted(changed.length, "field")} changed since attempt ${before.number}:` : `As in attempt ${before.number}.`}</p>`}
      ${changed?.length > 0 && html`
        <div class="wide"><table class="changes">
          <thead><tr><th scope="col">Field</th><th scope="col">Before</th><th scope="col">Now</th></tr></thead>
          <tbody>${changed.map(({ path, before, after }) => html`
            <tr><th scope="row"><code>${harmless(path)}</code></th><td><del>${harmlessLines(before)}</del></td><td><ins>${harmlessLines(after)}</ins></td></tr>`)}
          </tbody>
        </table></div>`}
      <details><summary>Whole objects</summary><pre class="objects" tabindex="0" aria-label="Whole objects">${harmlessLines(lines(objects).join("\n"))}</pre></details>
    </section>`;
}
