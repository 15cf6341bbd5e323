/** What the charts of uPlot have in common: their axes, in the colours of the theme, with times as the page tells them. */

const STYLES = [
  [1, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1 }],
  [60, { hour: "2-digit", minute: "2-digit", second: "2-digit" }],
  [86_400, { hour: "2-digit", minute: "2-digit" }],
  [Infinity, { day: "numeric", month: "short" }],
];
const DAY = { weekday: "short", day: "numeric", month: "short" };

/** Return an axis; `colour` is from `colours()`. */
export function axis(colour) {
  const line = { stroke: colour("line"), width: 1 };
  return { stroke: colour("quiet"), grid: line, ticks: line };
}

/** Return an axis of times; the day stands below the first time and wherever it changes. */
export function timeAxis(colour) {
  return { ...axis(colour), space: 90, values: (_chart, times, _axis, _space, step) => labels(times, step) };
}

function labels(times, step) {
  const [, style] = STYLES.find(([below]) => step < below);
  const format = new Intl.DateTimeFormat("en-GB", style);
  const day = new Intl.DateTimeFormat("en-GB", DAY);
  let before = "";
  return times.map((seconds) => {
    const at = new Date(seconds * 1000);
    const today = step < 86_400 ? day.format(at) : "";
    const text = today === before ? format.format(at) : `${format.format(at)}\n${today}`;
    before = today;
    return text;
  });
}
