/** Review: blocks of one category, whole images, and labels that look wrong. */
import { Empty, html, status, useEffect } from "./base.js";
import { Block, turn } from "./block.js";
import { Progress, measure } from "./progress.js";
import { KINDS, kind, setKind } from "./session.js";
import { Whole } from "./whole.js";

export default function Review() {
  useEffect(() => {
    if (!status.value.review) return;
    if (kind.value !== "learn") setKind(kind.value); // whoever comes back from another page
    void measure();
  }, []);
  if (!status.value.review)
    return html`<${Empty} title="Nothing is under review">Start <code>trmml serve RUN --images DIR --labels TABLE</code>, with
      the folder of your images and, if you have one, the table of their labels.<//>`;
  return html`
    <div class="head">
      <div class="tabs" role="group" aria-label="What to review">${Object.entries(KINDS).map(([to, name]) =>
        html`<button aria-pressed=${to === kind.value} onClick=${() => turn(to)}>${name}</button>`)}</div>
      <${Progress} />
    </div>
    ${kind.value === "images" ? html`<${Whole} />` : html`<${Block} key=${kind.value} />`}`;
}
