/** What views are written with: `html` templates of preact, and a few elements that many views share. */

import { h } from "preact";
import htm from "htm";
import { clock, duration, full, harmless } from "./text.js";
import { signOf, wordsOf } from "./statuses.js";

export const html = htm.bind(h);

/** A status as sign and words. */
export function Status({ status, children }) {
  return html`<span class=${`status ${status}`}><span class="sign" aria-hidden="true">${signOf(status)}</span>${" "}${wordsOf(status)}${children}</span>`;
}

/** A time; the day is told where it is not today. */
export function Time({ at, now }) {
  if (at === null || at === undefined) return null;
  return html`<time dateTime=${new Date(at).toISOString()} title=${full(at)}>${clock(at, now)}</time>`;
}

/** An address, with its cell less loud than the name of the run. */
export function Address({ run }) {
  return html`<span class="address"><b>${harmless(run.name)}</b>${run.cell && html`<span>${harmless(run.cell)}</span>`}</span>`;
}

/** The mark of an attempt that is slower than usual. */
export function Slow({ attempt }) {
  if (!attempt?.slow) return null;
  return html`<span class="slow" title=${`usually ${duration(attempt.usual)}`}>slower than usual</span>`;
}
