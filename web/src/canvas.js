/** Drawing: sharp on every screen, in the colours of the theme, anew when size or theme changes. */

import { useEffect, useRef } from "preact/hooks";
import { html } from "./html.js";
import { useMedia } from "./hooks.js";

/**
 * A picture that is drawn by code.
 * @param {object} props
 * @param {(context: CanvasRenderingContext2D, width: number, height: number, colour: (name: string) => string) => void} props.draw
 * @param {number} props.width, props.height  in CSS pixels
 * @param {string} props.label  what it shows, for those who do not see it
 */
export function Canvas({ draw, width, height, label, ...rest }) {
  const canvas = useRef(null);
  const dark = useMedia("(prefers-color-scheme: dark)");
  const ratio = Math.min(devicePixelRatio || 1, 3);
  useEffect(() => {
    const context = canvas.current.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    draw(context, width, height, colours());
  }, [draw, width, height, dark, ratio]);
  return html`<canvas
    ref=${canvas} role="img" aria-label=${label} width=${Math.round(width * ratio)} height=${Math.round(height * ratio)}
    style=${{ width: `${width}px`, height: `${height}px` }} ...${rest}
  />`;
}

/** Return a function from the name of a CSS variable to its colour today. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const known = new Map();
  return (name) => {
    if (!known.has(name)) known.set(name, style.getPropertyValue(`--${name}`).trim() || "gray");
    return known.get(name);
  };
}
