/** Whole images: the probable categories are ticked; what is shown without a tick is absent. */
import { Empty, ask, base, html, later, percent, signal, spoken, thumb, useEffect } from "./base.js";
import { useKeys } from "./keys.js";
import { flush } from "./outbox.js";
import { act, depth, measure, rowOf, undo } from "./review.js";

const FIRST = 24;
/** The image in hand: its questions, ticks by category, and how many are shown. */
const sheet = signal(/** @type {any} */ (null));
const restAbsent = signal(false);
const focus = signal(0);
const finding = signal("");
/** @type {any[]} */
let ahead = [];
let fresh = true;
let shownAt = 0;

async function fetchMore() {
  const { images } = await ask(`/queue/images?n=2&anew=${fresh}`);
  fresh = false;
  for (const each of images) new Image().src = thumb(each.image, 1280);
  ahead.push(...images);
}

async function advance() {
  sheet.value = null;
  for (let wait = 500; !ahead.length; wait = Math.min(2 * wait, 4000)) {
    const failed = await flush().then(fetchMore).then(() => false, () => true);
    if (!failed) break;
    await later(wait);
  }
  const image = ahead.shift();
  if (ahead.length < 2) void flush().then(fetchMore).catch(() => {});
  show(image && { ...image, shown: FIRST, ticks: Object.fromEntries(image.questions.filter((/** @type {any} */ q) => q.likely).map((/** @type {any} */ q) => [q.category, "present"])) });
}

/** @param {any} now */
function show(now) {
  sheet.value = now ?? { questions: [] };
  focus.value = 0;
  finding.value = "";
  shownAt = performance.now();
}

/** What is kept: ticks, and absent for what was shown without one, or for all the rest. */
function said() {
  const now = sheet.value;
  return now.questions.map((/** @type {any} */ q, /** @type {number} */ n) => [q, now.ticks[q.category] ?? (restAbsent.value || n < now.shown ? "absent" : null)])
    .filter((/** @type {any} */ [, verdict]) => verdict);
}

/** @param {boolean} answered */
function leave(answered) {
  const now = sheet.value;
  if (!now?.image) return;
  const kept = answered ? said() : [];
  const ms = Math.round((performance.now() - shownAt) / Math.max(kept.length, 1));
  act(kept.map((/** @type {any} */ [q, verdict]) => rowOf(q, verdict, ms)), () => {
    if (sheet.value?.image) ahead.unshift(sheet.value);
    show(now);
  });
  spoken.value = answered ? `${kept.length} answers kept` : "passed over";
  void advance().then(measure);
}

/** @param {string} name @param {string} verdict */
function tick(name, verdict = "present") {
  const ticks = { ...sheet.value.ticks };
  if (ticks[name] === verdict) delete ticks[name];
  else ticks[name] = verdict;
  sheet.value = { ...sheet.value, ticks };
  spoken.value = `${name}: ${ticks[name] ?? "absent"}`;
}

const listed = () => {
  const now = sheet.value;
  const word = finding.value.toLowerCase();
  return word ? now.questions.filter((/** @type {any} */ q) => q.category.toLowerCase().includes(word)).slice(0, 40) : now.questions.slice(0, now.shown);
};

/** @param {number} by */
function step(by) {
  focus.value = Math.min(Math.max(focus.value + by, 0), listed().length - 1);
  document.getElementById(`c${focus.value}`)?.scrollIntoView({ block: "nearest" });
}

export function Whole() {
  useEffect(() => { if (!sheet.value) void advance(); }, []);
  const here = () => listed()[focus.value]?.category;
  useKeys({
    j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
    y: () => here() && tick(here()), " ": () => here() && tick(here()), u: () => here() && tick(here(), "unsure"),
    "-": () => (restAbsent.value = !restAbsent.value), Enter: () => leave(true), s: () => leave(false), z: undo, "Ctrl+z": undo,
  }, [["Y", "tick or untick; Space too"], ["U", "unsure"], ["J K", "next, back"], ["-", "the rest is absent, or stays open"], ["Enter", "keep, next image"], ["S", "pass over"], ["Z", "take back"]]);
  const now = sheet.value;
  if (!now) return html`<p class="wait" aria-busy="true">Choosing an image …</p>`;
  if (!now.image) return html`<${Empty} title="No image is left to ask about">Each has its answers, or was shown in this session. Start the server again to see those that were passed over.<//>`;
  const kept = said();
  const absent = kept.filter((/** @type {any} */ [, verdict]) => verdict === "absent").length;
  const open = now.questions.length - kept.length;
  return html`<div class="whole">
    <figure><img src=${thumb(now.image, 1280)} alt=${base(now.name)} /><figcaption><bdi>${now.name}</bdi>
      ${now.known.length ? html`<span>Known: ${now.known.join(", ")}</span>` : null}</figcaption></figure>
    <section aria-label="What it shows"><h1>What does it show?</h1>
      <input type="search" placeholder="Find a category" aria-label="Find a category" value=${finding.value} onInput=${(/** @type {any} */ e) => { finding.value = e.target.value; focus.value = 0; }} />
      <ul class="checks">${listed().map((/** @type {any} */ q, /** @type {number} */ n) => html`<li id=${`c${n}`} key=${q.category} class=${`${now.ticks[q.category] ?? ""} ${n === focus.value ? "here" : ""}`}>
        <label><input type="checkbox" checked=${now.ticks[q.category] === "present"} onChange=${() => { focus.value = n; tick(q.category); }} /><bdi>${q.category}</bdi>
        ${now.ticks[q.category] === "unsure" ? html`<small>unsure</small>` : null}</label><span class="p">${percent(q.p)}</span></li>`)}</ul>
      ${!finding.value && now.shown < now.questions.length ? html`<button class="plain" onClick=${() => (sheet.value = { ...now, shown: now.shown + FIRST })}>Show ${Math.min(FIRST, now.questions.length - now.shown)} more</button>` : null}
      <label class="switch"><input type="checkbox" checked=${restAbsent.value} onChange=${() => (restAbsent.value = !restAbsent.value)} /> The rest is absent <kbd>-</kbd></label>
      <p class="hint">${absent} absent${open ? `, ${open} stay open` : ""}; present: ${kept.filter((/** @type {any} */ [, v]) => v === "present").map((/** @type {any} */ [q]) => q.category).join(", ") || "none"}</p>
    </section></div>
    <div class="tools" role="toolbar" aria-label="Answers"><button onClick=${() => leave(false)}>Pass over <kbd>S</kbd></button><span class="space" />
      <button onClick=${undo} disabled=${!depth.value}>Undo <kbd>Z</kbd></button>
      <button class="main" onClick=${() => leave(true)}>Keep, next <kbd>Enter</kbd></button></div>`;
}
