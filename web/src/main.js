/** Show the report: that of the file, or the live one of the follower that serves this page. */

import { render } from "preact";
import { App } from "./app.js";
import { html } from "./html.js";
import { Report } from "./model.js";
import { embedded, follow } from "./source.js";
import "uplot/dist/uPlot.min.css";
import "./page.css";

const place = document.getElementById("page");
let shown = { report: null, connection: null };

/** Change what is shown. */
function show(changes) {
  shown = { ...shown, ...changes };
  render(html`<${App} ...${shown} />`, place);
}

/** Show what there is, until the page is closed. */
async function main() {
  const found = await embedded();
  if (found) {
    show({ report: new Report(found) });
    return;
  }
  show({});
  await follow(
    (document) => show({ report: new Report(document) }),
    (connection) => show({ connection }),
  );
}

main().catch((error) => {
  render(html`<main class="sorry"><h1>This report cannot be shown</h1><p>${error.message}</p></main>`, place);
});
