/** Review: blocks of one category, whole images, and labels that look wrong. */
import { Empty, Heat, SIZE_KEYS, Size, ask, base, duration, fit, html, later, percent, signal, sized, spoken, status, thumb, tile, useEffect } from "./base.js";
import { open, useKeys } from "./keys.js";
import { flush, keep, newId } from "./outbox.js";
import { Whole } from "./whole.js";

/** @type {Record<string, string>} */
const KINDS = { learn: "Blocks", images: "Whole images", wrong: "Not there?", missed: "Missed?" };
/** @type {Record<string, string>} */
const SIGNS = { present: "✓", absent: "✕", unsure: "?", skip: "»" };

const kind = signal(new URLSearchParams(location.search).get("kind") ?? "learn");
const category = signal("");
/** Questions of the block, and the verdict on each that was given. */
const block = signal(/** @type {any} */ (null));
const focus = signal(0);
const large = signal(false);
const mapped = signal(true);
const progress = signal(/** @type {any} */ (null));
const worth = signal(/** @type {any} */ (null));
/** What was done in this session, newest last. @type {{rows: any[], back: () => void}[]} */
const done = [];
export const depth = signal(0);
/** Categories of the last blocks, for what else an image shows. */
const recent = signal(/** @type {string[]} */ ([]));
/** Region maps by image and category. */
const maps = signal(/** @type {Record<string, any>} */ ({}));
/** @type {Promise<any>|null} */
let next = null;
let shownAt = 0;

/**
 * Have rows kept, and remember how to go back.
 * @param {any[]} rows @param {() => void} back
 */
export function act(rows, back) {
  done.push({ rows, back });
  depth.value = done.length;
  void keep(rows);
}

/** Take back the newest. */
export function undo() {
  const newest = done.pop();
  depth.value = done.length;
  if (!newest) return void (spoken.value = "nothing to take back");
  void keep(newest.rows.map((row) => ({ ...row, id: newId(), answer: null, ms: null, undoes: row.id })));
  newest.back();
  spoken.value = "taken back";
}

/** @param {any} asked @param {string} answer @param {number} ms */
export const rowOf = (asked, answer, ms) => ({
  id: newId(), image: asked.image, category: asked.category, answer, was: asked.was, p: asked.p, why: asked.why, ms, undoes: null,
});

/** @param {string} [after] a category that is being asked about */
async function fetchBlock(after) {
  const query = new URLSearchParams({ kind: kind.value, n: "24" });
  if (category.value && kind.value === "learn") query.set("category", category.value);
  if (after && !category.value) query.set("after", after);
  const { questions } = await ask(`/queue?${query}`);
  for (const each of questions) new Image().src = tile(each.image);
  return questions;
}

/** Show the block that comes next. */
async function advance() {
  block.value = { questions: null, given: {} };
  const ahead = next;
  next = null;
  await flush();
  let questions = null;
  for (let wait = 500; !questions; wait = Math.min(2 * wait, 4000)) {
    questions = await (ahead ?? fetchBlock()).catch(() => null);
    if (!questions?.length && ahead) questions = await fetchBlock().catch(() => null);
    if (!questions) await later(wait);
  }
  show({ questions, given: {} });
  void measure();
}

/** @param {any} shown */
function show(shown) {
  block.value = shown;
  focus.value = Math.max(0, shown.questions.findIndex((/** @type {any} */ _, /** @type {number} */ n) => !shown.given[n]));
  shownAt = performance.now();
  const name = shown.questions[0]?.category;
  if (name && kind.value === "learn") {
    recent.value = [name, ...recent.value.filter((/** @type {string} */ each) => each !== name)].slice(0, 10);
    if (!category.value) next = flush().then(() => fetchBlock(name));
    next?.catch(() => {});
  }
}

export async function measure() {
  try {
    progress.value = await ask("/progress");
    worth.value = await ask("/worth");
  } catch { /* the bar tells */ }
}

/** @param {[number, string][]} verdicts of questions by their place */
function decide(verdicts) {
  const before = block.value;
  const ms = Math.round((performance.now() - shownAt) / Math.max(verdicts.length, 1));
  shownAt = performance.now();
  const rows = verdicts.map(([n, verdict]) => rowOf(before.questions[n], verdict, ms));
  const at = focus.value;
  act(rows, () => {
    const now = block.value;
    const same = now.questions === before.questions;
    const given = { ...(same ? now.given : before.given) };
    for (const [n] of verdicts) delete given[n];
    if (!same) next = null;
    show({ questions: before.questions, given });
    focus.value = at;
  });
  block.value = { ...before, given: { ...before.given, ...Object.fromEntries(verdicts) } };
  spoken.value = verdicts.length === 1
    ? `${rows[0].category}: ${verdicts[0][1]}` : `${verdicts.length} answered`;
  const open = before.questions.findIndex((/** @type {any} */ _, /** @type {number} */ n) => n > at && !block.value.given[n]);
  const first = before.questions.findIndex((/** @type {any} */ _, /** @type {number} */ n) => !block.value.given[n]);
  if (first < 0) return void later(120).then(() => { if (block.value.questions === before.questions && complete()) void advance(); });
  focus.value = open < 0 ? first : open;
}

const complete = () => Object.keys(block.value.given).length === block.value.questions.length;

/** @param {string} verdict */
function answer(verdict) {
  if (block.value?.questions?.[focus.value]) {
    if (block.value.given[focus.value]) return step(1);
    decide([[focus.value, verdict]]);
  }
}

/** The rest of the block is as it was marked. */
function accept() {
  const rest = (block.value?.questions ?? []).map((/** @type {any} */ each, /** @type {number} */ n) => [n, each.likely ? "present" : "absent"]);
  const open = rest.filter((/** @type {any} */ [n]) => !block.value.given[n]);
  if (open.length) decide(open);
}

/** A click says the contrary of the mark. @param {number} n */
function click(n) {
  focus.value = n;
  if (!block.value.given[n]) decide([[n, block.value.questions[n].likely ? "absent" : "present"]]);
  focus.value = n;
}

/** @param {number} by */
function step(by) {
  const count = block.value?.questions?.length ?? 0;
  focus.value = Math.min(Math.max(focus.value + by, 0), count - 1);
  document.getElementById(`q${focus.value}`)?.scrollIntoView({ block: "nearest" });
}

function columns() {
  const tiles = [...document.querySelectorAll(".tile")];
  const top = tiles[0]?.getBoundingClientRect().top;
  return tiles.filter((tile) => tile.getBoundingClientRect().top === top).length || 1;
}

/** Another category that the image shows. @param {number} n */
function also(n) {
  const asked = block.value?.questions?.[focus.value];
  const name = recent.value[n];
  if (!asked || !name) return;
  act([rowOf({ ...asked, category: name, was: "unknown", p: null, why: "typed" }, "present", 0)], () => {});
  spoken.value = `also ${name}: present`;
}

function Progress() {
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

/** @param {any} props */
function Tile({ asked, n }) {
  const given = block.value.given[n];
  const marked = given ? given === "present" : asked.likely;
  const suspect = kind.value !== "learn";
  const state = given ? `${given}` : asked.likely ? "probably present" : "probably absent";
  return html`<div id=${`q${n}`} role="option" aria-selected=${marked} class=${["tile", given ?? (asked.likely ? "likely" : ""), n === focus.value ? "here" : ""].join(" ")}
      aria-label=${`${asked.category}, ${base(asked.name)}: ${state}`} onClick=${() => click(n)} onDblClick=${() => (large.value = true)}>
    <img src=${tile(asked.image)} alt="" loading=${n < 12 ? "eager" : "lazy"} draggable=${false} />
    <span class="sign" aria-hidden="true">${given ? SIGNS[given] : asked.likely ? "✓" : ""}</span>
    <span class="foot">${suspect ? html`<b><bdi>${asked.category}</bdi></b>` : null}<span class="p">${percent(asked.p)}</span></span>
  </div>`;
}

function Large() {
  const asked = block.value.questions[focus.value];
  useEffect(() => {
    const query = new URLSearchParams({ top: "1", explain: "true", category: asked.category });
    ask(`/tag?${query}`, { images: [asked.image] }).then((told) => (maps.value = { ...maps.value, [asked.image + asked.category]: told.images[0].maps }), () => {});
  }, [asked.image, asked.category]);
  const shown = maps.value[asked.image + asked.category];
  return html`<dialog class="large" aria-label=${base(asked.name)} ref=${open} onClose=${() => (large.value = false)}>
    <div class=${`stage ${mapped.value && shown ? "mapped" : ""}`} tabindex="-1" autofocus><div class="hold"><img src=${thumb(asked.image, 1280)} alt=${base(asked.name)} onLoad=${fit} />
      ${mapped.value ? html`<${Heat} map=${shown} name=${asked.category} />` : null}</div></div>
    <div class="row"><b><bdi>${asked.category}</bdi>?</b> <span class="p">${percent(asked.p)}</span>
      <${Verdicts} /><button onClick=${() => (mapped.value = !mapped.value)} aria-pressed=${mapped.value}>Region <kbd>M</kbd></button>
      <button onClick=${() => (large.value = false)}>Close <kbd>Space</kbd></button></div>
  </dialog>`;
}

function Verdicts() {
  return html`<span class="group"><button onClick=${() => answer("present")}>Present <kbd>Y</kbd></button>
    <button onClick=${() => answer("absent")}>Absent <kbd>N</kbd></button>
    <button onClick=${() => answer("unsure")}>Unsure <kbd>U</kbd></button>
    <button onClick=${() => answer("skip")}>Skip <kbd>S</kbd></button></span>`;
}

/** The category that is asked about. */
const Pick = () => html`<label class="pick">Category <select value=${category.value} onChange=${(/** @type {any} */ e) => { category.value = e.target.value; turn("learn"); }}>
  <option value="">least asked first</option>${status.value.categories.map((/** @type {string} */ name) => html`<option>${name}</option>`)}</select></label>`;

function Block() {
  useEffect(() => { if (!block.value) void advance(); }, []);
  useKeys({
    j: () => step(1), k: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
    ArrowDown: () => step(columns()), ArrowUp: () => step(-columns()),
    y: () => answer("present"), n: () => answer("absent"), u: () => answer("unsure"), s: () => answer("skip"),
    Enter: accept, z: undo, "Ctrl+z": undo, " ": () => (large.value = !large.value), m: () => (mapped.value = !mapped.value),
    ...SIZE_KEYS, ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => [String(n), () => also(n)])),
  }, [["Y", "present"], ["N", "absent"], ["U", "unsure: not asked for 30 days"], ["S", "skip"], ["Enter", "the rest as marked"],
    ["J K", "next, back; arrows too"], ["Z", "take back, as often as you like"], ["Space", "enlarge"], ["M", "region map"], ["+ -", "larger, smaller tiles"], ["1 9", "also shows one of the last nine categories"]]);
  const { questions, given } = block.value ?? {};
  if (!questions) return html`<p class="wait" aria-busy="true">Choosing what is worth asking …</p>`;
  if (!questions.length)
    return html`${category.value ? html`<${Pick} />` : null}<${Empty} title="Nothing is left to ask here">${kind.value === "learn"
      ? html`Every pair has an answer, or rests. <code>${status.value.apply}</code> makes a table of them, and <code>${status.value.learn}</code> a better run.` : "No known label looks wrong enough, or a category has fewer than 8 known labels."}<//>`;
  const open = questions.length - Object.keys(given).length;
  const name = questions[0].category;
  /** @type {Record<string, any>} */
  const heading = {
    learn: html`Which of these show <em><bdi>${name}</bdi></em>?`,
    wrong: html`Labelled as shown. <em>Are they there?</em>`,
    missed: html`Labelled as absent. <em>Are they there?</em>`,
  };
  return html`
    <div class="ask"><h1>${heading[kind.value]}</h1>
      <p class="hint">Marked are the probable ones. Click what is otherwise, then accept.</p>
      <span class="controls"><${Size} />${kind.value === "learn" ? html`<${Pick} />` : null}</span></div>
    <div class="tiles" style=${sized()} role="listbox" tabindex="0" aria-label=${kind.value === "learn" ? name : KINDS[kind.value]} aria-multiselectable="true" aria-activedescendant=${`q${focus.value}`}>
      ${questions.map((/** @type {any} */ asked, /** @type {number} */ n) => html`<${Tile} key=${n} asked=${asked} n=${n} />`)}</div>
    <div class="tools" role="toolbar" aria-label="Answers"><${Verdicts} />
      ${recent.value.length > 1 && kind.value === "learn" ? html`<details class="also"><summary>Also shows …</summary><div class="group">${recent.value.slice(1).map((each, n) =>
        html`<button onClick=${() => also(n + 1)}><bdi>${each}</bdi> <kbd>${n + 1}</kbd></button>`)}</div></details>` : null}
      <span class="space" />
      <button onClick=${() => (large.value = true)}>Enlarge <kbd>Space</kbd></button>
      <button onClick=${undo} disabled=${!depth.value}>Undo <kbd>Z</kbd></button>
      <button class="main" onClick=${accept} disabled=${!open}>Accept ${open} <kbd>Enter</kbd></button></div>
    ${large.value ? html`<${Large} />` : null}`;
}

/** @param {string} to */
function turn(to) {
  kind.value = to;
  block.value = null;
  next = null;
  large.value = false;
  history.replaceState(null, "", `/review?kind=${to}`);
  if (to !== "images") void advance();
}

export default function Review() {
  useEffect(() => void measure(), []);
  if (!status.value.review)
    return html`<${Empty} title="Nothing is under review">Start <code>trmml serve RUN --images DIR --labels TABLE</code>, with
      the folder of your images and, if you have one, the table of their labels.<//>`;
  return html`
    <div class="head">
      <div class="tabs" role="group" aria-label="What to review">${Object.entries(KINDS).map(([to, name]) =>
        html`<button aria-pressed=${to === kind.value} onClick=${() => turn(to)}>${name}</button>`)}</div>
      <${Progress} />
    </div>
    ${kind.value === "images" ? html`<${Whole} />` : html`<${Block} key=${kind.value} />`}`;
}
