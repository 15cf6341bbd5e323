/** The statuses of runs: their order, words and signs. Colours are the CSS variables `--NAME`. */

/** Status -> its sign and its words; what needs attention first, then what is under way, then what is over. */
const STATUSES = {
  failed: { sign: "✗", words: "failed" },
  timed_out: { sign: "⧖", words: "timed out" },
  lost: { sign: "?", words: "lost" },
  running: { sign: "▶", words: "running" },
  pending: { sign: "◔", words: "pending" },
  creating: { sign: "◌", words: "creating" },
  waiting: { sign: "‖", words: "waiting" },
  skipped: { sign: "⊘", words: "skipped" },
  planned: { sign: "○", words: "planned" },
  cancelled: { sign: "■", words: "cancelled" },
  succeeded: { sign: "✓", words: "succeeded" },
  destroyed: { sign: "–", words: "destroyed" },
};

const ORDER = Object.keys(STATUSES);
const PROBLEMS = new Set(["failed", "timed_out", "lost"]);
const LIVE = new Set(["creating", "pending", "running"]);
const RANK = Object.fromEntries(ORDER.map((name, rank) => [name, rank]));

/** Return whether a status asks for attention. */
export const isProblem = (status) => PROBLEMS.has(status);

/** Return whether an attempt with this status may still do work. */
export const isLive = (status) => LIVE.has(status);

/** Return the place of a status among all; lower is more urgent. */
export const rank = (status) => RANK[status] ?? ORDER.length;

/** Return the words of a status; one that this page does not know is shown as it is. */
export const wordsOf = (status) => STATUSES[status]?.words ?? status;

/** Return the sign of a status. */
export const signOf = (status) => STATUSES[status]?.sign ?? "·";

/** Return the counts of `Map(status -> count)` as words in their order: `2 failed, 10 succeeded`. */
export function inWords(counts) {
  return sorted(counts).map(([status, count]) => `${count.toLocaleString("en")} ${wordsOf(status)}`).join(", ");
}

/** Return the entries of `Map(status -> count)` in the order of urgency. */
export function sorted(counts) {
  return [...counts].sort(([a], [b]) => rank(a) - rank(b));
}
