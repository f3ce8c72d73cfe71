/**
 * Answers on their way: shown at once, kept in the browser's database until the server has them.
 * Each has an id from the start, so that to send one again changes nothing.
 */
import { Refused, ask, signal, status, trouble } from "./base.js";

/** How many are not on the server's disk yet. */
export const unsaved = signal(0);
/** Why the server takes none, in its words. */
export const halted = signal("");
/** Answers that it will never take as they are, each with its reason. */
export const refused = signal(/** @type {any[]} */ ([]));
/** Whether some are in this page's memory alone: the browser would not keep them. */
export const frail = signal(false);

const LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const WAIT = 200;
/** @type {("rows"|"refused")[]} */
const STORES = ["rows", "refused"];
/** What a server says of a row; anything else it says of all of them. */
const OF_A_ROW = [400, 404, 413, 422];
/** @type {IDBDatabase|null} */
let database = null;
/** What the database does not take. @type {Record<string, Map<string, any>>} */
const held = { rows: new Map(), refused: new Map() };
let journal = "";
let timer = 0;
/** @type {Promise<void>|null} */
let sending = null;
/** Rows on their way into the database. */
let coming = 0;
let last = 0n;

/** A ULID: the later sorts behind the earlier, as in the journal. */
export function newId() {
  const random = crypto.getRandomValues(new Uint8Array(10)).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  const number = (BigInt(Date.now()) << 80n) | random;
  last = number > last ? number : last + 1n;
  return Array.from({ length: 26 }, (_, n) => LETTERS[Number((last >> BigInt(5 * (25 - n))) & 31n)]).join("");
}

/** @param {string} named the journal that the server writes to; each has a box of its own */
export async function openOutbox(named) {
  journal = named;
  database = await opened(`trmml-${journal}`).catch(() => null);
  frail.value = !database;
  unsaved.value = (await all("rows")).length;
  refused.value = await all("refused");
  addEventListener("beforeunload", (event) => {
    if (unsaved.value) event.preventDefault();
  });
  addEventListener("online", () => void flush());
  setInterval(() => unsaved.value && void flush(), 2000);
  await flush();
}

/** @param {string} name @returns {Promise<IDBDatabase>} */
const opened = (name) => new Promise((done, fail) => {
  const request = indexedDB.open(name, 2);
  request.onupgradeneeded = () => {
    const there = request.result.objectStoreNames;
    for (const store of STORES) if (!there.contains(store)) request.result.createObjectStore(store, { keyPath: "id" });
  };
  request.onsuccess = () => {
    request.result.onversionchange = () => {
      request.result.close();
      lose();
    };
    request.result.onclose = lose; // by the browser
    done(request.result);
  };
  request.onerror = request.onblocked = () => fail(request.error);
});

/** The database is gone: what comes is held in memory. */
function lose() {
  database = null;
  frail.value = true;
}

/**
 * Take answers; they are sent with others that come soon.
 * @param {any[]} made
 */
export async function keep(made) {
  if (!made.length) return;
  coming += made.length;
  unsaved.value += made.length;
  try {
    await change((store) => made.forEach((row) => store("rows").put(row)));
  } catch { // full, or closed from outside
    frail.value = true;
    for (const row of made) held.rows.set(row.id, row);
  }
  coming -= made.length;
  if (!timer) timer = window.setTimeout(() => void flush(), WAIT);
}

/** Send what is there; done when the server has it, or cannot take it now. */
export async function flush() {
  clearTimeout(timer);
  timer = 0;
  while (sending) await sending;
  sending = send().catch(() => void (frail.value = true)).finally(() => (sending = null));
  await sending;
}

async function send() {
  const waiting = await count();
  // Another page may have sent what this one made: they share a box.
  if (!waiting.length) return void (halted.value = "");
  try {
    await deliver(waiting.slice(0, 1000));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    halted.value = error.code && error.code !== 401 && error.code < 500 ? error.message : "";
    if (error.code === 403) await readStatus();
    return;
  }
  if (status.value.read_only) await readStatus();
  if ((await count()).length) await send();
}

/** Ask whether answers are taken, which another start of the server may have changed. */
async function readStatus() {
  status.value = await ask("/status").catch(() => status.value);
}

/** Rows that wait. */
async function count() {
  const waiting = await all("rows");
  unsaved.value = waiting.length + coming;
  return waiting;
}

/**
 * Send rows, in halves where the server will not take one of them: it takes all or none.
 * @param {any[]} sent
 */
async function deliver(sent) {
  try {
    await ask("/answers", { journal, answers: sent });
  } catch (error) {
    if (!(error instanceof Refused && OF_A_ROW.includes(error.code))) throw error;
    const half = sent.length >> 1;
    if (!half) return setAside(sent[0], error.message);
    await deliver(sent.slice(0, half));
    return deliver(sent.slice(half));
  }
  halted.value = "";
  await change((store) => sent.forEach((row) => store("rows").delete(row.id)));
  for (const row of sent) held.rows.delete(row.id);
}

/** @param {any} row @param {string} reason */
async function setAside(row, reason) {
  await change((store) => {
    store("refused").put({ ...row, reason });
    store("rows").delete(row.id);
  });
  held.rows.delete(row.id);
  refused.value = await all("refused");
}

/** Let go of what was refused, or send it once more. @param {boolean} again */
export async function settle(again) {
  const settled = refused.value;
  if (again) await keep(settled.map(({ reason, ...row }) => row));
  await change((store) => settled.forEach((row) => store("refused").delete(row.id)));
  held.refused.clear();
  refused.value = await all("refused");
}

/** A file of what was refused, a line of JSON each. */
export function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(refused.value.map((row) => `${JSON.stringify(row)}\n`), { type: "application/jsonl" }));
  link.download = "refused-answers.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}

/** @param {"rows"|"refused"} name @returns {Promise<any[]>} */
async function all(name) {
  /** @type {any[]} */
  let stored = [];
  try {
    if (database) stored = await result(database.transaction(name).objectStore(name).getAll());
  } catch {
    frail.value = true;
  }
  return [...stored, ...held[name].values()];
}

/** @param {(store: (name: "rows"|"refused") => { put: (row: any) => any, delete: (id: string) => any }) => void} work */
async function change(work) {
  /** @type {IDBTransaction|undefined} */
  let transaction;
  try {
    transaction = database?.transaction(STORES, "readwrite");
  } catch { // closed from outside
    lose();
  }
  if (!transaction) return work((name) => ({ put: (row) => held[name].set(row.id, row), delete: (id) => held[name].delete(id) }));
  const writing = transaction;
  work((name) => writing.objectStore(name));
  return new Promise((done, fail) => {
    writing.oncomplete = () => done(undefined);
    writing.onerror = writing.onabort = () => fail(writing.error);
  });
}

/** @param {IDBRequest} request @returns {Promise<any>} */
const result = (request) =>
  new Promise((done, fail) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });

/** A sentence on what is saved. */
export function saved() {
  if (!unsaved.value) return "All saved";
  const why = trouble.value || halted.value ? "waiting for the server" : "saving";
  return `${unsaved.value} unsaved, ${why}`;
}
