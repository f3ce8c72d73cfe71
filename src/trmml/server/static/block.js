/** Blocks: images of one category, or labels that look wrong, answered one by one or at once. */
import { Empty, Heat, SIZE_KEYS, Size, Spoken, ask, base, fit, html, later, passing, percent, say, signal, sized, status, thumb, tile, useEffect } from "./base.js";
import { open, useKeys } from "./keys.js";
import { flush, newId } from "./outbox.js";
import { measure } from "./progress.js";
import { KINDS, act, category, depth, kind, page, rowOf, setKind, undo, ways } from "./session.js";

/** @type {Record<string, string>} */
const SIGNS = { present: "✓", absent: "✕", unsure: "?", skip: "»" };
/** For so long after a block came, it is not accepted: nobody has seen it. */
const LOOK_MS = 300;

/** Its kind, its questions, null while they are chosen, and by their places what was said of them. */
const block = signal(/** @type {any} */ (null));
const problem = signal("");
const focus = signal(0);
const large = signal(false);
const mapped = signal(true);
/** Categories of the last blocks, for what else an image shows. */
const recent = signal(/** @type {string[]} */ ([]));
/** Region maps by image and category. */
const maps = signal(/** @type {Record<string, any>} */ ({}));
/** @type {Promise<any>|null} */
let next = null;
/** Counts what was turned to: whoever waits for a block gives up when another was. */
let turned = 0;
let since = 0;
let shownAt = 0;

/** @param {{ kind: string, category: string }} asked @param {string} [after] a category that is being asked about */
async function fetchBlock(asked, after) {
  const query = new URLSearchParams({ kind: asked.kind, n: "24", page });
  if (asked.category) query.set("category", asked.category);
  if (after) query.set("after", after);
  const { questions } = await ask(`/queue?${query}`);
  for (const each of questions) new Image().src = tile(each.image);
  return questions;
}

/** Show the block that comes next. */
async function advance() {
  const mine = ++turned;
  const asked = { kind: kind.value, category: kind.value === "learn" ? category.value : "" };
  let ahead = next;
  next = null;
  problem.value = "";
  block.value = { ...asked, questions: null, given: {} };
  for (let wait = 500; mine === turned; wait = Math.min(2 * wait, 4000)) {
    try {
      await flush();
      if (mine !== turned) return;
      let questions = await (ahead ?? fetchBlock(asked));
      if (!questions.length && ahead) questions = await fetchBlock(asked);
      if (mine !== turned) return;
      show({ ...asked, of: newId(), questions, given: {} });
      return void measure();
    } catch (error) {
      if (mine !== turned) return;
      if (!passing(error)) return void (problem.value = error instanceof Error ? error.message : String(error));
      ahead = null;
    }
    await later(wait);
  }
}

/** @param {any} shown @param {number} [at] the tile in hand; by default the first that is open */
function show(shown, at) {
  block.value = shown;
  focus.value = at ?? Math.max(0, shown.questions.findIndex((/** @type {any} */ _, /** @type {number} */ n) => !shown.given[n]));
  since = shownAt = performance.now();
  const name = shown.questions[0]?.category;
  if (!name || shown.kind !== "learn") return;
  recent.value = [name, ...recent.value.filter((each) => each !== name)].slice(0, 10);
  if (shown.category || next) return;
  next = flush().then(() => fetchBlock(shown, name));
  next.catch(() => {});
}

ways.blocks = (view) => {
  turned++;
  if (view.of !== block.value?.of) next = null;
  problem.value = "";
  show(view, view.at);
};

/** @param {[number, string][]} verdicts of questions by their place @param {boolean} [assumed] whether they are as they were marked */
function decide(verdicts, assumed = false) {
  if (status.value.read_only) return;
  const before = block.value, mine = turned, at = focus.value;
  const ms = Math.round((performance.now() - shownAt) / Math.max(verdicts.length, 1));
  shownAt = performance.now();
  const given = { ...before.given };
  const rows = verdicts.flatMap(([n, verdict]) => {
    const asked = before.questions[n];
    // What was said before is taken back in the same act, so that one undo brings it again.
    const old = given[n] ? [rowOf(asked, null, null, given[n].id)] : [];
    const row = rowOf(asked, verdict, ms, null, assumed);
    given[n] = { verdict, id: row.id };
    return [...old, row];
  });
  act(rows, { ...before, at });
  block.value = { ...before, given };
  const [[n, verdict]] = verdicts;
  say(verdicts.length === 1 ? `${before.questions[n].category}, ${base(before.questions[n].name)}: ${verdict}` : `${verdicts.length} answered`);
  const open = before.questions.flatMap((/** @type {any} */ _, /** @type {number} */ n) => (given[n] ? [] : [n]));
  if (open.length) focus.value = open.find((/** @type {number} */ n) => n > at) ?? open[0];
  else void later(120).then(() => mine === turned && advance());
}

/** @param {string} verdict */
function answer(verdict) {
  if (!block.value?.questions?.[focus.value]) return;
  if (block.value.given[focus.value]?.verdict === verdict) return step(1);
  decide([[focus.value, verdict]]);
}

/** The rest of the block is as it was marked; what is asked once more wants an answer of its own. */
function accept() {
  if (performance.now() - since < LOOK_MS) return;
  const rest = (block.value?.questions ?? []).map((/** @type {any} */ each, /** @type {number} */ n) => [n, each.likely ? "present" : "absent"]);
  const open = rest.filter((/** @type {any} */ [n]) => !block.value.given[n] && block.value.questions[n].why !== "gold");
  if (open.length) decide(open, true);
}

/** A click says the contrary of the mark, or of what was said. @param {number} n @param {MouseEvent} event */
function click(n, event) {
  focus.value = n;
  if (event.detail > 1) return;
  const said = block.value.given[n]?.verdict;
  const shown = said === "present" || said === "absent" ? said === "present" : block.value.questions[n].likely;
  decide([[n, shown ? "absent" : "present"]]);
  focus.value = n;
}

/** @param {number} by */
function step(by) {
  const count = block.value?.questions?.length ?? 0;
  focus.value = Math.max(Math.min(focus.value + by, count - 1), 0);
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
  if (!asked || !name || block.value.kind !== "learn" || status.value.read_only) return;
  act([rowOf({ ...asked, category: name, was: "unknown", p: null, why: "typed" }, "present", 0)], { ...block.value, at: focus.value });
  say(`also ${name}, ${base(asked.name)}: present`);
}

/** @param {any} props */
function Tile({ asked, n }) {
  const given = block.value.given[n]?.verdict;
  const marked = given ? given === "present" : asked.likely;
  const suspect = block.value.kind !== "learn";
  const state = given ?? (asked.likely ? "probably present" : "probably absent");
  // The corner is for the mouse: the list has a key and a button for it.
  return html`<div id=${`q${n}`} role="option" aria-selected=${marked} class=${["tile", given ?? (asked.likely ? "likely" : ""), n === focus.value ? "here" : ""].join(" ")}
      aria-label=${`${asked.category}, ${base(asked.name)}: ${state}`} onClick=${(/** @type {MouseEvent} */ e) => click(n, e)}>
    <img src=${tile(asked.image)} alt="" loading=${n < 12 ? "eager" : "lazy"} draggable=${false} />
    <span class="corner" aria-hidden="true" title="Enlarge" onClick=${(/** @type {MouseEvent} */ e) => { e.stopPropagation(); focus.value = n; large.value = true; }}>
      <svg viewBox="0 0 16 16" width="16" height="16"><path d="M9.5 2.5h4v4m0-4-5 5m-2 6h-4v-4m0 4 5-5" /></svg></span>
    <span class="sign" aria-hidden="true">${given ? SIGNS[given] : asked.likely ? "✓" : ""}</span>
    <span class="foot">${suspect ? html`<b><bdi>${asked.category}</bdi></b>` : null}<span class="p">${percent(asked.p)}</span></span>
  </div>`;
}

function Large() {
  const asked = block.value.questions[focus.value];
  const of = asked.image + asked.category;
  useEffect(() => {
    if (!mapped.value || maps.value[of]) return;
    const stop = new AbortController();
    const query = new URLSearchParams({ top: "1", explain: "true", category: asked.category });
    // Whoever only passes by asks for nothing.
    const timer = setTimeout(() => ask(`/tag?${query}`, { images: [asked.image] }, true, stop.signal)
      .then((told) => (maps.value = { ...maps.value, [of]: told.images[0].maps }), () => {}), 100);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [of, mapped.value]);
  const shown = maps.value[of];
  const given = block.value.given[focus.value]?.verdict;
  return html`<dialog class="large" aria-label=${base(asked.name)} ref=${open} onClose=${() => (large.value = false)}>
    <div class=${`stage ${mapped.value && shown ? "mapped" : ""}`} tabindex="-1" autofocus><div class="hold"><img src=${thumb(asked.image, 1280)} alt=${base(asked.name)} onLoad=${fit} />
      ${mapped.value ? html`<${Heat} map=${shown} name=${asked.category} />` : null}</div></div>
    <div class="row"><b><bdi>${asked.category}</bdi>?</b> <span class="p">${percent(asked.p)}</span>
      <${Verdicts} given=${given} /><span class="group"><button onClick=${() => step(-1)}>Back <kbd>K</kbd></button><button onClick=${() => step(1)}>Next <kbd>J</kbd></button></span>
      <button onClick=${() => (mapped.value = !mapped.value)} aria-pressed=${mapped.value}>Region <kbd>M</kbd></button>
      <button onClick=${() => (large.value = false)}>Close <kbd>Space</kbd></button></div>
    <${Spoken} />
  </dialog>`;
}

/** @param {{ given?: string }} props what was said already */
function Verdicts({ given }) {
  const ways = [["present", "Present", "Y"], ["absent", "Absent", "N"], ["unsure", "Unsure", "U"], ["skip", "Skip", "S"]];
  return html`<span class="group">${ways.map(([verdict, word, key]) => html`<button key=${key} disabled=${status.value.read_only}
    aria-pressed=${given === undefined ? null : given === verdict} onClick=${() => answer(verdict)}>${word} <kbd>${key}</kbd></button>`)}</span>`;
}

/** The category that is asked about. */
const Pick = () => html`<label class="pick">Category <select value=${category.value} onChange=${(/** @type {any} */ e) => { category.value = e.target.value; turn("learn"); }}>
  <option value="">least asked first</option>${status.value.categories.map((/** @type {string} */ name) => html`<option value=${name}>${name}</option>`)}</select></label>`;

/** What there is instead of a block. */
function Nothing() {
  if (problem.value)
    return html`<${Empty} title="No question came">${problem.value}<//><p class="center"><button onClick=${() => advance()}>Ask again</button></p>`;
  return html`<${Empty} title="Nothing is left to ask here">${block.value.kind === "learn"
    ? html`Every pair has an answer, or rests. <code>${status.value.apply}</code> makes a table of them, and <code>${status.value.learn}</code> a better run.` : "No known label looks wrong enough, or a category has fewer than 8 known labels."}<//>
    ${depth.value ? html`<p class="center"><button onClick=${undo}>Undo <kbd>Z</kbd></button></p>` : null}`;
}

export function Block() {
  useEffect(() => { if (!block.value) void advance(); }, []);
  useKeys({
    j: () => step(1), k: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
    ArrowDown: () => step(columns()), ArrowUp: () => step(-columns()),
    y: () => answer("present"), n: () => answer("absent"), u: () => answer("unsure"), s: () => answer("skip"),
    Enter: accept, z: undo, "Ctrl+z": undo, " ": () => (large.value = !large.value), m: () => (mapped.value = !mapped.value),
    ...SIZE_KEYS, ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => [String(n), () => also(n)])),
  }, [["Y", "present"], ["N", "absent"], ["U", "unsure: not asked for 30 days"], ["S", "skip"], ["Enter", "the rest as marked"],
    ["J K", "next, back; arrows too"], ["Z", "take back, as often as you like"], ["Space", "enlarge"], ["M", "region map"], ["+ -", "larger, smaller tiles"], ["1 9", "also shows one of the last nine categories"]]);
  const { questions, given, kind: shown } = block.value ?? {};
  if (problem.value || (questions && !questions.length)) return html`${category.value ? html`<${Pick} />` : null}<${Nothing} />`;
  const name = questions?.[0].category;
  /** @type {Record<string, any>} */
  const heading = {
    learn: html`Which of these show <em><bdi>${name}</bdi></em>?`,
    wrong: html`Labelled as shown. <em>Are they there?</em>`,
    missed: html`Labelled as absent. <em>Are they there?</em>`,
  };
  const open = questions ? questions.length - Object.keys(given).length : 0;
  const again = open > 0 && questions.every((/** @type {any} */ asked, /** @type {number} */ n) => given[n] || asked.why === "gold");
  const todo = again ? "What is left was answered before: what do you say of it today?" : "Marked are the probable ones. Click what is otherwise, then accept.";
  // The list stays in the page while another block is chosen: it may have the focus.
  return html`
    ${questions ? html`<div class="ask" key="ask"><h1>${heading[shown]}</h1>
      <p class="hint">${status.value.read_only ? "Nothing can be answered: this server was started with --read-only." : todo}</p>
      <span class="controls"><${Size} />${shown === "learn" ? html`<${Pick} />` : null}</span></div>`
      : html`<p class="wait" key="wait" aria-busy="true">Choosing what is worth asking …</p>`}
    <div class="tiles" key="tiles" style=${sized()} role="listbox" tabindex="0" aria-busy=${!questions} aria-label=${!questions || shown !== "learn" ? KINDS[shown ?? "learn"] : name} aria-multiselectable="true" aria-activedescendant=${questions ? `q${focus.value}` : null}>
      ${questions?.map((/** @type {any} */ asked, /** @type {number} */ n) => html`<${Tile} key=${n} asked=${asked} n=${n} />`)}</div>
    <div class="tools" key="tools" role="toolbar" aria-label="Answers"><${Verdicts} />
      ${recent.value.length > 1 && shown === "learn" ? html`<details class="also"><summary>Also shows …</summary><div class="group">${recent.value.slice(1).map((each, n) =>
        html`<button key=${each} disabled=${status.value.read_only} onClick=${() => also(n + 1)}><bdi>${each}</bdi> <kbd>${n + 1}</kbd></button>`)}</div></details>` : null}
      <span class="space" />
      <button onClick=${() => (large.value = true)}>Enlarge <kbd>Space</kbd></button>
      <button onClick=${undo} disabled=${!depth.value || status.value.read_only}>Undo <kbd>Z</kbd></button>
      <button class="main" onClick=${accept} disabled=${status.value.read_only}>Accept ${open || ""} <kbd>Enter</kbd></button></div>
    ${large.value && questions ? html`<${Large} key="large" />` : null}`;
}

/** Ask about something else. @param {string} to a kind */
export function turn(to) {
  setKind(to);
  turned++;
  block.value = null;
  next = null;
  large.value = false;
  if (to !== "images") void advance();
}
