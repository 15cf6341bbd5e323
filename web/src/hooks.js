/** What views need to know of the browser: the route, the time, the width, the theme. */

import { useEffect, useLayoutEffect, useReducer, useRef, useState } from "preact/hooks";
import { parse } from "./route.js";

/** Return the route of the address, and follow its changes. */
export function useRoute() {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => listening(window, "hashchange", () => setRoute(parse(location.hash))), []);
  return route;
}

/** Return the time that elapsed times are told for: that of the report, which goes on while the page is live. */
export function useNow(report, live) {
  const [, again] = useReducer((n) => n + 1, 0);
  const received = useRef({ report: null, at: 0 });
  if (received.current.report !== report) received.current = { report, at: performance.now() };
  useEffect(() => {
    if (!live) return undefined;
    const timer = setInterval(() => document.hidden || again(), 1000);
    return () => clearInterval(timer);
  }, [live]);
  return report && report.madeAt + (live ? performance.now() - received.current.at : 0);
}

/** Return whether a media query is true, and follow it. */
export function useMedia(query) {
  const [, again] = useReducer((n) => n + 1, 0);
  useEffect(() => listening(matchMedia(query), "change", again), [query]);
  return matchMedia(query).matches;
}

/** Return whether the window is as narrow as a phone. */
export const useNarrow = () => useMedia("(max-width: 700px)");

/** Return a ref for an element and its width in pixels, 0 before it is known. */
export function useWidth() {
  const ref = useRef(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    setWidth(ref.current.clientWidth);
    const observer = new ResizeObserver(() => ref.current && setWidth(ref.current.clientWidth));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

/** Return whether the page is being printed. */
export function usePrinting() {
  const [printing, setPrinting] = useState(false);
  useEffect(() => {
    const ends = [
      listening(window, "beforeprint", () => setPrinting(true)),
      listening(window, "afterprint", () => setPrinting(false)),
    ];
    return () => ends.forEach((end) => end());
  }, []);
  return printing;
}

/** Listen to an event; return a function that ends it. */
export function listening(target, name, listener, options) {
  target.addEventListener(name, listener, options);
  return () => target.removeEventListener(name, listener, options);
}
