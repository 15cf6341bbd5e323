/** Now: how everything stands. What failed first is said at once; below it are all runs, the urgent ones first. */

import { useCallback, useMemo } from "preact/hooks";
import { isEmpty, matcher } from "../filter.js";
import { useNarrow, useWidth } from "../hooks.js";
import { Address, html, Slow, Status, Time } from "../html.js";
import { List } from "../list.js";
import { ranFor, said, urgency } from "../model.js";
import { altered, open, replace, to } from "../route.js";
import { inWords, isLive, isProblem, sorted } from "../statuses.js";
import { layout, Strip } from "../strip.js";
import { counted, duration, harmless } from "../text.js";
import { FirstProblem } from "./first.js";

const ROW = 34;
const GROUP_ROW = 48;
const PHONE_ROW = 58;
const BESIDE_STRIP = 300;
/** Pixels of a row that its strip leaves to the name and the counts. */

export function Now({ report, route, filter, now }) {
  const [place, width] = useWidth();
  const narrow = useNarrow();
  const opened = route.query.open ?? "";
  const items = useMemo(() => itemsOf(report, filter, opened), [report, filter, opened]);
  const room = narrow ? width - 24 : width - BESIDE_STRIP;
  const heightOf = useCallback(
    (item) => {
      if (item.run) return narrow ? PHONE_ROW : ROW;
      const { height } = layout(item.group.runs.length, room);
      return narrow ? height + 48 : Math.max(GROUP_ROW, height + 16);
    },
    [narrow, room],
  );
  const openRun = (run) => open(to(route, "run", run.address));
  const choose = ({ run, group }) =>
    run ? openRun(run) : replace(altered(route, { open: group.name === opened ? "" : group.name }));
  const first = useMemo(() => isEmpty(filter) && report.firstProblem(), [report, filter]);
  return html`
    <${Summary} report=${report} now=${now} />
    ${first && html`<${FirstProblem} report=${report} run=${first} route=${route} now=${now} />`}
    <section ref=${place} aria-labelledby="runs-title">
      <h2 id="runs-title">${isEmpty(filter) ? "Runs" : counted(items.length, "run")}</h2>
      ${items.length === 0 && html`<p class="nothing">${isEmpty(filter) ? "Nothing is recorded and nothing is planned." : "No run matches the filter."}</p>`}
      ${width > 0 && html`
        <${List}
          label="Runs" items=${items} heightOf=${heightOf} open=${choose}
          keyOf=${({ run, group }) => run?.address ?? `group ${group.name}`}
          expanded=${({ group }) => (group ? group.name === opened : undefined)}
          row=${({ run, group, inner }) =>
            run
              ? html`<${RunCells} run=${run} inner=${inner} route=${route} now=${now} />`
              : html`<${GroupCells} group=${group} opened=${group.name === opened} width=${room} open=${openRun} />`}
        />`}
    </section>`;
}

/** Who applied the newest plan and when, and what came of it. */
function Summary({ report, now }) {
  const apply = report.applies.findLast((one) => one.plan);
  if (!apply) return null;
  const who = [apply.user && `by ${apply.user}`, apply.host && `on ${apply.host}`].filter(Boolean).join(" ");
  const came = [inWords(new Map(Object.entries(apply.ends))), inWords(new Map(Object.entries(apply.steps)))].filter(Boolean).join(", ");
  return html`<p class="said">Applied last <${Time} at=${apply.at} now=${now} /> ${harmless(who)}${came && `: ${came}`}.</p>`;
}

/** Return the rows: runs, and groups of several cells; a filter shows the matching runs alone. */
function itemsOf(report, filter, opened) {
  if (!isEmpty(filter)) {
    const matches = matcher(filter);
    return report.urgentFirst().filter(matches).map((run) => ({ run }));
  }
  const groups = report.groups.filter((group) => group.runs.length);
  const most = new Map(groups.map((group) => [group, group.runs.reduce((low, run) => Math.min(low, urgency(run)), Infinity)]));
  groups.sort((a, b) => most.get(a) - most.get(b));
  return groups.flatMap((group) => {
    if (!group.matrix) return group.runs.map((run) => ({ run }));
    const cells = group.name === opened ? [...group.runs].sort((a, b) => urgency(a) - urgency(b)) : [];
    return [{ group }, ...cells.map((run) => ({ run, inner: true }))];
  });
}

function RunCells({ run, inner, route, now }) {
  const { last } = run;
  return html`
    <span role="gridcell" class="c-status ${inner ? "inner" : ""}"><${Status} status=${run.status} /></span>
    <span role="gridcell" class="c-name"><a tabindex="-1" href=${to(route, "run", run.address)}><${Address} run=${run} /></a></span>
    <span role="gridcell" class="c-what"><${What} run=${run} now=${now} /></span>
    <span role="gridcell" class="c-when"><${Time} at=${last?.finished ?? last?.started ?? last?.created} now=${now} /></span>
    <span role="gridcell" class="c-took">${duration(ranFor(last, now))}</span>`;
}

/** What is to be said of a run in a few words: why it failed, what it waits for, that it is slow. */
function What({ run, now }) {
  const { last, unstarted, overdue } = run;
  const words = [];
  if (last && (isProblem(run.status) || (isLive(run.status) && last.reason))) {
    words.push(html`<span>${harmless(said(last))}</span>`);
  }
  if (unstarted) {
    const until = unstarted.until && unstarted.until > now ? html` until <${Time} at=${unstarted.until} now=${now} />` : "";
    const again = unstarted.status === run.status ? "" : html`<${Status} status=${unstarted.status} /> this time: `;
    words.push(html`<span>${again}${harmless(unstarted.reason || "ready to start")}${until}</span>`);
  }
  if (overdue) words.push(html`<span class="slow">${overdue.setting} passed by ${duration(overdue.passed_by * 1000)}</span>`);
  if (last?.slow) words.push(html`<${Slow} attempt=${last} />`);
  return words.flatMap((part, i) => (i ? ["; ", part] : [part]));
}

function GroupCells({ group, opened, width, open }) {
  const done = group.states.get("succeeded") ?? 0;
  return html`
    <span role="gridcell" class="c-group">
      <span class="fold" aria-hidden="true">${opened ? "▾" : "▸"}</span> <b class="address">${harmless(group.name)}</b>
      <small title=${inWords(group.states)}>${worst(group) ?? ""} ${done} of ${counted(group.runs.length, "cell")} succeeded</small>
    </span>
    <span role="gridcell" class="c-strip"><${Strip} group=${group} width=${width} open=${open} /></span>`;
}

/** Return the most urgent status of a group with its count, where that is worth a word. */
function worst(group) {
  const [status, count] = sorted(group.states)[0];
  if (status === "succeeded") return null;
  return html`<${Status} status=${status}> ${count}<//>`;
}
