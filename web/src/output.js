/** The end of what an attempt wrote: in its colours, with search, wrapping, a jump to its end, and download. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { pieces } from "./ansi.js";
import { html } from "./html.js";
import { number } from "./text.js";

const MOST_MARKS = 1000;

/**
 * @param {object} props
 * @param {import("./model.js").Attempt} props.attempt
 * @param {number} [props.last]  show only so many lines, without controls
 */
export function Output({ attempt, last }) {
  const { output } = attempt;
  if (!output) return html`<p class="nothing">The report holds no output of this attempt.</p>`;
  if (last) return html`<pre class="output" tabindex="0" aria-label="Last lines of the output">${styled(pieces(tail(output.text, last)), "").elements}</pre>`;
  return html`<${WholeOutput} attempt=${attempt} output=${output} />`;
}

function WholeOutput({ attempt, output }) {
  const [words, setWords] = useState("");
  const [wrap, setWrap] = useState(true);
  const [at, setAt] = useState(0);
  const place = useRef(null);
  const parts = useMemo(() => pieces(output.text), [output.text]);
  const { elements, marks } = useMemo(() => styled(parts, words), [parts, words]);
  const toEnd = () => (place.current.scrollTop = place.current.scrollHeight);
  useEffect(toEnd, [attempt.row]);
  useEffect(() => {
    const found = place.current.querySelectorAll("mark");
    found.forEach((mark, i) => mark.classList.toggle("current", i === at));
    found[at]?.scrollIntoView({ block: "nearest" });
  }, [words, at, elements]);
  const step = (event) => {
    if (event.key !== "Enter" || !marks) return;
    event.preventDefault();
    setAt((at + (event.shiftKey ? marks - 1 : 1)) % marks);
  };
  return html`
    <div class="output-bar">
      <input
        type="search" placeholder="Search the output" aria-label="Search the output" value=${words} onKeyDown=${step}
        onInput=${(event) => (setWords(event.target.value), setAt(0))}
      />
      <span role="status">${words && (marks ? `${at + 1} of ${number(marks)}${marks >= MOST_MARKS ? " (more are not marked)" : ""}` : "not found")}</span>
      <label><input type="checkbox" checked=${wrap} onChange=${() => setWrap(!wrap)} /> wrap</label>
      <button type="button" onClick=${toEnd}>To the end</button>
      <button type="button" onClick=${() => download(attempt, output.text)}>Download</button>
    </div>
    ${output.cut > 0 && html`<p class="nothing">${number(output.cut)} characters before this are left out of the report.</p>`}
    <pre ref=${place} class=${`output whole ${wrap ? "wrap" : ""}`} tabindex="0" aria-label="Output">${elements}</pre>`;
}

/** Return the last lines of a text. */
function tail(text, count) {
  return text.trimEnd().split("\n").slice(-count).join("\n");
}

/** Return the elements of pieces of output, with the places where some words are marked, and how many those are. */
function styled(parts, words) {
  const pattern = words && new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu");
  let marks = 0;
  const elements = parts.map(({ text, style }) => {
    const inner = pattern && marks < MOST_MARKS ? marked(text, pattern) : [text];
    marks += (inner.length - 1) / 2;
    return style ? html`<span class=${style}>${inner}</span>` : inner;
  });
  return { elements, marks };
}

/** Return a text, the first place that a pattern matches, the text after it, the next place ... */
function marked(text, pattern) {
  const found = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    found.push(text.slice(from, match.index), html`<mark>${match[0]}</mark>`);
    from = match.index + match[0].length;
  }
  return [...found, text.slice(from)];
}

function download(attempt, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = `${attempt.run.address.replace(/[^\w.=-]+/g, "-")}-${attempt.number}.log`;
  link.click();
  URL.revokeObjectURL(link.href);
}
