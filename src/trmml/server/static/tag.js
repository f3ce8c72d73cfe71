/** Tag: drop images, see what they show, where, and why. */
import { Heat, Refused, ask, html, percent, say, signal, status, thumb, useEffect, useRef } from "./base.js";

/** Cards, newest first: what was sent and what came back. */
const cards = signal(/** @type {any[]} */ ([]));
const every = signal(false);
const over = signal(false);
/** Files may be dropped anywhere on the page. @type {("dragover"|"dragleave"|"drop")[]} */
const DRAGS = ["dragover", "dragleave", "drop"];

/** @param {any} card @param {any} change */
const put = (card, change) =>
  (cards.value = cards.value.map((each) => (each.key === card.key ? { ...each, ...change } : each)));

/** @param {Iterable<File>} files */
async function send(files) {
  const fresh = [...files].map((file) => ({ key: crypto.randomUUID(), file, name: file.name, tags: null, error: "" }));
  cards.value = [...fresh, ...cards.value];
  const waiting = [...fresh];
  const work = async () => {
    for (let card = waiting.shift(); card; card = waiting.shift()) {
      const form = new FormData();
      form.append("image", card.file);
      try {
        const told = (await ask("/tag?top=12", form)).images[0];
        put(card, { id: told.image, tags: told.tags });
        say(`${card.name}: ${told.tags.filter(reached).map((/** @type {any} */ tag) => tag.category).join(", ") || "no tag"}`);
      } catch (error) {
        put(card, { error: String(error instanceof Error ? error.message : error) });
      }
    }
  };
  await Promise.all([work(), work(), work(), work()]);
}

/** @param {any} tag */
const reached = (tag) => tag.probability >= tag.threshold;

/** Show where a tag is, and fetch that at first. @param {any} card @param {string} name */
async function look(card, name) {
  put(card, { shown: name });
  if (card.maps || card.asking) return;
  put(card, { asking: true, untold: "" });
  try {
    const told = await explained(card);
    put(card, { maps: told.maps, alike: told.alike });
  } catch (error) {
    put(card, { untold: error instanceof Error ? error.message : "" });
  }
  put(card, { asking: false });
}

/** Where the tags of a card are. The server forgets images after others; then it is sent again. @param {any} card */
async function explained(card) {
  const path = "/tag?top=12&explain=true";
  try {
    return (await ask(path, { images: [card.id] })).images[0];
  } catch (error) {
    if (!(error instanceof Refused && error.code === 404)) throw error;
  }
  const form = new FormData();
  form.append("image", card.file);
  return (await ask(path, form)).images[0];
}

/** @param {any} props */
function Tag({ card, tag }) {
  const here = card.shown === tag.category;
  return html`<li class=${`${reached(tag) ? "reached" : ""} ${here ? "here" : ""}`}>
    <button class="tag" aria-pressed=${card.why === tag.category} title="Why?"
      onMouseEnter=${() => look(card, tag.category)} onFocus=${() => look(card, tag.category)} onMouseLeave=${() => card.why || put(card, { shown: "" })}
      onClick=${() => { put(card, { why: card.why === tag.category ? "" : tag.category }); void look(card, tag.category); }}>
      <bdi>${tag.category}</bdi>
      <span class="meter" aria-hidden="true"><i style=${{ width: `${100 * tag.probability}%` }} /><b style=${{ left: `${100 * tag.threshold}%` }} /></span>
      <span class="p">${percent(tag.probability)}<span class="sr">${reached(tag) ? ", a tag" : ", below its threshold"}</span></span></button>
    ${card.why === tag.category ? html`<div class="why"><p>${percent(tag.probability)} probable${reached(tag) ? ", which reaches" : "; a tag from"} the category's threshold of ${percent(tag.threshold)}.${" "}
      ${card.maps ? "The colours show where the run looked." : card.asking ? "Looking …" : card.untold ?? ""}</p>
      ${card.alike?.[tag.category]?.length ? html`<p>Most alike of the images known to show it:</p><div class="alike">${card.alike[tag.category].map((/** @type {string} */ id) =>
        html`<img src=${thumb(id, 160)} alt=${`Known to show ${tag.category}`} width="72" height="72" />`)}</div>` : null}</div>` : null}
  </li>`;
}

/** @param {any} props */
function Card({ card }) {
  const tags = (card.tags ?? []).filter((/** @type {any} */ tag) => every.value || reached(tag));
  return html`<article class="card" aria-label=${card.name}>
    <div class=${`hold ${card.shown && card.maps ? "mapped" : ""}`}>
      ${card.id ? html`<img src=${thumb(card.id, 640)} alt=${card.name} /><${Heat} map=${card.maps} name=${card.shown ?? ""} />` : html`<div class="blank" />`}</div>
    <div class="body"><h2><bdi>${card.name}</bdi></h2>
      ${card.error ? html`<p class="error">${card.error}</p>` : card.tags ? html`<ul class="tags">${tags.map((/** @type {any} */ tag) => html`<${Tag} key=${tag.category} card=${card} tag=${tag} />`)}
        ${tags.length ? null : html`<li class="hint">No tag reaches its threshold.</li>`}</ul>` : html`<p class="wait" aria-busy="true">Tagging …</p>`}</div>
  </article>`;
}

export default function Page() {
  const field = useRef(/** @type {any} */ (null));
  useEffect(() => {
    /** @param {ClipboardEvent} event */
    const paste = (event) => event.clipboardData?.files.length && send(event.clipboardData.files);
    /** @param {DragEvent} event */
    const drag = (event) => {
      over.value = event.type === "dragover" && !!event.dataTransfer?.types.includes("Files");
      if (event.type === "drop" && event.dataTransfer) void send(event.dataTransfer.files);
    };
    addEventListener("paste", paste);
    for (const kind of DRAGS) addEventListener(kind, drag);
    return () => {
      removeEventListener("paste", paste);
      for (const kind of DRAGS) removeEventListener(kind, drag);
    };
  }, []);
  return html`<h1>Tag images</h1>
    <label class=${`drop ${over.value ? "over" : ""}`}>
      <input class="sr" type="file" multiple accept="image/*,.heic,.avif,.jp2,.tif,.tiff" ref=${field} onChange=${(/** @type {any} */ e) => { void send(e.target.files); e.target.value = ""; }} />
      <b>Drop images here</b><span>or choose, or paste. They stay on this machine and are forgotten when it ends.</span></label>
    ${cards.value.length ? html`<label class="switch"><input type="checkbox" checked=${every.value} onChange=${() => (every.value = !every.value)} /> Also what is below its threshold</label>` : html`
      <p class="hint">${status.value.categories.length} categories: ${status.value.categories.slice(0, 24).join(", ")}${status.value.categories.length > 24 ? " …" : ""}</p>`}
    <div class="cards">${cards.value.map((card) => html`<${Card} key=${card.key} card=${card} />`)}</div>`;
}
