/** A list of any length: only the rows that can be seen are in the page. It scrolls with the page, and prints. */

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { listening, usePrinting } from "./hooks.js";

const BEYOND = 400;
/** Pixels above and below the window that are filled as well. */
const MOST_PRINTED = 2000;

/**
 * @param {object} props
 * @param {any[]} props.items
 * @param {(item) => number} props.heightOf  in pixels
 * @param {(item) => string} props.keyOf
 * @param {(item) => any} props.row  the cells of a row
 * @param {(item) => void} props.open  what Enter and a click do
 * @param {string} props.label  for screen readers
 * @param {(item) => boolean} [props.expanded]  undefined for rows that do not expand
 */
export function List({ items, heightOf, keyOf, row, open, label, expanded }) {
  const place = useRef(null);
  const [range, setRange] = useState([0, 40]);
  const [active, setActive] = useState(-1);
  const printing = usePrinting();
  const tops = useMemo(() => {
    const sums = new Float64Array(items.length + 1);
    items.forEach((item, i) => (sums[i + 1] = sums[i] + heightOf(item)));
    return sums;
  }, [items, heightOf]);

  useLayoutEffect(() => {
    const look = () => {
      const above = -place.current.getBoundingClientRect().top;
      const from = Math.max(0, indexAt(tops, above - BEYOND));
      const until = Math.min(items.length, indexAt(tops, above + innerHeight + BEYOND) + 1);
      setRange((old) => (old[0] === from && old[1] === until ? old : [from, until]));
    };
    look();
    const ends = [listening(window, "scroll", look, { passive: true }), listening(window, "resize", look)];
    return () => ends.forEach((end) => end());
  }, [tops]);

  useEffect(() => setActive((old) => Math.min(old, items.length - 1)), [items.length]);

  const go = (index) => {
    const next = Math.max(0, Math.min(items.length - 1, index));
    setActive(next);
    const top = place.current.getBoundingClientRect().top + tops[next];
    const bottom = top + tops[next + 1] - tops[next];
    if (top < 120) scrollBy(0, top - 120);
    else if (bottom > innerHeight - 20) scrollBy(0, bottom - innerHeight + 20);
  };
  const onKeyDown = (event) => {
    if (event.target !== place.current) return;
    const page = Math.max(1, range[1] - range[0] - 10);
    const steps = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page };
    const targets = { ...steps, Home: 0, End: items.length - 1 };
    if (event.key in targets) go(targets[event.key]);
    else if (event.key === "Enter" && items[active]) open(items[active]);
    else return;
    event.preventDefault();
  };

  const [from, until] = printing ? [0, Math.min(items.length, MOST_PRINTED)] : range;
  const id = (index) => `row-${label.replace(/\W/g, "")}-${index}`;
  return html`
    <div
      ref=${place} class="list" role=${expanded ? "treegrid" : "grid"} tabindex="0" aria-label=${label} aria-rowcount=${items.length}
      aria-activedescendant=${active >= from && active < until ? id(active) : undefined}
      style=${{ height: printing ? "auto" : `${tops[items.length]}px` }}
      onKeyDown=${onKeyDown} onFocus=${() => active < 0 && items.length && setActive(0)}
    >
      ${items.slice(from, until).map((item, i) => {
        const index = from + i;
        return html`
          <div
            key=${keyOf(item)} id=${id(index)} role="row" aria-rowindex=${index + 1} aria-expanded=${expanded?.(item)}
            class=${`row ${index === active ? "active" : ""}`}
            style=${printing ? {} : { top: `${tops[index]}px`, height: `${heightOf(item)}px` }}
            onClick=${(event) => opens(event) && (setActive(index), open(item))}
          >${row(item)}</div>`;
      })}
    </div>
    ${printing && items.length > until && html`<p>${items.length - until} more are not printed.</p>`}`;
}

/** Return whether a click means the row, and not a link in it or the end of selecting text. */
function opens(event) {
  return !event.target.closest("a, button") && !String(getSelection());
}

/** Return the index of the row that is at a height. */
function indexAt(tops, height) {
  let low = 0;
  let high = tops.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= height) low = middle;
    else high = middle - 1;
  }
  return low;
}
