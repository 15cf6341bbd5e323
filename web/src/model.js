/**
 * The report as views read it: the columns of the document (schema `report` 1.x, schemas/report.py) become objects that
 * know each other. This is the only module that knows the document's tables.
 */

import { isLive, isProblem, rank } from "./statuses.js";

/**
 * @typedef {object} Run  what is at an address
 * @property {number} place  in the document
 * @property {string} address, name, cell  `backfill[day=1]`, `backfill`, `[day=1]`
 * @property {Group} group
 * @property {string} provider, target, status, image, runId, infrastructureId
 * @property {Record<string, string>} labels  its own, and the values of its cell
 * @property {boolean} managed  false for what is history
 * @property {Run[]} needs
 * @property {Attempt[]} attempts  oldest first
 * @property {Attempt|undefined} last  the newest attempt
 * @property {object|undefined} unstarted  the step that has not begun: status, reason, waitsFor, until, action, number, apply
 * @property {object|undefined} overdue  setting, limit, passed_by (seconds)
 *
 * @typedef {object} Attempt
 * @property {Run} run
 * @property {number} row, number, tries
 * @property {string} status, reason, message, name
 * @property {number|null} exitCode
 * @property {object|null} apply
 * @property {number|null} accepted, created, started, finished  milliseconds since 1970
 * @property {boolean} slow  it took longer than usual
 * @property {number|null} usual  milliseconds that are usual: the median of those that succeeded before
 * @property {{text: string, cut: number}|undefined} output
 *
 * @typedef {object} Group  a run as the spec names it
 * @property {string} name, description
 * @property {Group[]} needs, upstream
 * @property {Run[]} runs  those that count today, in the order of the spec
 * @property {Map<string, number>} states
 * @property {boolean} matrix, problem
 */

const MAJOR = "1";
const MOST_BEFORE = 10;
const LEAST_BEFORE = 3;

/** A report. The document's own members that need no translation are at `document`. */
export class Report {
  #users = null;

  constructor(document) {
    if (document.format_version?.split(".")[0] !== MAJOR) {
      throw new Error(`The data has format ${document.format_version}; this page shows ${MAJOR}.x.`);
    }
    this.document = document;
    this.epoch = Date.parse(document.epoch);
    this.madeAt = Date.parse(document.made_at);
    this.title = [document.project ?? "no project", document.environment].filter(Boolean).join(" / ");
    this.applies = document.applies.map((apply, row) => ({
      ...apply,
      row,
      at: this.#time(apply.at),
      leftAt: this.#time(apply.left_at),
    }));
    this.groups = document.groups.map((group) => ({ ...group, states: new Map(Object.entries(group.states)), runs: [] }));
    for (const group of this.groups) {
      group.needs = group.needs.map((row) => this.groups[row]);
      group.upstream = group.upstream.map((row) => this.groups[row]);
    }
    this.runs = this.#readRuns(document.runs);
    this.byAddress = new Map(this.runs.map((run) => [run.address, run]));
    this.attempts = this.#readAttempts(document.attempts);
    this.#readUnstarted(document.not_started);
    for (const overdue of document.overdue) this.runs[overdue.run].overdue = overdue;
    for (const row of document.slow) this.attempts[row].slow = true;
    for (const output of document.outputs) this.attempts[output.attempt].output = output;
  }

  #time(milliseconds) {
    return milliseconds === null ? null : this.epoch + milliseconds;
  }

  #readRuns(table) {
    const { strings, needs, labels } = this.document;
    const runs = table.address.map((address, place) => {
      const group = this.groups[table.group[place]];
      const bracket = address.indexOf("[");
      const run = {
        place,
        address,
        name: bracket < 0 ? address : address.slice(0, bracket),
        cell: bracket < 0 ? "" : address.slice(bracket),
        group,
        provider: strings[table.provider[place]],
        status: strings[table.status[place]],
        managed: table.managed[place] === 1,
        runId: table.run_id[place],
        infrastructureId: table.infrastructure_id[place],
        image: strings[table.image[place]],
        target: strings[table.target[place]],
        labels: { ...labels[table.labels[place]], ...cellValues(bracket < 0 ? "" : address.slice(bracket)) },
        attempts: [],
        last: undefined,
        unstarted: undefined,
        overdue: undefined,
      };
      if (run.managed) group.runs.push(run);
      return run;
    });
    const lists = needs.map((rows) => rows.map((row) => runs[row]));
    for (const run of runs) run.needs = lists[table.needs[run.place]];
    this.needLists = lists;
    return runs;
  }

  #readAttempts(table) {
    const { strings } = this.document;
    const attempts = table.run.map((place, row) => {
      const apply = table.apply[row] === null ? null : this.applies[table.apply[row]];
      const run = this.runs[place];
      const attempt = {
        row,
        run,
        number: table.number[row],
        status: strings[table.status[row]],
        reason: strings[table.reason[row]],
        message: strings[table.message[row]],
        exitCode: table.exit_code[row],
        tries: table.tries[row],
        apply,
        accepted: apply?.at ?? null,
        created: this.#time(table.created[row]),
        started: this.#time(table.started[row]),
        finished: this.#time(table.finished[row]),
        name: strings[table.name[row]],
        objectsRow: table.objects[row],
        slow: false,
        output: undefined,
      };
      run.attempts.push(attempt);
      return attempt;
    });
    for (const run of this.runs) run.last = run.attempts.at(-1);
    return attempts;
  }

  #readUnstarted(table) {
    const { strings } = this.document;
    table.run.forEach((place, row) => {
      this.runs[place].unstarted = {
        status: strings[table.status[row]],
        reason: strings[table.reason[row]],
        waitsFor: table.waits_for[row].map((other) => this.runs[other]),
        until: this.#time(table.until[row]),
        action: strings[table.action[row]],
        number: table.number[row],
        apply: table.apply[row] === null ? null : this.applies[table.apply[row]],
      };
    });
  }

  /** Return the events of a run, oldest first. */
  events(run) {
    const { events, strings } = this.document;
    const found = [];
    events.run.forEach((place, row) => {
      if (place !== run.place) return;
      found.push({
        seq: events.seq[row],
        at: this.#time(events.at[row]),
        number: events.number[row],
        status: strings[events.status[row]],
        reason: strings[events.reason[row]],
        message: strings[events.message[row]],
      });
    });
    return found;
  }

  /** Return the objects of an attempt by kind; null where they are left out. */
  objects(attempt) {
    if (attempt.objectsRow === null) return null;
    const { objects, strings } = this.document;
    const [base, ...pairs] = objects.rows[attempt.objectsRow];
    const copy = structuredClone(objects.bases[base]);
    for (let i = 0; i < pairs.length; i += 2) put(copy, strings[pairs[i]], pairs[i + 1]);
    return copy;
  }

  /** Return the runs that need a run, directly or through others, and have not begun: waiting or skipped. */
  heldBack(run) {
    this.#users ??= this.#readUsers();
    const { listsWith, runsOf } = this.#users;
    const seen = new Set();
    const found = [];
    const next = [run];
    while (next.length) {
      for (const list of listsWith.get(next.pop()) ?? []) {
        if (seen.has(list)) continue;
        seen.add(list);
        for (const user of runsOf.get(list) ?? []) {
          next.push(user);
          if (user.unstarted) found.push(user);
        }
      }
    }
    return found;
  }

  #readUsers() {
    const listsWith = new Map();
    const runsOf = new Map();
    for (const list of this.needLists) for (const run of list) into(listsWith, run, list);
    for (const run of this.runs) if (run.managed) into(runsOf, run.needs, run);
    return { listsWith, runsOf };
  }

  /** Return the run that failed first: of the newest apply with a problem, that whose newest attempt ended first. */
  firstProblem() {
    const failed = this.runs.filter((run) => run.managed && isProblem(run.status) && run.last);
    const newest = Math.max(...failed.map((run) => run.last.apply?.row ?? -1));
    const ended = (run) => run.last.finished ?? run.last.created ?? 0;
    return failed.filter((run) => (run.last.apply?.row ?? -1) === newest).sort((a, b) => ended(a) - ended(b))[0];
  }

  /** Return the runs that are not history, the urgent ones first. */
  urgentFirst() {
    return this.runs.filter((run) => run.managed).sort((a, b) => urgency(a) - urgency(b) || a.place - b.place);
  }
}

/** Return how urgent a run is, lower is more: by its status, and by that of a step that has not begun. */
export function urgency({ status, unstarted }) {
  return Math.min(rank(status), unstarted ? rank(unstarted.status) : Infinity);
}

/** Return how long an attempt ran, or has run by now; null where it has not started. */
export function ranFor(attempt, now) {
  if (attempt?.started === null || attempt?.started === undefined) return null;
  if (attempt.finished === null && !isLive(attempt.status)) return null;
  return (attempt.finished ?? now) - attempt.started;
}

/** Return what is usual at the address before an attempt, in milliseconds; null where too few succeeded to tell. */
export function usual(attempt) {
  const before = attempt.run.attempts
    .filter((other) => other.row < attempt.row && other.status === "succeeded" && ranFor(other, 0) !== null)
    .slice(-MOST_BEFORE)
    .map((other) => ranFor(other, 0))
    .sort((a, b) => a - b);
  if (before.length < LEAST_BEFORE) return null;
  const middle = before.length >> 1;
  return before.length % 2 ? before[middle] : (before[middle - 1] + before[middle]) / 2;
}

/** Return how an attempt ended in a few words: `exit code 3`, `OOMKilled`. */
export function outcome({ exitCode, reason }) {
  return exitCode === null || exitCode === 0 ? reason : `exit code ${exitCode}`;
}

/** Return how an attempt ended in all words that there are; none is said twice. */
export function said(attempt) {
  const { reason, message } = attempt;
  const short = outcome(attempt);
  if (message.includes(short)) return message;
  return [short, reason !== short && !message ? reason : "", message].filter(Boolean).join(": ");
}

function into(map, key, value) {
  if (!map.has(key)) map.set(key, []);
  map.get(key).push(value);
}

function put(objects, pointer, value) {
  const keys = pointer.slice(1).split("/").map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
  const last = keys.pop();
  let inner = objects;
  for (const key of keys) inner = inner[key];
  inner[last] = value;
}

/** Return the values in `[day=2026-11-01,shard=3]`. */
function cellValues(cell) {
  const pairs = cell.slice(1, -1).match(/[^=,]+=(?:"(?:[^"\\]|\\.)*"|[^,]*)/g) ?? [];
  return Object.fromEntries(pairs.map((pair) => pair.split(/=(.*)/s).slice(0, 2)));
}
