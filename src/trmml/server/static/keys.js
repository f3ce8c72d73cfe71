/** Keys of a page, each with a button; they rest while somebody types, and can be switched off. */
import { go, html, signal, useEffect } from "./base.js";

export const single = signal(localStorage.getItem("keys") !== "off");
export const helping = signal(false);
export const listed = signal(/** @type {[string, string][]} */ ([]));

/** @param {boolean} on */
export function setSingle(on) {
  single.value = on;
  localStorage.setItem("keys", on ? "on" : "off");
}

/** @param {EventTarget|null} target */
const typing = (target) =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
  && !(target instanceof HTMLInputElement && /^(checkbox|radio|button|range)$/.test(target.type));
/** Keys that move a slider. */
const MOVES = /^(Arrow|Home|End|Page)/;
/** Keys that go on while they are held. One that answers would answer what nobody has seen. */
const HELD = /^(Arrow.*|[jk])$/i;

/**
 * Have keys do things while a page is shown.
 * @param {Record<string, () => void>} actions by key; "Ctrl+z" works even where keys are off
 * @param {[string, string][]} words what the help says
 */
export function useKeys(actions, words) {
  useEffect(() => {
    listed.value = words;
    return () => void (listed.value = []);
  }, []);
  useEffect(() => {
    /** @param {KeyboardEvent} event */
    const press = (event) => {
      if (typing(event.target) || event.altKey || helping.value) return;
      if (event.target instanceof HTMLInputElement && event.target.type === "range" && MOVES.test(event.key)) return;
      const chord = event.ctrlKey || event.metaKey;
      const focused = event.target instanceof HTMLElement ? event.target : document.body;
      // Where they are off, they still work in a list that has the focus.
      if (!chord && !single.value && !focused.closest("[role=listbox]")) return;
      // A button that has the focus does what it says on Enter and Space.
      const doing = event.key === "Enter" ? "button, a, summary" : event.key === " " ? "button, a, summary, input" : "";
      if (doing && focused.closest(doing)) return void (event.repeat && event.preventDefault());
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const act = actions[chord ? `Ctrl+${key}` : key];
      if (!act) return;
      event.preventDefault();
      if (!event.repeat || HELD.test(key)) act();
    };
    addEventListener("keydown", press);
    addEventListener("click", release);
    return () => {
      removeEventListener("keydown", press);
      removeEventListener("click", release);
    };
  });
}

/** A button or slider that was used by hand gives the keys back. @param {MouseEvent} event */
function release({ detail, target }) {
  const button = detail && target instanceof HTMLElement ? target.closest("button, input[type=range]") : null;
  if (button instanceof HTMLElement) button.blur();
}

/** The list of keys, and the switch. */
export function Help() {
  useEffect(() => {
    /** @param {KeyboardEvent} event */
    const press = (event) => {
      if (typing(event.target)) return;
      if (event.key === "?" && single.value) helping.value = !helping.value;
      if (event.key === "/" && single.value) {
        const field = document.querySelector("input[type=search]");
        if (field instanceof HTMLElement) field.focus();
        else go("/search");
        event.preventDefault();
      }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  if (!helping.value) return null;
  const rows = /** @type {[string, string][]} */ ([...listed.value, ["/", "search"], ["?", "this list"]]);
  return html`<dialog class="help" aria-label="Keys" ref=${open} onClose=${() => (helping.value = false)}>
    <h2>Keys</h2>
    <dl>${rows.map(([key, what]) => html`<div><dt>${key.split(" ").map((each) => html`<kbd>${each}</kbd> `)}</dt><dd>${what}</dd></div>`)}</dl>
    <label class="switch"><input type="checkbox" checked=${single.value}
      onChange=${(/** @type {any} */ e) => setSingle(e.target.checked)} /> Single keys do things</label>
    <form method="dialog"><button class="plain">Close</button></form>
  </dialog>`;
}

/** Open a dialog that comes into the page. @param {HTMLDialogElement|null} dialog */
export function open(dialog) {
  if (dialog && !dialog.open) dialog.showModal();
}
