/** Plan: what would change, in the order of what hurts first; each change with its fields, rules, origins and objects. */

import { useState } from "preact/hooks";
import { isEmpty, matcher } from "../filter.js";
import { html, Time } from "../html.js";
import { to } from "../route.js";
import { counted, harmless, harmlessLines, number } from "../text.js";

const SOURCES = {
  pending: "The last plan. It is not applied yet.",
  applied: "The plan that was applied last.",
  file: "The plan of a file.",
};
const MOST_OPEN = 12;
const PAGE = 200;
const MOST_NAMED = 3;

export function Plan({ report, route, filter, now }) {
  const [most, setMost] = useState(PAGE);
  const { plan } = report.document;
  if (!plan) return html`<p class="nothing">There is no plan: none was made, or it is not kept any more.</p>`;
  const groups = chosen(report, plan.groups, filter);
  return html`
    <h2>${harmless(plan.verdict)}</h2>
    <p class="said">
      ${SOURCES[plan.source]} ${plan.made_at && html`Made <${Time} at=${Date.parse(plan.made_at)} now=${now} /> from `}<code>${harmless(plan.spec)}</code>.
      ${plan.command && html`${" "}Apply it with <code>${harmless(plan.command)}</code>.`}
    </p>
    ${plan.genuine && html`<p class="remark error" role="alert">${harmless(plan.genuine)}</p>`}
    ${[...plan.dangers, ...plan.remarks].map((remark) => html`<${Remark} remark=${remark} route=${route} />`)}
    ${groups.length === 0 && !isEmpty(filter) && html`<p class="nothing">No change matches the filter.</p>`}
    ${groups.slice(0, most).map(
      (group, i) => html`<${Change} key=${plan.digest + group.addresses[0]} group=${group} route=${route} first=${i < MOST_OPEN && groups.length <= MOST_OPEN} />`,
    )}
    ${groups.length > most && html`
      <p><button type="button" onClick=${() => setMost(most + PAGE)}>Show ${number(Math.min(PAGE, groups.length - most))} of ${number(groups.length - most)} more</button></p>`}
    ${plan.unchanged && html`
      <details class="change">
        <summary><span class="action no-op">=</span> ${harmless(plan.unchanged)}</summary>
        <${Addresses} addresses=${plan.unchanged_addresses} route=${route} />
      </details>`}
    <dl class="facts plan-facts">
      ${plan.engines.map((engine) => html`<dt>Engine</dt><dd>${harmless(engine)}</dd>`)}
      <dt>Digest</dt><dd><code>${harmless(plan.digest)}</code></dd>
    </dl>`;
}

/** Return the groups in which a run matches the filter. */
function chosen(report, groups, filter) {
  if (isEmpty(filter)) return groups;
  const matches = matcher(filter);
  return groups.filter((group) => group.addresses.some((address) => matches(report.byAddress.get(address) ?? { address, labels: {} })));
}

function Remark({ remark, route }) {
  return html`
    <div class=${`remark ${remark.severity}`}>
      <p>${harmless(remark.text)}</p>
      <${Addresses} addresses=${remark.addresses} route=${route} />
    </div>`;
}

/** Addresses as links; many of them are folded. */
function Addresses({ addresses, route }) {
  const [all, setAll] = useState(false);
  const shown = all ? addresses : addresses.slice(0, 20);
  return html`<p class="addresses">
    ${shown.map((address, i) => html`${i > 0 && ", "}<a class="address" href=${to(route, "run", address)}>${harmless(address)}</a>`)}
    ${addresses.length > shown.length && html` <button type="button" onClick=${() => setAll(true)}>and ${number(addresses.length - shown.length)} more</button>`}
  </p>`;
}

function Change({ group, route, first }) {
  const [open, setOpen] = useState(first || group.interrupts);
  const { addresses } = group;
  return html`
    <details class="change" open=${open} onToggle=${(event) => setOpen(event.target.open)}>
      <summary>
        <span class=${`action ${group.action}`}>${harmless(group.sign)} ${harmless(group.word)}</span>
        ${addresses.slice(0, MOST_NAMED).map((address) => html`${" "}<b class="address">${harmless(address)}</b>`)}
        ${addresses.length > MOST_NAMED && ` and ${counted(addresses.length - MOST_NAMED, "more run")}`}
        ${group.interrupts && html`${" "}<span class="badge">${harmless(group.live)}</span>`}
        <small> ${harmless(group.why)}</small>
      </summary>
      ${open && html`<${Details} group=${group} route=${route} />`}
    </details>`;
}

function Details({ group, route }) {
  const { addresses, moved_from: moved } = group;
  const standing = addresses.length === 1 ? group.standing[0] : "";
  const facts = [group.skipped, standing, group.interrupts ? "" : group.live, ...group.facts].filter(Boolean);
  return html`
    ${facts.length > 0 && html`<ul>${facts.map((fact) => html`<li>${harmless(fact)}</li>`)}</ul>`}
    ${group.remarks.map((remark) => html`<${Remark} remark=${remark} route=${route} />`)}
    ${group.fields.length > 0 && html`<${Fields} fields=${group.fields} of=${addresses.length > 1 ? addresses[0] : ""} />`}
    ${(addresses.length > 1 || moved.length > 0) && html`<${Runs} group=${group} route=${route} />`}
    ${group.settings && html`<p><code>${harmless(group.settings)}</code></p>`}
    <${Objects} group=${group} />`;
}

function Fields({ fields, of }) {
  return html`
    <div class="wide"><table class="changes">
      ${of && html`<caption>Fields of <span class="address">${harmless(of)}</span></caption>`}
      <thead><tr><th scope="col">Field</th><th scope="col">Before</th><th scope="col">After</th><th scope="col">Effect and rule</th><th scope="col">Written in</th></tr></thead>
      <tbody>${fields.map(
        (field) => html`
          <tr>
            <th scope="row"><code>${harmless(field.name)}</code></th>
            ${field.lines.length
              ? html`<td colspan="2"><${Marked} lines=${field.lines} label=${field.name} /></td>`
              : html`<td>${field.before !== null && html`<del>${harmless(field.before)}</del>`}</td><td>${field.after !== null && html`<ins>${harmless(field.after)}</ins>`}</td>`}
            <td class=${field.effect}>${harmless(field.words)}</td>
            <td><code>${harmless(field.origin)}</code></td>
          </tr>`,
      )}</tbody>
    </table></div>`;
}

const KINDS = { "+": "added", "-": "removed", "~": "altered" };

/** Lines of a difference, each with its mark. */
function Marked({ lines, label }) {
  return html`<pre class="objects" tabindex="0" aria-label=${harmless(label)}>${lines.map(
    ([mark, line]) => html`<span class=${KINDS[mark] ?? ""}>${mark} ${harmlessLines(line)}${"\n"}</span>`,
  )}</pre>`;
}

function Runs({ group, route }) {
  const [all, setAll] = useState(false);
  const { addresses, moved_from: moved, standing, varying, values } = group;
  const shown = all ? addresses : addresses.slice(0, 20);
  return html`
    <div class="wide"><table>
      <thead><tr><th scope="col">Run</th>${moved.length > 0 && html`<th scope="col">Was</th>`}<th scope="col">Stands</th>${varying.map((name) => html`<th scope="col"><code>${harmless(name)}</code></th>`)}</tr></thead>
      <tbody>${shown.map(
        (address, i) => html`
          <tr>
            <th scope="row"><a class="address" href=${to(route, "run", address)}>${harmless(address)}</a></th>
            ${moved.length > 0 && html`<td class="address">${harmless(moved[i])}</td>`}
            <td>${harmless(standing[i] ?? "")}</td>
            ${values.map((column) => html`<td><code>${harmless(column[i])}</code></td>`)}
          </tr>`,
      )}</tbody>
    </table></div>
    ${addresses.length > shown.length && html`<p><button type="button" onClick=${() => setAll(true)}>Show ${number(addresses.length - shown.length)} more</button></p>`}`;
}

function Objects({ group }) {
  const { objects, explained } = group;
  return html`
    ${objects.length > 0 && html`<details><summary>Whole objects</summary><${Marked} lines=${objects} label="Whole objects" /></details>`}
    ${explained.length > 0 && html`
      <details><summary>Where each value was written</summary>
        <div class="wide"><table>
          <thead><tr><th scope="col">Field</th><th scope="col">Value</th><th scope="col">Written in</th></tr></thead>
          <tbody>${explained.map(({ name, value, origin }) => html`<tr><th scope="row"><code>${harmless(name)}</code></th><td><code>${harmless(value)}</code></td><td>${harmless(origin)}</td></tr>`)}</tbody>
        </table></div>
      </details>`}`;
}
