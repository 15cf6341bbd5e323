/** The output of runs: escape sequences become styles, everything else that a terminal would obey is left out. */

import { harmlessLines } from "./text.js";

// CSI ... letter, OSC ... (BEL | ESC \), other two-character sequences.
const ESCAPES = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]?/g;
const BASIC = [
  [0, 0, 0], [205, 0, 0], [0, 205, 0], [205, 205, 0], [0, 0, 238], [205, 0, 205], [0, 205, 205], [229, 229, 229],
  [127, 127, 127], [255, 0, 0], [0, 255, 0], [255, 255, 0], [92, 92, 255], [255, 0, 255], [0, 255, 255], [255, 255, 255],
];

/**
 * Return pieces of text with the names of CSS classes (`""`, `"bold fg1"`), in the order of the text. A line that was
 * written over by carriage returns is what it was at its end.
 * @param {string} text
 * @returns {{text: string, style: string}[]}
 */
export function pieces(text) {
  const found = [];
  let style = {};
  let from = 0;
  const add = (until) => {
    const part = harmlessLines(text.slice(from, until));
    const classes = classesOf(style);
    if (!part) return;
    if (found.at(-1)?.style === classes) found.at(-1).text += part;
    else found.push({ text: part, style: classes });
  };
  text = text.replaceAll("\r\n", "\n").replace(/[^\n\r]*\r(?=[^\n])/g, "").replaceAll("\r", "");
  for (const match of text.matchAll(ESCAPES)) {
    add(match.index);
    from = match.index + match[0].length;
    if (match[1] !== undefined) style = applied(style, match[1]);
  }
  add(text.length);
  return found;
}

function classesOf({ bold, faint, italic, underline, fg, bg }) {
  return [
    bold && "bold", faint && "faint", italic && "italic", underline && "underline",
    bg !== undefined ? `bg${bg}` : fg !== undefined && `fg${fg}`,
  ].filter(Boolean).join(" ");
}

/** Return a style with the numbers of an SGR sequence applied. */
function applied(style, numbers) {
  const codes = numbers.split(/[;:]/).map(Number);
  let next = { ...style };
  while (codes.length) {
    const code = codes.shift();
    if (code === 0) next = {};
    else if (code === 38 || code === 48) next[code === 38 ? "fg" : "bg"] = extended(codes);
    else if (code in SWITCHES) Object.assign(next, SWITCHES[code]);
    else if (code >= 30 && code <= 37) next.fg = code - 30;
    else if (code >= 90 && code <= 97) next.fg = code - 82;
    else if (code >= 40 && code <= 47) next.bg = code - 40;
    else if (code >= 100 && code <= 107) next.bg = code - 92;
  }
  return next;
}

const SWITCHES = {
  1: { bold: true }, 2: { faint: true }, 3: { italic: true }, 4: { underline: true },
  22: { bold: false, faint: false }, 23: { italic: false }, 24: { underline: false },
  39: { fg: undefined }, 49: { bg: undefined },
};

/** Take the rest of `38;5;N` or `38;2;R;G;B` and return the nearest of the 16 colours, which are legible on both themes. */
function extended(codes) {
  const kind = codes.shift();
  if (kind === 2) return nearest(codes.splice(0, 3));
  const [index = 0] = kind === 5 ? codes.splice(0, 1) : [];
  if (index < 16) return index;
  if (index > 231) return nearest(Array(3).fill(8 + (index - 232) * 10));
  const cube = index - 16;
  return nearest([cube / 36, (cube / 6) % 6, cube % 6].map((part) => Math.floor(part) * 51));
}

function nearest(colour) {
  const distances = BASIC.map((basic) => basic.reduce((sum, part, i) => sum + (part - (colour[i] ?? 0)) ** 2, 0));
  return distances.indexOf(Math.min(...distances));
}
