/** The fragment of the address: `#VIEW/SUBJECT?filter`. It says all that is shown, so that it can be sent to somebody. */

export const VIEWS = { now: "Now", plan: "Plan", timeline: "Timeline", graph: "Graph", history: "History" };

/**
 * @typedef {object} Route
 * @property {string} view  a key of VIEWS, or `run`
 * @property {string} subject  an address, or ""
 * @property {Record<string, string>} query  the filter (text, status, label, provider) and what a view keeps there
 */

/** Parts of the query that stay when another view is opened. */
const FILTER = ["text", "status", "label", "provider"];

/**
 * Read a fragment; what is not understood is left out.
 * @returns {Route}
 */
export function parse(fragment) {
  const [path, search = ""] = fragment.replace(/^#/, "").split(/\?(.*)/s);
  const [view, ...rest] = path.split("/");
  const known = view in VIEWS || view === "run";
  return {
    view: known ? view : "",
    subject: known ? decoded(rest.join("/")) : "",
    query: Object.fromEntries(new URLSearchParams(search)),
  };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/** Return the fragment of a route. Empty parts of its query are left out. */
export function fragment({ view, subject = "", query = {} }) {
  const search = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  return `#${view}${subject && `/${encodeURIComponent(subject)}`}${search && `?${search}`}`;
}

/** Return the fragment of another view with the filter of this route. */
export function to(route, view, subject = "", query = {}) {
  const kept = Object.fromEntries(FILTER.map((name) => [name, route.query[name]]));
  return fragment({ view, subject, query: { ...kept, ...query } });
}

/** Return the fragment of this route with some parts of its query changed. */
export function altered(route, changes) {
  return fragment({ ...route, query: { ...route.query, ...changes } });
}

/** Show a fragment in place of the one that is shown, without a step in the browser's history. */
export function replace(fragment) {
  history.replaceState(null, "", fragment);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** Open a fragment. */
export function open(fragment) {
  location.hash = fragment;
}
