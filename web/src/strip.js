/** The cells of a run as squares, with what is known of the one under the pointer. */

import { useCallback, useState } from "preact/hooks";
import { Canvas } from "./canvas.js";
import { html } from "./html.js";
import { harmless } from "./text.js";
import { inWords, isProblem, wordsOf } from "./statuses.js";

/** Return how squares are laid out: `{side, across, height}` in pixels. */
export function layout(count, width) {
  const side = count <= 150 ? 13 : count <= 600 ? 10 : count <= 3000 ? 7 : 5;
  const across = Math.max(1, Math.floor(width / side));
  return { side, across, height: Math.ceil(count / across) * side };
}

/**
 * @param {object} props
 * @param {import("./model.js").Group} props.group
 * @param {number} props.width  in pixels
 * @param {(run) => void} props.open
 */
export function Strip({ group, width, open }) {
  const { runs } = group;
  const { side, across, height } = layout(runs.length, width);
  const [tip, setTip] = useState(null);
  const draw = useCallback(
    (context, _width, _height, colour) => {
      const inner = side - (side > 6 ? 2 : 1);
      runs.forEach((run, i) => {
        const [x, y] = [(i % across) * side, Math.floor(i / across) * side];
        context.fillStyle = colour(run.status);
        context.fillRect(x, y, inner, inner);
        if (isProblem(run.status) && side > 6) {
          context.fillStyle = colour("paper"); // a shape beside the colour
          context.fillRect(x + inner / 2 - 1, y + 2, 2, inner - 4);
        }
      });
    },
    [runs, side, across],
  );
  const at = (event) => {
    const [column, line] = [Math.floor(event.offsetX / side), Math.floor(event.offsetY / side)];
    return column < across ? runs[line * across + column] : undefined;
  };
  const point = (event) => {
    const run = at(event);
    setTip(run ? { run, x: event.clientX, y: event.clientY } : null);
  };
  const press = (event) => {
    const run = at(event);
    if (!run) return;
    event.stopPropagation();
    open(run);
  };
  const label = `${group.name}: ${runs.length} cells: ${inWords(group.states)}`;
  return html`
    <${Canvas}
      draw=${draw} width=${width} height=${height} label=${label} class="strip"
      onPointerMove=${point} onPointerLeave=${() => setTip(null)} onClick=${press}
    />
    ${tip && html`<${Tip} x=${tip.x} y=${tip.y}>${harmless(tip.run.address)}<br />${wordsOf(tip.run.status)}<//>`}`;
}

/** A note beside the pointer. */
export function Tip({ x, y, children }) {
  const left = x > innerWidth - 260;
  const style = { top: `${y + 14}px`, ...(left ? { right: `${innerWidth - x + 8}px` } : { left: `${x + 12}px` }) };
  return html`<div class="tip" role="tooltip" style=${style}>${children}</div>`;
}
