/** How far a review is, and what its answers bought. */
import { ask, duration, html, signal } from "./base.js";

const progress = signal(/** @type {any} */ (null));
const worth = signal(/** @type {any} */ (null));
/** Whether figures are on their way, and whether newer ones are wanted after them. */
let measuring = false;
let again = false;

export async function measure() {
  again = true;
  if (measuring) return;
  measuring = true;
  while (again) {
    again = false;
    try {
      progress.value = await ask("/progress");
      worth.value = await ask("/worth");
    } catch { /* the bar tells */ }
  }
  measuring = false;
}

export function Progress() {
  const now = progress.value;
  if (!now) return html`<div class="progress" />`;
  const all = now.answers + now.left;
  const bought = worth.value?.now != null
    ? html`<div><dt>mAP, estimated</dt><dd title="Of linear heads that never saw the image they score, on the pairs known at the start">${(100 * worth.value.now).toFixed(1)}
        ${worth.value.new ? html` <small class=${worth.value.now < worth.value.before ? "less" : ""}>${worth.value.now >= worth.value.before ? "+" : "−"}${Math.abs(100 * (worth.value.now - worth.value.before)).toFixed(1)}</small>` : null}</dd></div>` : null;
  return html`<div class="progress"><dl>
    <div><dt>Answers</dt><dd>${now.answers.toLocaleString()}</dd></div>
    <div><dt>Time</dt><dd>${duration(now.seconds)}</dd></div>
    <div><dt>Open</dt><dd>${now.left.toLocaleString()}</dd></div>
    ${bought}
    ${now.again ? html`<div><dt>Asked again</dt><dd>${now.as_before} of ${now.again} the same</dd></div>` : null}
    </dl><progress aria-label="Answered of all" max=${all || 1} value=${now.answers} />
  </div>`;
}
