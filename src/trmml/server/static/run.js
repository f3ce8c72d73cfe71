/** Run: the figures of the report. */
import { ask, html, signal, status, useEffect } from "./base.js";

const run = signal(/** @type {any} */ (null));
const problem = signal("");
/** Sort by AP, or as the table has them. */
const sorted = signal(true);

/** @param {number|null|undefined} share */
const figure = (share) => (share == null ? "–" : (100 * share).toFixed(1));

function Methods() {
  const rows = Object.entries(run.value.methods);
  if (!rows.length) return null;
  return html`<section><h2>On the test images</h2><div class="scroll" tabindex="0" role="region" aria-label="Methods"><table><thead><tr><th>method</th><th>mAP</th><th>OF1</th><th>CF1</th></tr></thead>
    <tbody>${rows.map(([name, row]) => html`<tr><th scope="row">${name}</th><td>${row.map?.toFixed(1)}</td><td>${row.of1?.toFixed(1)}</td><td>${row.cf1?.toFixed(1)}</td></tr>`)}</tbody></table></div></section>`;
}

export default function Page() {
  useEffect(() => { ask("/run").then((told) => (run.value = told), (error) => (problem.value = error.message)); }, []);
  if (!run.value) return html`<h1>Run</h1>${problem.value ? html`<p class="error" role="alert">${problem.value}</p>` : html`<p class="wait" aria-busy="true">Reading …</p>`}`;
  const { held_out: own, training, report } = run.value;
  const rows = [...own.per_category];
  if (sorted.value) rows.sort((a, b) => (b.ap ?? -1) - (a.ap ?? -1));
  return html`<h1><bdi>${status.value.run}</bdi></h1>
    <dl class="figures">
      <div><dt>mAP, held-out images</dt><dd>${figure(own.mean_ap)}</dd></div>
      <div><dt>OF1</dt><dd>${figure(own.at_threshold.overall_f1)}</dd></div>
      <div><dt>CF1</dt><dd>${figure(own.at_threshold.category_f1)}</dd></div>
      <div><dt>categories</dt><dd>${own.categories}</dd></div>
      <div><dt>labels known</dt><dd>${figure(training.known_share)}<small> %</small></dd></div>
      <div><dt>encoder</dt><dd class="word"><bdi>${training.encoder}</bdi></dd></div>
    </dl>
    ${own.mean_ap == null ? html`<p class="hint">Too few labels are known of the held-out images: no category has one that shows it and one that does not.</p>` : null}
    ${report ? html`<p><a class="button" href="/report">The whole report</a></p>` : html`<p class="hint">Write the whole report with <code>trmml report RUN</code>.</p>`}
    <${Methods} />
    <section><h2>Each category, held-out images</h2>
      <label class="switch"><input type="checkbox" checked=${sorted.value} onChange=${() => (sorted.value = !sorted.value)} /> Best first</label>
      <ul class="bars">${rows.map((row) => html`<li key=${row.name}><bdi>${row.name}</bdi><span class="meter" aria-hidden="true"><i style=${{ width: `${100 * (row.ap ?? 0)}%` }} /></span>
        <span class="p">${figure(row.ap)}</span><small>${row.positives} present, ${row.negatives} absent</small></li>`)}</ul></section>`;
}
