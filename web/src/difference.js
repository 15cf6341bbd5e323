/** Objects for people: as lines, and what differs between two of them. */

/**
 * Return the leaves in which two objects differ, in the order of the new one.
 * @returns {{path: string, before: string, after: string}[]}  "" where there is none
 */
export function changes(before, after) {
  const [old, now] = [new Map(leaves(before)), new Map(leaves(after))];
  return [...new Set([...now.keys(), ...old.keys()])]
    .filter((path) => old.get(path) !== now.get(path))
    .map((path) => ({ path, ...narrowed(old.get(path) ?? "", now.get(path) ?? "") }));
}

/** Return two texts without the lines at the beginning and the end that they share. */
function narrowed(before, after) {
  const [old, now] = [before.split("\\n"), after.split("\\n")];
  const shortest = Math.min(old.length, now.length);
  let head = 0;
  while (head < shortest && old[head] === now[head]) head++;
  let end = 0;
  while (end < shortest - head && old.at(-1 - end) === now.at(-1 - end)) end++;
  const cut = (lines) => [head ? "..." : null, ...lines.slice(head, lines.length - end), end ? "..." : null].filter((line) => line !== null).join("\n");
  return { before: cut(old), after: cut(now) };
}

function* leaves(value, path = "") {
  if (value === null || typeof value !== "object" || !Object.keys(value).length) {
    yield [path, scalar(value)];
    return;
  }
  for (const [key, inner] of Object.entries(value)) {
    yield* leaves(inner, Array.isArray(value) ? `${path}[${key}]` : path ? `${path}.${key}` : key);
  }
}

/** Return the lines of an object, much as YAML would be. */
export function lines(value, indent = "") {
  return Object.entries(value).flatMap(([key, inner]) => {
    const head = indent + (Array.isArray(value) ? "-" : `${key}:`);
    if (inner !== null && typeof inner === "object" && Object.keys(inner).length) return [head, ...lines(inner, `${indent}  `)];
    return [`${head} ${scalar(inner)}`];
  });
}

function scalar(value) {
  return typeof value === "string" && /^[\w./:@=-]+( [\w./:@=-]+)*$/.test(value) && Number.isNaN(Number(value)) ? value : JSON.stringify(value);
}
