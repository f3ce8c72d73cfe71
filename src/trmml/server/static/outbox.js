/**
 * Answers on their way: shown at once, kept in the browser's database until the server has them.
 * Each has an id from the start, so that to send one again changes nothing.
 */
import { Refused, ask, signal, trouble } from "./base.js";

/** How many are not on the server's disk yet. */
export const unsaved = signal(0);
/** Why the server will not take some, in its words. */
export const refused = signal("");

const LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const WAIT = 200;
/** @type {Promise<IDBDatabase>} */
let opened;
let timer = 0;
/** @type {Promise<void>|null} */
let sending = null;
let last = 0n;

/** A ULID: the later sorts behind the earlier, as in the journal. */
export function newId() {
  const random = crypto.getRandomValues(new Uint8Array(10)).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  const number = (BigInt(Date.now()) << 80n) | random;
  last = number > last ? number : last + 1n;
  return Array.from({ length: 26 }, (_, n) => LETTERS[Number((last >> BigInt(5 * (25 - n))) & 31n)]).join("");
}

/** @param {string} journal which the server writes to; each has a box of its own */
export async function openOutbox(journal) {
  opened = new Promise((done, fail) => {
    const request = indexedDB.open(`trmml-${journal}`, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("rows", { keyPath: "id" });
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });
  unsaved.value = (await rows()).length;
  addEventListener("beforeunload", (event) => {
    if (unsaved.value) event.preventDefault();
  });
  addEventListener("online", () => void flush());
  setInterval(() => unsaved.value && void flush(), 2000);
  await flush();
}

/**
 * Take answers; they are sent with others that come soon.
 * @param {any[]} made
 */
export async function keep(made) {
  if (!made.length) return;
  unsaved.value += made.length;
  await change((store) => made.forEach((row) => store.put(row)));
  if (!timer) timer = window.setTimeout(() => void flush(), WAIT);
}

/** Send what is there; done when the server has it, or cannot be reached. */
export async function flush() {
  clearTimeout(timer);
  timer = 0;
  while (sending) await sending;
  sending = send().finally(() => (sending = null));
  await sending;
}

async function send() {
  const waiting = (await rows()).slice(0, 1000);
  if (!waiting.length) return;
  try {
    await ask("/answers", { answers: waiting });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    refused.value = error.code && error.code !== 401 && error.code < 500 ? error.message : "";
    return;
  }
  refused.value = "";
  await change((store) => waiting.forEach((row) => store.delete(row.id)));
  unsaved.value = (await rows()).length;
  if (unsaved.value) await send();
}

/** @returns {Promise<any[]>} */
async function rows() {
  const store = (await opened).transaction("rows").objectStore("rows");
  return result(store.getAll());
}

/** @param {(store: IDBObjectStore) => void} work */
async function change(work) {
  const transaction = (await opened).transaction("rows", "readwrite");
  work(transaction.objectStore("rows"));
  return new Promise((done, fail) => {
    transaction.oncomplete = () => done(undefined);
    transaction.onerror = () => fail(transaction.error);
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
  const why = trouble.value ? "waiting for the server" : "saving";
  return `${unsaved.value} unsaved, ${why}`;
}
