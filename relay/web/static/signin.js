// The field for a token. What is typed stays in memory: never in the address, never stored.

import * as api from "./api.js";
import { find, show, write } from "./dom.js";

const form = find("#sign-in");
const input = find("input", form);

/** Show the field and say why. */
export function askForToken(text) {
  write(find("[data-sign-in]"), text);
  if (!form.hidden) return;
  show(form, true);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (!text) return;
  input.value = "";
  show(form, false);
  api.useToken(text);
});
find("[data-cancel]", form).addEventListener("click", () => show(form, false));
find("#token").addEventListener("click", () => {
  askForToken(api.hasToken() ? "Another token for this page." : "A token for this page.");
  input.focus();
});
api.changes.addEventListener("refused", ({ detail }) => askForToken(detail.advice));
