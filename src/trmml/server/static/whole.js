/** Whole images: the probable categories are ticked; what is shown without a tick is absent. */
import { Empty, ask, base, html, later, passing, percent, say, signal, status, thumb, useEffect } from "./base.js";
import { useKeys } from "./keys.js";
import { flush, newId } from "./outbox.js";
import { measure } from "./progress.js";
import { act, depth, page, rowOf, undo, ways } from "./session.js";

const FIRST = 24;
/** For so long after an image came, it is not left: nobody has seen it. */
const LOOK_MS = 300;
/** The image in hand: its questions, ticks by category, and how many are shown. */
const sheet = signal(/** @type {any} */ (null));
const problem = signal("");
const restAbsent = signal(false);
const focus = signal(0);
const finding = signal("");
/** @type {any[]} */
let ahead = [];
let fresh = true;
/** Counts what was turned to: whoever waits for an image gives up when another was. */
let turned = 0;
let shownAt = 0;

async function fetchMore() {
  const { images } = await ask(`/queue/images?n=2&anew=${fresh}&page=${page}`);
  fresh = false;
  for (const each of images) new Image().src = thumb(each.image, 1280);
  ahead.push(...images);
}

async function advance() {
  const mine = ++turned;
  sheet.value = null;
  problem.value = "";
  for (let wait = 500; !ahead.length; wait = Math.min(2 * wait, 4000)) {
    try {
      await flush();
      await fetchMore();
      break;
    } catch (error) {
      if (mine !== turned) return;
      if (!passing(error)) return void (problem.value = error instanceof Error ? error.message : String(error));
    }
    await later(wait);
    if (mine !== turned) return;
  }
  if (mine !== turned) return; // what came stays ahead: the server gives no image twice
  const image = ahead.shift();
  if (ahead.length < 2) void flush().then(fetchMore).catch(() => {});
  show(image && {
    of: newId(), shown: FIRST, ...image,
    ticks: image.ticks ?? Object.fromEntries(image.questions.filter((/** @type {any} */ q) => q.likely).map((/** @type {any} */ q) => [q.category, "present"])),
  });
}

/** @param {any} now */
function show(now) {
  sheet.value = now ?? { questions: [] };
  focus.value = 0;
  finding.value = "";
  shownAt = performance.now();
}

ways.images = (view) => {
  turned++;
  if (sheet.value?.image) ahead.unshift(sheet.value);
  problem.value = "";
  show(view);
};

/** What is kept of a question: its tick, and absent where it was shown without one, or all the rest is. @param {any} q @param {number} n */
const verdictOf = (q, n) => sheet.value.ticks[q.category] ?? (restAbsent.value || n < sheet.value.shown ? "absent" : null);

const said = () =>
  sheet.value.questions.map((/** @type {any} */ q, /** @type {number} */ n) => [q, verdictOf(q, n)]).filter((/** @type {any} */ [, verdict]) => verdict);

/** @param {boolean} answered */
function leave(answered) {
  const now = sheet.value;
  if (!now?.image || status.value.read_only || performance.now() - shownAt < LOOK_MS) return;
  const kept = answered ? said() : [];
  const ms = Math.round((performance.now() - shownAt) / Math.max(kept.length, 1));
  act(kept.map((/** @type {any} */ [q, verdict]) => rowOf(q, verdict, ms, null, !now.touched?.[q.category])), now);
  say(answered ? `${kept.length} answers kept` : "passed over");
  void advance().then(measure);
}

/** @param {string|null} verdict null takes the tick away @param {any} [q] the question; by default the one in hand */
function tick(verdict, q = listed()[focus.value]) {
  if (!q || status.value.read_only) return;
  const ticks = { ...sheet.value.ticks };
  if (verdict) ticks[q.category] = verdict;
  else delete ticks[q.category];
  sheet.value = { ...sheet.value, ticks, touched: { ...sheet.value.touched, [q.category]: true } };
  say(`${q.category}: ${verdictOf(q, sheet.value.questions.indexOf(q)) ?? "stays open"}`);
}

/** @param {any} [q] */
const toggle = (q = listed()[focus.value]) => tick(sheet.value?.ticks?.[q?.category] === "present" ? null : "present", q);

const listed = () => {
  const now = sheet.value;
  if (!now) return [];
  const word = finding.value.toLowerCase();
  return word ? now.questions.filter((/** @type {any} */ q) => q.category.toLowerCase().includes(word)).slice(0, 40) : now.questions.slice(0, now.shown);
};

/** @param {number} by */
function step(by) {
  focus.value = Math.max(Math.min(focus.value + by, listed().length - 1), 0);
  document.getElementById(`c${focus.value}`)?.scrollIntoView({ block: "nearest" });
  const q = listed()[focus.value];
  if (q) say(`${q.category}: ${verdictOf(q, sheet.value.questions.indexOf(q)) ?? "stays open"}`);
}

function Tools() {
  const off = status.value.read_only;
  return html`<div class="tools" role="toolbar" aria-label="Answers">
    <span class="group"><button onClick=${() => tick("present")} disabled=${off}>Present <kbd>Y</kbd></button><button onClick=${() => tick("absent")} disabled=${off}>Absent <kbd>N</kbd></button>
      <button onClick=${() => tick("unsure")} disabled=${off}>Unsure <kbd>U</kbd></button></span>
    <span class="group moves"><button onClick=${() => step(-1)}>Back <kbd>K</kbd></button><button onClick=${() => step(1)}>Next <kbd>J</kbd></button></span><span class="space" />
    <button onClick=${() => leave(false)} disabled=${off}>Pass over <kbd>S</kbd></button>
    <button onClick=${undo} disabled=${!depth.value || status.value.read_only}>Undo <kbd>Z</kbd></button>
    <button class="main" onClick=${() => leave(true)} disabled=${off}>Keep, next <kbd>Enter</kbd></button></div>`;
}

export function Whole() {
  useEffect(() => { if (!sheet.value) void advance(); }, []);
  useKeys({
    j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
    y: () => tick("present"), n: () => tick("absent"), " ": () => toggle(), u: () => tick("unsure"),
    r: () => (restAbsent.value = !restAbsent.value), Enter: () => leave(true), s: () => leave(false), z: undo, "Ctrl+z": undo,
  }, [["Y", "present"], ["N", "absent"], ["U", "unsure: not asked for 30 days"], ["Space", "tick or untick"], ["J K", "next, back; arrows too"], ["R", "the rest is absent, or stays open"], ["Enter", "keep, next image"], ["S", "pass over"], ["Z", "take back, as often as you like"]]);
  const now = sheet.value;
  if (problem.value) return html`<${Empty} title="No image came">${problem.value}<//><p class="center"><button onClick=${() => advance()}>Ask again</button></p>`;
  // The buttons stay while another image is chosen: one may have the focus.
  if (!now) return html`<p class="wait" key="wait" aria-busy="true">Choosing an image …</p><${Tools} key="tools" />`;
  if (!now.image)
    return html`<${Empty} title="No image is left to ask about">Each has its answers, or was shown in this session. Load the page anew to see those that were passed over.<//>
      ${depth.value ? html`<p class="center"><button onClick=${undo}>Undo <kbd>Z</kbd></button></p>` : null}`;
  const kept = said();
  const absent = kept.filter((/** @type {any} */ [, verdict]) => verdict === "absent").length;
  const open = now.questions.length - kept.length;
  return html`<div class="whole" key="whole">
    <figure><img src=${thumb(now.image, 1280)} alt=${base(now.name)} /><figcaption><bdi>${now.name}</bdi>
      ${now.known.length ? html`<span>Known: ${now.known.join(", ")}</span>` : null}</figcaption></figure>
    <section aria-label="What it shows"><h1>What does it show?</h1>
      ${status.value.read_only ? html`<p class="hint">Nothing can be answered: this server was started with --read-only.</p>` : null}
      <input type="search" placeholder="Find a category" aria-label="Find a category" value=${finding.value} onInput=${(/** @type {any} */ e) => { finding.value = e.target.value; focus.value = 0; }} />
      <ul class="checks">${listed().map((/** @type {any} */ q, /** @type {number} */ n) => html`<li id=${`c${n}`} key=${q.category} class=${`${now.ticks[q.category] ?? ""} ${n === focus.value ? "here" : ""}`}>
        <label><input type="checkbox" disabled=${status.value.read_only} checked=${now.ticks[q.category] === "present"} onChange=${() => { focus.value = n; toggle(q); }} /><bdi>${q.category}</bdi>
        ${now.ticks[q.category] === "unsure" ? html`<small>unsure</small>` : null}</label><span class="p">${percent(q.p)}</span></li>`)}</ul>
      ${!finding.value && now.shown < now.questions.length ? html`<button class="plain" onClick=${() => (sheet.value = { ...now, shown: now.shown + FIRST })}>Show ${Math.min(FIRST, now.questions.length - now.shown)} more</button>` : null}
      <label class="switch"><input type="checkbox" checked=${restAbsent.value} onChange=${() => (restAbsent.value = !restAbsent.value)} /> The rest is absent <kbd>R</kbd></label>
      <p class="hint">${absent} absent${open ? `, ${open} stay open` : ""}; present: ${kept.filter((/** @type {any} */ [, v]) => v === "present").map((/** @type {any} */ [q]) => q.category).join(", ") || "none"}</p>
    </section></div>
    <${Tools} key="tools" />`;
}
