/** The filter of all views: text, status, label and provider. */

/**
 * @typedef {object} Filter
 * @property {string} text  words that all have to be in the address or in what is said of the run
 * @property {string} status  names with commas between them
 * @property {string} label  `name` or `name=value`
 * @property {string} provider
 */

/** Return the filter that a route's query says. */
export function filterOf({ text = "", status = "", label = "", provider = "" }) {
  return { text, status, label, provider };
}

/** Return whether a filter leaves anything out. */
export const isEmpty = (filter) => !Object.values(filter).some(Boolean);

/** Return a function that says whether a run matches a filter. Its status does not count where `statuses` is false. */
export function matcher(filter, { statuses = true } = {}) {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = statuses && filter.status ? new Set(filter.status.split(",")) : null;
  const [name, value] = filter.label.split(/=(.*)/s);
  return (run) =>
    (!wanted || wanted.has(run.status) || (run.unstarted && wanted.has(run.unstarted.status))) &&
    (!filter.provider || run.provider === filter.provider) &&
    (!filter.label || hasLabel(run.labels, name, value)) &&
    (!words.length || words.every((word) => haystack(run).includes(word)));
}

function haystack(run) {
  const { last, unstarted } = run;
  return [run.address, last?.reason, last?.message, unstarted?.reason, run.image, last?.name].join("\n").toLowerCase();
}

function hasLabel(labels, name, value) {
  return name in labels && (value === undefined || labels[name] === value);
}
