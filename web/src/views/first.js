/** What failed first: since when, its last lines, what did not start because of it, whether it was slower than usual. */

import { html, Address, Status, Time } from "../html.js";
import { ranFor, said, usual } from "../model.js";
import { to } from "../route.js";
import { isProblem } from "../statuses.js";
import { ago, counted, duration, harmless } from "../text.js";
import { Output } from "../output.js";

const LINES = 8;
const MOST_NAMED = 4;

export function FirstProblem({ report, run, route, now }) {
  const attempt = run.last;
  const ended = attempt.finished ?? attempt.created;
  const others = report.runs.filter((other) => other !== run && other.managed && isProblem(other.status)).length;
  return html`
    <section class="first" aria-labelledby="first-title">
      <h2 id="first-title">
        ${others ? "Failed first: " : ""}<a href=${to(route, "run", run.address)}><${Address} run=${run} /></a>${" "}<${Status} status=${run.status} />
      </h2>
      <dl>
        <dt>Why</dt>
        <dd>${harmless(said(attempt) || "the engine does not say")}</dd>
        <dt>When</dt>
        <dd><${Time} at=${ended} now=${now} />, ${ago(ended, now)}${since(run, now)}</dd>
        <dt>Took</dt>
        <dd>${took(attempt, now)}</dd>
        <dt>Because of it</dt>
        <dd><${HeldBack} report=${report} run=${run} route=${route} /></dd>
        ${others > 0 && html`<dt>Also</dt><dd>${counted(others, "more run")} failed</dd>`}
      </dl>
      <${Output} attempt=${attempt} last=${LINES} />
    </section>`;
}

/** Return since when it fails: `; 3 attempts in a row since Tue 24 Nov; succeeded last Mon 23 Nov`. */
function since(run, now) {
  const succeeded = run.attempts.findLast((attempt) => attempt.status === "succeeded");
  const row = run.attempts.filter((attempt) => isProblem(attempt.status) && attempt.row > (succeeded?.row ?? -1));
  return [
    row.length > 1 && html`; ${counted(row.length, "attempt")} failed in a row since <${Time} at=${row[0].finished ?? row[0].created} now=${now} />`,
    succeeded ? html`; succeeded last <${Time} at=${succeeded.finished} now=${now} />` : "; it has not succeeded before",
  ];
}

/** Return how long an attempt took, and how that compares. */
export function took(attempt, now) {
  const time = ranFor(attempt, now);
  if (time === null) return "it did not run";
  const before = usual(attempt);
  if (before === null) return `${duration(time)}; too few attempts succeeded before to tell what is usual`;
  if (attempt.slow) return html`${duration(time)}: <span class="slow">slower than usual</span>, which is ${duration(before)}`;
  return `${duration(time)}; usual is ${duration(before)}`;
}

/** What did not start because of a run. */
export function HeldBack({ report, run, route }) {
  const held = report.heldBack(run);
  if (!held.length) return "nothing was kept from starting";
  return html`
    ${held.slice(0, MOST_NAMED).map((other, i) => html`${i > 0 && ", "}<a href=${to(route, "run", other.address)}><${Address} run=${other} /></a>`)}
    ${held.length > MOST_NAMED && ` and ${counted(held.length - MOST_NAMED, "more run")}`}
    ${" "}did not start`;
}
