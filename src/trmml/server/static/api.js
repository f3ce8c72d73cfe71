/** API: what the OpenAPI document says, to read. */
import { ask, html, signal, useEffect } from "./base.js";

const tree = signal(/** @type {any} */ (null));
const problem = signal("");

/** @param {any} schema */
function shape(schema) {
  const name = schema?.$ref?.split("/").pop();
  return name ?? schema?.type ?? "";
}

export default function Page() {
  useEffect(() => { ask("/openapi.json").then((told) => (tree.value = told), (error) => (problem.value = error.message)); }, []);
  if (!tree.value) return html`<h1>API</h1>${problem.value ? html`<p class="error" role="alert">${problem.value}</p>` : html`<p class="wait" aria-busy="true">Reading …</p>`}`;
  const schemas = Object.entries(tree.value.components?.schemas ?? {}).filter(([name]) => !/Validation/.test(name));
  return html`<h1>API</h1><p class="hint">Scripts send <code>Authorization: Bearer TOKEN</code>, and <code>X-Trmml: 1</code> with what changes something.
    The document for programs: <a href="/api/v1/openapi.json">openapi.json</a>.</p>
    ${Object.entries(tree.value.paths).map(([path, ways]) => Object.entries(ways).map(([way, about]) => html`<section class="way" key=${way + path}>
      <h2><span class="method">${way.toUpperCase()}</span> <code>${path}</code></h2><p>${about.description ?? ""}</p>
      ${about.parameters?.length ? html`<dl>${about.parameters.map((/** @type {any} */ p) => html`<div><dt><code>${p.name}</code></dt><dd>${shape(p.schema)}${p.required ? ", needed" : p.schema?.default != null ? `, ${p.schema.default} by default` : ""}</dd></div>`)}</dl>` : null}
      ${about.requestBody ? html`<p class="hint">Body: ${Object.entries(about.requestBody.content).map(([kind, body]) => html`<code>${kind}</code> ${shape(body.schema)} `)}</p>` : null}</section>`))}
    ${schemas.map(([name, schema]) => html`<section class="way" key=${name}><h2>${name}</h2><p>${schema.description?.split("\n")[0]}</p>
      <dl>${Object.entries(schema.properties ?? {}).map(([field, about]) => html`<div><dt><code>${field}</code></dt><dd>${about.enum?.join(", ") ?? about.anyOf?.map(shape).join(" or ") ?? shape(about)}</dd></div>`)}</dl></section>`)}`;
}
