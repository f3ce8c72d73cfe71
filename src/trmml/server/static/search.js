/** Search: words, tags, an image, or a part of one. */
import { Empty, Refused, SIZE_KEYS, Size, ask, base, fit, html, say, signal, sized, status, thumb, tile, useEffect, useRef } from "./base.js";
import { open, useKeys } from "./keys.js";

const text = signal("");
/** Tags with whether they are wanted. */
const tags = signal(/** @type {[string, boolean][]} */ ([]));
/** Id of the image to resemble, and the part of it. */
const like = signal("");
const box = signal(/** @type {number[]|null} */ (null));
const strict = signal(false);
const found = signal(/** @type {any} */ (null));
const problem = signal("");
/** What was named as a tag and is none; Enter searches in the same moment, which may go well. */
const strange = signal("");
const large = signal(/** @type {any} */ (null));
let asked = 0;
/** Of a part that is named by numbers, in percent of the image, from its top left. */
const EDGES = [["Left", 25], ["Top", 25], ["Right", 75], ["Bottom", 75]];

/** @param {number} [offset] hits that are shown already */
async function search(offset = 0) {
  const number = ++asked;
  const words = text.value.trim();
  if (!words && !tags.value.length && !like.value) return void (found.value = null);
  problem.value = "";
  try {
    const told = await ask("/search", {
      text: words ? [words] : [], tags: tags.value.filter(([, yes]) => yes).map(([name]) => name),
      without: tags.value.filter(([, yes]) => !yes).map(([name]) => name),
      like: like.value || null, box: box.value, min: strict.value ? "auto" : null, limit: 40, offset,
    });
    if (number !== asked) return;
    found.value = offset ? { ...told, hits: [...found.value.hits, ...told.hits] } : told;
    say(`${found.value.hits.length} images`);
  } catch (error) {
    if (number === asked && error instanceof Refused) problem.value = error.message;
  }
}

/** @param {string} name */
function addTag(name) {
  const yes = !name.startsWith("-");
  const plain = yes ? name : name.slice(1).trim();
  strange.value = plain && !status.value.search.includes(plain) ? plain : "";
  if (strange.value) return false;
  if (!plain) return true;
  tags.value = [...tags.value.filter(([each]) => each !== plain), [plain, yes]];
  void search();
  return true;
}

/** @param {string} id @param {number[]|null} part */
function resemble(id, part = null) {
  like.value = id;
  box.value = part;
  large.value = null;
  void search();
}

/** @param {File|undefined} file */
async function upload(file) {
  if (!file) return;
  const form = new FormData();
  form.append("image", file);
  try {
    large.value = { id: (await ask("/images", form)).images[0], image: file.name, given: [], found: [] };
  } catch (error) {
    problem.value = error instanceof Error ? error.message : "";
  }
}

/** An image, on which a part can be chosen: by dragging, or by clicking two corners. */
function Large() {
  const hit = large.value;
  const area = useRef(/** @type {any} */ (null));
  const mark = useRef(/** @type {any} */ (null));
  const first = useRef(/** @type {number[]|null} */ (null));
  const chosen = useRef(/** @type {number[]|null} */ (null));
  /** @param {PointerEvent} event */
  const at = (event) => {
    const frame = area.current.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height].map((each) => Math.min(Math.max(each, 0), 1));
  };
  /** @param {number[]} a @param {number[]} b */
  const draw = (a, b) => {
    const edges = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
    chosen.current = edges[2] - edges[0] > 0.02 && edges[3] - edges[1] > 0.02 ? edges : null;
    Object.assign(mark.current.style, { left: `${100 * edges[0]}%`, top: `${100 * edges[1]}%`, width: `${100 * (edges[2] - edges[0])}%`, height: `${100 * (edges[3] - edges[1])}%`, display: "block" });
  };
  /** @param {any} event */
  const exact = (event) => {
    event.preventDefault();
    const [left, top, right, bottom] = [...event.target.querySelectorAll("input")].map((each) => each.valueAsNumber / 100);
    draw([left, top], [right, bottom]);
    if (event.submitter && chosen.current) resemble(hit.id, chosen.current);
  };
  return html`<dialog class="large" aria-label=${base(hit.image)} ref=${open} onClose=${() => (large.value = null)}>
    <div class="stage" tabindex="-1" autofocus><div class="hold pickable" ref=${area}
      onPointerDown=${(/** @type {any} */ e) => { e.preventDefault(); if (first.current) return; first.current = at(e); e.currentTarget.setPointerCapture(e.pointerId); }}
      onPointerMove=${(/** @type {any} */ e) => first.current && draw(first.current, at(e))}
      onPointerUp=${(/** @type {any} */ e) => { const [a, b] = [first.current, at(e)]; if (!a || Math.hypot(a[0] - b[0], a[1] - b[1]) < 0.02) return; draw(a, b); first.current = null; if (chosen.current) resemble(hit.id, chosen.current); }}>
      <img src=${thumb(hit.id, 1280)} alt=${base(hit.image)} draggable=${false} onLoad=${fit} /><span class="frame" ref=${mark} aria-hidden="true" /></div></div>
    <div class="row"><b><bdi>${base(hit.image)}</bdi></b> <span class="hint">${[...hit.given, ...hit.found].join(", ")}</span><span class="space" />
      <span class="hint">Drag over a part, or click two corners, to search for it.</span>
      <button class="main" onClick=${() => resemble(hit.id)}>More like this</button>
      <button onClick=${() => (large.value = null)}>Close</button>
      <details class="exact"><summary>A part by numbers</summary><form class="group" onInput=${(/** @type {any} */ e) => exact({ preventDefault() {}, target: e.currentTarget })} onSubmit=${exact}>
        ${EDGES.map(([name, value]) => html`<label key=${name}>${name} <input type="number" min="0" max="100" step="1" required defaultValue=${value} /> %</label>`)}
        <button>Search this part</button></form></details></div>
  </dialog>`;
}

function Chips() {
  return html`<div class="chips">
    ${like.value ? html`<span class="chip"><img src=${thumb(like.value, 160)} alt="" width="28" height="28" />${box.value ? "like a part of this" : "like this"}
      <button class="plain" aria-label="Drop the image" onClick=${() => { like.value = ""; box.value = null; void search(); }}>×</button></span>` : null}
    ${tags.value.map(([name, yes]) => html`<span class=${`chip ${yes ? "" : "not"}`} key=${name}>
      <button class="plain" title="With or without" onClick=${() => { tags.value = tags.value.map((each) => (each[0] === name ? [name, !yes] : each)); void search(); }}>${yes ? "" : "without "}<bdi>${name}</bdi></button>
      <button class="plain" aria-label=${`Drop ${name}`} onClick=${() => { tags.value = tags.value.filter(([each]) => each !== name); void search(); }}>×</button></span>`)}
    <input class="add" list="names" aria-label="Add a tag" placeholder="+ tag, or -tag" onChange=${(/** @type {any} */ e) => { if (addTag(e.target.value.trim())) e.target.value = ""; }} />
    <datalist id="names">${status.value.search.map((/** @type {string} */ name) => html`<option value=${name} />`)}</datalist></div>`;
}

/** Some tags of a hit, those that were asked for first. @param {any} hit */
function shownTags(hit) {
  const asked = tags.value.map(([name]) => name);
  const all = [...hit.given, ...hit.found];
  return [...all.filter((name) => asked.includes(name)), ...all.filter((name) => !asked.includes(name))].slice(0, 3).join(", ");
}

/** What there is to search for, before anything is asked. */
const Start = () => html`<p class="hint">Say what you look for, drop an image here, or begin with a tag:</p>
  <div class="group">${status.value.search.slice(0, 60).map((/** @type {string} */ name) => html`<button onClick=${() => addTag(name)}><bdi>${name}</bdi></button>`)}</div>`;

export default function Page() {
  useKeys(SIZE_KEYS, [["+ -", "larger, smaller tiles"]]);
  useEffect(() => {
    const like = new URLSearchParams(location.search).get("like");
    if (like) resemble(like);
    /** @param {DragEvent} event */
    const drop = (event) => void upload(event.dataTransfer?.files[0]);
    addEventListener("drop", drop);
    return () => removeEventListener("drop", drop);
  }, []);
  if (!status.value.search.length)
    return html`<${Empty} title="There is no index to search">Make one with <code>${status.value.make_index}</code>, and
      start <code>trmml serve</code> again with <code>--index ${status.value.make_index.split(" ").pop()}</code>.<//>`;
  const result = found.value;
  return html`<h1 class="sr">Search</h1>
    <form class="find" role="search" onSubmit=${(/** @type {any} */ e) => { e.preventDefault(); void search(); }}>
      <div class="field"><input type="search" aria-label="What the images show" disabled=${!status.value.texts} placeholder=${status.value.texts ? "What the images show" : "This encoder reads no text: use tags or an image"}
        value=${text.value} onInput=${(/** @type {any} */ e) => (text.value = e.target.value)} /><button class="main">Search</button>
        <label class="button">By image<input class="sr" type="file" accept="image/*" onChange=${(/** @type {any} */ e) => upload(e.target.files[0])} /></label></div>
      <${Chips} />
      <label class="switch"><input type="checkbox" checked=${strict.value} onChange=${() => { strict.value = !strict.value; void search(); }} /> Only what chance hardly reaches</label>
    </form>
    ${strange.value ? html`<p class="error" role="alert">The index has no tag "<bdi>${strange.value}</bdi>". The field lists those that it has.</p>` : null}
    ${problem.value ? html`<p class="error" role="alert">${problem.value}</p>` : null}
    ${!result ? html`<${Start} />` : html`
      <div class="ask"><p class="hint">${result.hits.length}${result.more ? " and more" : ""} images, best first.${result.least != null ? ` Below a score of ${result.least.toFixed(2)} nothing is shown.` : ""}</p><span class="controls"><${Size} /></span></div>
      <div class="tiles hits" style=${sized()}>${result.hits.map((/** @type {any} */ hit) => html`<button class="tile" key=${hit.image} disabled=${!hit.id} onClick=${() => (large.value = hit)} aria-label=${`${base(hit.image)}, score ${hit.score.toFixed(2)}`}>
        ${hit.id ? html`<img src=${tile(hit.id)} alt="" loading="lazy" />` : html`<span class="blank">gone</span>`}
        <span class="foot"><b><bdi>${shownTags(hit)}</bdi></b><span class="p">${hit.score.toFixed(2)}</span></span></button>`)}</div>
      ${result.hits.length ? null : html`<${Empty} title="Nothing is found">Take a tag away, or allow lower scores.<//>`}
      ${result.more ? html`<p class="center"><button onClick=${() => search(result.hits.length)}>Show more</button></p>` : null}`}
    ${large.value ? html`<${Large} key=${large.value.id} />` : null}`;
}
