/** The frame of all pages: navigation, signing in, and whether everything is saved. */
import { ask, html, later, render, signal, spoken, status, trouble } from "./base.js";
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
    <main id="main" tabindex="-1">${shown.value ? html`<${shown.value} />` : null}</main>
    <p class="sr" role="status" aria-live="polite">${spoken.value}</p>
    <${Help} />`;
}

/** The token of the address becomes a cookie, and leaves the address. */
async function signIn() {
  const token = new URLSearchParams(location.hash.slice(1)).get("t");
  if (!token) return;
  history.replaceState(null, "", path);
  await ask("/session", { token });
}

async function start() {
  document.title = `${title} – trmml`;
  if (path === "/") return location.replace(`/review${location.hash}`);
  render(html`<${Frame} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
  const page = load();
  await signIn().catch(() => {});
  while (!status.value) {
    try {
      status.value = await ask("/status");
    } catch {
      await later(1500);
    }
  }
  document.title = `${title} – ${status.value.run} – trmml`;
  if (status.value.review) await openOutbox(status.value.journal);
  shown.value = (await page).default;
}

void start();
