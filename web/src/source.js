/** Where the page has its data from: the block in the file, or the follower that serves the page. */

const REPORT = "api/v1/report";
const EVENTS = "api/v1/events";
const SILENCE = 40_000;
/** Milliseconds after which a stream that says nothing counts as lost; the follower says something every 15 s. */
const LONGEST_WAIT = 15_000;

/** Return the document that is part of the page; null where the page is served and has none. */
export async function embedded() {
  const block = document.getElementById("report");
  if (!block) return null;
  if (block.type === "application/json") return JSON.parse(block.textContent);
  const text = atob(block.textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/**
 * Follow a follower for as long as the page is open: get the report, then a new one whenever something happened.
 *
 * A stream that breaks, or is silent for too long (a computer that slept), is begun anew with all that happened meanwhile.
 * @param {(document: object) => void} show  takes each document
 * @param {(connection: {lost: boolean, since: number, why: string}) => void} tell  takes how the connection is
 */
export async function follow(show, tell) {
  let failures = 0;
  let lostSince = null;
  for (;;) {
    try {
      const document = await report();
      show(document);
      failures = 0;
      lostSince = null;
      tell({ lost: false, since: Date.now(), why: "" });
      await stream(document.last_seq, show);
    } catch (error) {
      lostSince ??= Date.now();
      tell({ lost: true, since: lostSince, why: error.message });
    }
    await waiting(Math.min(1000 * 2 ** failures++, LONGEST_WAIT));
  }
}

async function report() {
  const answer = await fetch(REPORT, { cache: "no-store", signal: AbortSignal.timeout(60_000) });
  if (answer.status === 401) location.assign("login");
  if (!answer.ok) throw new Error(`the follower answered ${answer.status}`);
  return answer.json();
}

/** Read events after a number; show a new report for them, as often as the computer can take. Ends by an error. */
async function stream(last, show) {
  const broken = new AbortController();
  const hears = silenceDetector(() => broken.abort(new Error("the follower fell silent")));
  const slept = () => broken.abort(new Error("this page was asleep")); // what was under way then may never come
  document.addEventListener("resume", slept, { signal: broken.signal });
  try {
    const answer = await fetch(EVENTS, {
      headers: { Accept: "text/event-stream", "Last-Event-ID": String(last) },
      signal: broken.signal,
    });
    if (!answer.ok) throw new Error(`the follower answered ${answer.status}`);
    const news = refresher(show, broken);
    let line = "";
    for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
      hears();
      const lines = (line + text).split("\n");
      line = lines.pop();
      for (const complete of lines) if (complete.startsWith("id:")) news(Number(complete.slice(3)));
    }
    throw new Error("the follower ended the stream");
  } finally {
    hears.stop();
    broken.abort();
  }
}

/** Return a function to call at each sign of life; `lost` is called when there was none for too long. */
function silenceDetector(lost) {
  let heard = Date.now();
  const look = () => Date.now() - heard > SILENCE && lost();
  const timer = setInterval(look, 5000);
  document.addEventListener("visibilitychange", look);
  const hears = () => {
    heard = Date.now();
  };
  hears.stop = () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", look);
  };
  return hears;
}

/**
 * Return a function that takes the number of an event and shows a report with it soon: many calls make one, and none is
 * made while the tab is hidden. A report may be older than the event, and is asked for again then.
 * @param {AbortController} stream  ends it; a report that cannot be had aborts it
 */
function refresher(show, stream) {
  let [wanted, shown] = [0, -1];
  let busy = false;
  const refresh = async () => {
    if (shown >= wanted || busy || document.hidden || stream.signal.aborted) return;
    busy = true;
    const began = performance.now();
    try {
      const document = await report();
      shown = document.last_seq;
      show(document);
      await pause(Math.max(500, 5 * (performance.now() - began)));
    } catch (error) {
      stream.abort(error);
    }
    busy = false;
    refresh();
  };
  document.addEventListener("visibilitychange", refresh, { signal: stream.signal });
  return (number) => {
    wanted = Math.max(wanted, number);
    refresh();
  };
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Wait, but not when the network or the person comes back. */
function waiting(milliseconds) {
  return new Promise((resolve) => {
    const woken = new AbortController();
    const done = () => {
      woken.abort();
      resolve();
    };
    setTimeout(done, milliseconds);
    addEventListener("online", done, { signal: woken.signal });
    document.addEventListener("visibilitychange", () => document.hidden || done(), { signal: woken.signal });
  });
}
