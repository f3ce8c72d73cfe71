/**
 * What was done in this tab, and the way back. The tab's storage has it after a reload; where that
 * is full, the oldest is dropped.
 */
import { say, signal, status } from "./base.js";
import { keep, newId } from "./outbox.js";

/** @type {Record<string, string>} */
export const KINDS = { learn: "Blocks", images: "Whole images", wrong: "Not there?", missed: "Missed?" };
const wanted = new URLSearchParams(location.search).get("kind") ?? "";
export const kind = signal(Object.hasOwn(KINDS, wanted) ? wanted : "learn");
export const category = signal("");

/** By which the server gives two tabs different questions. It is in the tab's storage only from one page to the next, so that a copy of the tab gets another. */
export const page = sessionStorage.getItem("page") ?? newId();
addEventListener("pageshow", () => sessionStorage.removeItem("page"));
addEventListener("pagehide", () => sessionStorage.setItem("page", page));

/**
 * What was shown when something was done; `of` names its questions, which many views share.
 * @typedef {{ of: string, questions: any[] } & Record<string, any>} View
 */
/** Newest last. @type {{ id: string, kind: string, category: string, rows: any[], view: View }[]} */
let done = [];
export const depth = signal(0);
/** How a view is shown again, by whoever showed it: blocks, or whole images. @type {Record<string, (view: any) => void>} */
export const ways = {};

/** @param {string} to */
export function setKind(to) {
  kind.value = to;
  history.replaceState(null, "", `/review?kind=${to}`);
}

/**
 * Have rows kept, and remember how to go back.
 * @param {any[]} rows @param {View} view
 */
export function act(rows, view) {
  const entry = { id: newId(), kind: kind.value, category: category.value, rows, view };
  done.push(entry);
  depth.value = done.length;
  const { questions, ...rest } = view;
  store(`${view.of} questions`, () => questions);
  store(`${entry.id} done`, () => ({ ...entry, view: rest }));
  void keep(rows);
}

/** Take back the newest, and show it as it was. */
export function undo() {
  if (status.value.read_only) return;
  const newest = done.pop();
  if (!newest) return say("nothing to take back");
  depth.value = done.length;
  sessionStorage.removeItem(`${newest.id} done`);
  void keep(newest.rows.map((row) => ({ ...row, id: newId(), answer: null, ms: null, undoes: row.id, assumed: false })));
  category.value = newest.category;
  setKind(newest.kind);
  ways[newest.kind === "images" ? "images" : "blocks"](newest.view);
  say("taken back");
}

/** @param {any} asked @param {string|null} answer null where a row is taken back @param {number|null} ms @param {string|null} [undoes] @param {boolean} [assumed] whether it is as it was marked, which changes no answer that there is by now */
export const rowOf = (asked, answer, ms, undoes = null, assumed = false) => ({
  id: newId(), image: asked.image, category: asked.category, answer, was: asked.was, p: asked.p, why: asked.why,
  ms: ms === null ? null : Math.min(ms, 1e9), undoes, assumed,
});

/** Names of what is stored, the oldest first: each begins with a ULID. */
const names = () => Object.keys(sessionStorage).filter((name) => /^[0-9A-Z]{26} /.test(name)).sort();

/** @param {string} name @param {() => any} what */
function store(name, what) {
  if (sessionStorage.getItem(name) !== null) return;
  const text = JSON.stringify(what());
  for (const oldest of [...names(), ""]) {
    try {
      return sessionStorage.setItem(name, text);
    } catch {
      sessionStorage.removeItem(oldest);
    }
  }
}

/** Know again what this tab did before it was loaded anew. @param {string} journal that it was for */
export function restore(journal) {
  if (sessionStorage.getItem("journal") !== journal) names().forEach((name) => sessionStorage.removeItem(name));
  sessionStorage.setItem("journal", journal);
  /** @type {Record<string, any>} */
  const questions = {};
  for (const name of names()) {
    const [id, what] = name.split(" ");
    const stored = JSON.parse(sessionStorage.getItem(name) ?? "null");
    if (what === "questions") questions[id] = stored;
    else if (questions[stored.view.of]) done.push({ ...stored, view: { ...stored.view, questions: questions[stored.view.of] } });
    else done = []; // what came before cannot be reached past a gap
  }
  depth.value = done.length;
}
