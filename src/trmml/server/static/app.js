/** The frame of all pages: navigation, signing in, and whether everything is saved. */
import { Refused, ask, html, later, render, signal, spoken, status, trouble } from "./base.js";
import { Help, helping } from "./keys.js";
import { openOutbox, refused, saved, unsaved } from "./outbox.js";

/** @type {Record<string, [string, () => Promise<any>]>} */
const PAGES = {
  "/tag": ["Tag", () => import("./tag.js")],
  "/review": ["Review", () => import("./review.js")],
  "/search": ["Search", () => import("./search.js")],
  "/run": ["Run", () => import("./run.js")],
};
const path = location.pathname;
const [title, load] = PAGES[path] ?? ["API", () => import("./api.js")];
const shown = signal(/** @type {any} */ (null));
/** How far the server is with loading the run; "" where that is not known. */
const loading = signal("");

function Bar() {
  if (refused.value) return html`<p class="bar bad" role="alert">Not taken: ${refused.value}</p>`;
  if (trouble.value === "signed-out")
    return html`<p class="bar bad" role="alert">This page is not signed in. Open the address that
      <code>trmml serve</code> printed.${unsaved.value ? ` ${unsaved.value} answers wait here.` : ""}</p>`;
  if (trouble.value === "gone")
    return html`<p class="bar bad" role="alert">The server cannot be reached. ${unsaved.value
      ? `${unsaved.value} answers are kept here and sent when it is back.` : "It is asked again."}</p>`;
  return null;
}

function Frame() {
  return html`
    <a class="skip" href="#main">To the content</a>
    <header class="top">
      <a class="mark" href="/review" aria-label="trmml"><img src="/static/icon.svg" alt="" width="24" height="24" /><b>trmml</b></a>
      <nav aria-label="Pages">${Object.entries(PAGES).map(([to, [name]]) =>
        html`<a href=${to} aria-current=${to === path ? "page" : null}>${name}</a>`)}</nav>
      <span class="where"><bdi>${status.value?.run ?? ""}</bdi></span>
      <span class=${unsaved.value ? "saved busy" : "saved"} data-unsaved=${unsaved.value}>${status.value?.review ? saved() : ""}</span>
      <button class="plain round" aria-label="Keys" title="Keys (?)" onClick=${() => (helping.value = true)}>?</button>
    </header>
    <${Bar} />
    <main id="main" tabindex="-1">${shown.value ? html`<${shown.value} />` : loading.value ? html`<p class="wait" aria-busy="true">${loading.value}</p>` : null}</main>
    <p class="sr" role="status" aria-live="polite">${spoken.value}</p>
    <${Help} />`;
}

/** The token of the address, which it leaves: it becomes a cookie. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("t");
  if (token) history.replaceState(null, "", path + location.search);
  return token;
}

/** Wait until the server has its run. @param {string|null} token */
async function signIn(token) {
  while (!status.value) {
    try {
      if (token) await ask("/session", { token }, false).catch(unlessRefused);
      token = null;
      status.value = await ask("/status", undefined, false);
    } catch (error) {
      const busy = error instanceof Refused && error.code === 503;
      loading.value = busy ? error.message : "";
      await later(busy ? 400 : 1500);
    }
  }
}

/** A token that is not good is passed over: the cookie may be. @param {any} error */
function unlessRefused(error) {
  if (error.code !== 401) throw error;
}

async function start() {
  document.title = `${title} – trmml`;
  if (path === "/") return location.replace(`/review${location.hash}`);
  render(html`<${Frame} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
  const page = load();
  await signIn(takeToken());
  document.title = `${title} – ${status.value.run} – trmml`;
  if (status.value.review) await openOutbox(status.value.journal);
  shown.value = (await page).default;
}

void start();
