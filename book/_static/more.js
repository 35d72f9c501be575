// On a phone a script is cut off below its first lines (book.css). Here it gets the button that shows
// all of it, unless that is little more; without JavaScript it scrolls in its box.
const LITTLE = 8; // lines

document.addEventListener("DOMContentLoaded", () => {
  if (!matchMedia("(max-width: 600px)").matches) return;
  for (const input of document.querySelectorAll(".cell_input:not(.lab-server)")) {
    const script = input.querySelector("pre");
    if (!script || input.closest("details")) continue;
    const lines = script.textContent.trimEnd().split("\n").length;
    if (lines <= LITTLE) {
      input.classList.add("lab-all");
      continue;
    }
    const more = document.createElement("button");
    more.className = "lab-more";
    more.textContent = `the whole script, ${lines} lines`;
    more.addEventListener("click", () => input.classList.add("lab-all"));
    input.after(more);
  }
});
