/** The frame of all pages: navigation, signing in, and whether everything is saved. */
import { Refused, Spoken, ask, go, html, later, render, signal, status, trouble, useEffect, where } from "./base.js";
import { Help, helping } from "./keys.js";
import { download, frail, halted, openOutbox, refused, saved, settle, unsaved } from "./outbox.js";
import { restore } from "./session.js";

/** @type {Record<string, [string, () => Promise<any>]>} */
const PAGES = {
  "/tag": ["Tag", () => import("./tag.js")],
  "/review": ["Review", () => import("./review.js")],
  "/search": ["Search", () => import("./search.js")],
  "/run": ["Run", () => import("./run.js")],
};
/** What a path shows. @param {string} path @returns {[string, () => Promise<any>]} */
const at = (path) => PAGES[path] ?? ["API", () => import("./api.js")];
/** The component of a page, with its path. */
const shown = signal(/** @type {any} */ ({}));
/** Whether the page is signed in, with its box of answers. */
const ready = signal(false);
/** How far the server is with loading the run; "" where that is not known. */
const loading = signal("");

const answers = (/** @type {number} */ count) => `${count} ${count === 1 ? "answer" : "answers"}`;
/** Where answers wait, in words. */
const kept = () =>
  `${answers(unsaved.value)} ${unsaved.value === 1 ? "is" : "are"} kept ${frail.value ? "in this page alone: leave it open" : "here"}`;

function Bar() {
  if (trouble.value === "signed-out")
    return html`<p class="bar bad" role="alert">This page is not signed in. Open the address that
      <code>trmml serve</code> printed. ${unsaved.value ? `${kept()}.` : ""}</p>`;
  if (trouble.value === "gone")
    return html`<p class="bar bad" role="alert">The server cannot be reached. ${unsaved.value
      ? `${kept()}${frail.value ? "" : " and sent when it is back"}.` : "It is asked again."}</p>`;
  if (halted.value) return html`<p class="bar bad" role="alert">Not taken: ${halted.value}. ${unsaved.value ? `${kept()}.` : ""}</p>`;
  return null;
}

/** Answers that the server will never take as they are. */
function Aside() {
  if (!refused.value.length) return null;
  const reasons = [...new Set(refused.value.map((row) => row.reason))];
  return html`<div class="bar aside" role="alert"><span>${answers(refused.value.length)} not taken: ${reasons.slice(0, 3).join("; ")}${reasons.length > 3 ? " …" : ""}</span>
    <span class="group"><button onClick=${() => settle(true)}>Send again</button><button onClick=${download}>Download</button><button onClick=${() => settle(false)}>Discard</button></span></div>`;
}

/** Go without loading anew: cards, hits and the way back stay. @param {MouseEvent} event @param {string} to */
function follow(event, to) {
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  if (to !== where.value) go(to);
}

function Frame() {
  const path = where.value;
  useEffect(() => {
    if (!ready.value) return;
    const [title, load] = at(path);
    document.title = `${title} – ${status.value.run} – trmml`;
    void load().then((page) => where.value === path && (shown.value = { path, page: page.default }), () => {
      trouble.value = "gone";
      if (shown.value.path) go(shown.value.path); // what is there stays
    });
  }, [path, ready.value]);
  const { page: Page } = shown.value;
  return html`
    <a class="skip" href="#main">To the content</a>
    <header class="top">
      <a class="mark" href="/review" aria-label="trmml" onClick=${(/** @type {MouseEvent} */ e) => follow(e, "/review")}><img src="/static/icon.svg" alt="" width="24" height="24" /><b>trmml</b></a>
      <nav aria-label="Pages">${Object.entries(PAGES).map(([to, [name]]) =>
        html`<a href=${to} aria-current=${to === path ? "page" : null} onClick=${(/** @type {MouseEvent} */ e) => follow(e, to)}>${name}</a>`)}</nav>
      <span class="where"><bdi>${status.value?.run ?? ""}</bdi></span>
      <span class=${unsaved.value ? "saved busy" : "saved"} data-unsaved=${unsaved.value}>${status.value?.review ? saved() : ""}</span>
      <button class="plain round" aria-label="Keys" title="Keys (?)" onClick=${() => (helping.value = true)}>?</button>
    </header>
    <${Bar} /><${Aside} />
    <main id="main" tabindex="-1">${Page ? html`<${Page} key=${shown.value.path} />` : loading.value ? html`<p class="wait" aria-busy="true">${loading.value}</p>` : null}</main>
    <${Spoken} />
    <${Help} />`;
}

/** The token of the address, which it leaves: it becomes a cookie. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("t");
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return token;
}

/** What the server has, once it has its run. @param {string|null} token */
async function signIn(token) {
  for (;;) {
    try {
      if (token) await ask("/session", { token }, false).catch(unlessRefused);
      token = null;
      return await ask("/status", undefined, false);
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

/** A file that is dropped beside its place must not be opened instead of the page. */
function keepDrops() {
  for (const kind of ["dragover", "drop"])
    addEventListener(kind, (event) => event instanceof DragEvent && event.dataTransfer?.types.includes("Files") && event.preventDefault());
}

/** A server that is gone is asked until it is back. */
function watch() {
  setInterval(() => {
    if (trouble.value === "gone") fetch("/health").then(() => (trouble.value = ""), () => {});
  }, 2000);
}

async function start() {
  const [title, load] = at(location.pathname);
  document.title = `${title} – trmml`;
  if (location.pathname === "/") return location.replace(`/review${location.hash}`);
  const token = takeToken();
  addEventListener("popstate", () => (where.value = location.pathname));
  keepDrops();
  watch();
  render(html`<${Frame} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
  void load(); // while it signs in
  const { review, journal } = (status.value = await signIn(token));
  if (review) {
    await openOutbox(journal);
    restore(journal);
  }
  ready.value = true;
}

void start();
