/** What every page uses: markup, state, requests, and what is said to screen readers. */
import { h } from "./vendor/preact.js";
import htm from "./vendor/htm.js";
import { signal as made } from "./vendor/signals.js";

export { render } from "./vendor/preact.js";
export { useEffect, useRef, useState } from "./vendor/hooks.js";
/** Markup. @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = /** @type {any} */ (htm).bind(h);

/** State that pages follow. @template T @param {T} value @returns {{ value: T }} */
export const signal = (value) => /** @type {any} */ (made(value));

/** What the server has; null until it is known. */
export const status = signal(/** @type {any} */ (null));
/** Why nothing goes on: "", "signed-out" or "gone". */
export const trouble = signal("");
/** The last thing that happened, read aloud. */
const spoken = signal("");
/** Have something read aloud; the same words again are a change, too. @param {string} words */
export const say = (words) => void (spoken.value = words === spoken.value ? `${words}\u00a0` : words);
/** Where it is read from. An open dialog needs its own: all beside it is silent. */
export const Spoken = () => html`<p class="sr" role="status" aria-live="polite">${spoken.value}</p>`;

/** The page that is shown, by its path. */
export const where = signal(location.pathname);

/** Go to another page of ours. What this one holds stays in memory. @param {string} to */
export function go(to) {
  history.pushState(null, "", to);
  where.value = location.pathname;
}

/** A request that was not done. */
export class Refused extends Error {
  /** @param {number} code @param {string} detail */
  constructor(code, detail) {
    super(detail);
    this.code = code;
  }
}

/** Whether a request that failed may be done later as it is. @param {any} error */
export const passing = (error) => error instanceof Refused && [0, 401, 408, 429, 503].includes(error.code);

/**
 * The JSON that the server answers.
 * @param {string} path below /api/v1
 * @param {any} [body] sent as JSON, or a form as it is
 * @param {boolean} [wait] whether to send again later where too many ask
 * @param {AbortSignal} [stop] by which whoever asks gives up
 * @returns {Promise<any>}
 */
export async function ask(path, body, wait = true, stop) {
  /** @type {RequestInit} */
  const how = { headers: { "X-Trmml": "1" }, signal: stop };
  if (body !== undefined) {
    how.method = "POST";
    how.body = body instanceof FormData ? body : JSON.stringify(body);
    if (!(body instanceof FormData)) how.headers = { ...how.headers, "Content-Type": "application/json" };
  }
  let answer;
  try {
    answer = await fetch("/api/v1" + path, how);
  } catch {
    if (stop?.aborted) throw new Refused(0, "Nobody waits for it.");
    trouble.value = "gone";
    throw new Refused(0, "The server cannot be reached.");
  }
  trouble.value = answer.status === 401 ? "signed-out" : "";
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const told = await answer.json().catch(() => ({ detail: answer.statusText }));
  if (answer.status === 503 && wait) {
    await later(1000 * Number(answer.headers.get("Retry-After") || 1));
    return ask(path, body, false, stop);
  }
  throw new Refused(answer.status, told.detail);
}

/** @param {number} ms */
export const later = (ms) => new Promise((done) => setTimeout(done, ms));
/** @param {string} id @param {number} w */
export const thumb = (id, w) => `/api/v1/thumb/${id}?w=${w}`;
/** @param {number} p */
export const percent = (p) => `${Math.round(100 * p)} %`;
/** @param {string} name */
export const base = (name) => name.split("/").pop();

/**
 * A time in words, short.
 * @param {number} seconds
 */
export const duration = (seconds) =>
  seconds < 90 ? `${seconds} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;

/** Tell the style an image's shape, so that it fills its place. @param {any} event */
export const fit = ({ target }) => target.style.setProperty("--ratio", String(target.naturalWidth / target.naturalHeight));

/** Steps by which tiles are larger than at first; remembered between visits. */
const SMALLEST = -2;
const LARGEST = 4;
const size = signal(Math.min(Math.max(Math.round(Number(localStorage.getItem("tiles"))) || 0, SMALLEST), LARGEST));

/** @param {number} to */
function setSize(to) {
  size.value = Math.min(Math.max(to, SMALLEST), LARGEST);
  localStorage.setItem("tiles", String(size.value));
}

/** Keys of a page with tiles. @type {Record<string, () => void>} */
export const SIZE_KEYS = {
  "+": () => setSize(size.value + 1), "=": () => setSize(size.value + 1), "-": () => setSize(size.value - 1),
};

/** How tiles are sized, for their style. */
export const sized = () => ({ "--size": String(1.25 ** size.value) });

/** An image for a tile: a larger one where tiles are large. @param {string} id */
export const tile = (id) => thumb(id, size.value > 1 ? 640 : 320);

/** The slider. */
export const Size = () => html`<label class="size">Size <input type="range" min=${SMALLEST} max=${LARGEST} step="1" value=${size.value}
  onInput=${(/** @type {any} */ e) => setSize(Number(e.target.value))} /></label>`;

/** A sentence on what is not there, and what to do. @param {any} props */
export const Empty = ({ title, children }) =>
  html`<section class="empty"><h2>${title}</h2><p>${children}</p></section>`;

/**
 * Where a run sees a tag: its map in colour over the image, which turns grey.
 * @param {{ map: any, name: string }} props
 */
export function Heat({ map, name }) {
  const values = map?.values?.[name];
  if (!values) return null;
  return html`<canvas class="heat" aria-hidden="true" width=${map.columns} height=${map.rows}
    ref=${(/** @type {HTMLCanvasElement|null} */ canvas) => canvas && paint(canvas, values)} />`;
}

/** @param {HTMLCanvasElement} canvas @param {number[]} values */
function paint(canvas, values) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, n) => pixels.data.set([255, 120, 20, 235 * Math.sqrt(value)], 4 * n));
  context.putImageData(pixels, 0, 0);
}
