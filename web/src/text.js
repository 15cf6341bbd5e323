/** Text for people: foreign text made harmless, counts, times and durations. */

/**
 * Return foreign text (a name, a message) on one line, with everything spelled out that a reader does not see or that
 * changes the direction of reading: controls, format characters, odd spaces, fillers.
 */
export function harmless(text) {
  return spelled(text, HIDDEN);
}

/** Return a text of several lines in the same way, with its line ends and tabs. */
export function harmlessLines(text) {
  return spelled(text, HIDDEN_IN_LINES);
}

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u034f\u115f\u1160\u2800\u3164\uffa0]/gu;
const HIDDEN_IN_LINES = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u034f\u115f\u1160\u2800\u3164\uffa0]/gu;

function spelled(text, pattern) {
  return String(text).replace(pattern, (c) => {
    const code = c.codePointAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/** Return `1 run` or `1,234 runs`. */
export function counted(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Return a number with separators between its thousands. */
export function number(value) {
  return value.toLocaleString("en");
}

/** Return `40 ms`, `1.4 s`, `12 s`, `3 min 5 s`, `2 h 4 min` or `3 d 2 h`; "" for null. */
export function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "";
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 0.95) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return parts(whole, 60, "min", "s");
  if (whole < 86400) return parts(Math.round(whole / 60), 60, "h", "min");
  return parts(Math.round(whole / 3600), 24, "d", "h");
}

function parts(value, size, big, small) {
  const rest = value % size;
  return `${Math.floor(value / size)} ${big}${rest ? ` ${rest} ${small}` : ""}`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long" });

/** Return a time of day, with the day before it where that is not the day of `now`: `02:14:05`, `Tue 24 Nov 02:14:05`. */
export function clock(time, now) {
  if (time === null || time === undefined) return "";
  const at = new Date(time);
  const same = at.toDateString() === new Date(now).toDateString();
  return same ? CLOCK.format(at) : `${DAY.format(at).replace(",", "")} ${CLOCK.format(at)}`;
}

/** Return a time in full with its zone, for tooltips. */
export function full(time) {
  return FULL.format(new Date(time));
}

/** Return `3 h ago`. */
export function ago(time, now) {
  return `${duration(now - time).split(" ").slice(0, 2).join(" ")} ago`;
}
