// Moves through a recorded run: see book/lab/stepper.py, which draws all that is shown here. Each
// run is one block of JSON in a .lab-steps: the panel's HTML, the pieces of the kernel, the steps.
// In JupyterLab a notebook's first cell brings this file, once more each time that it is run.

(() => {
  if (window.labStepper) return;
  window.labStepper = true;

  const PACE = 1200; // milliseconds a step, while it plays
  const PANELS = ["threads", "queue", "lists", "others"];

  function start(root) {
    const data = root.querySelector(":scope > script[type='application/json']");
    if (!data || root.dataset.on) return;
    root.dataset.on = "yes";
    const { page, fragments, steps } = JSON.parse(data.textContent);
    root.insertAdjacentHTML("beforeend", page);
    const box = root.lastElementChild;
    const the = (selector) => box.querySelector(selector);
    const [slider, kernel, source] = [the("input"), the(".lab-kernel"), the(".lab-source")];
    const told = the(".lab-told");
    const lanes = box.querySelectorAll(".lab-lane");
    const panels = PANELS.map((name) => the(`.lab-${name}`));
    const shown = []; // the number of each panel's fragment
    let [at, playing] = [0, 0];

    function show(number) {
      at = Math.max(0, Math.min(steps.length - 1, number));
      const step = steps[at];
      step.shows.forEach((fragment, n) => {
        if (shown[n] !== fragment) panels[n].innerHTML = fragments[fragment];
        shown[n] = fragment;
      });
      the(".lab-cursor").style.left = `${step.x}%`;
      the(".lab-did b").innerHTML = step.who;
      the(".lab-did time").innerHTML = step.when;
      the(".lab-did code").innerHTML = step.code;
      the(".lab-says").innerHTML = step.says;
      slider.value = at;
      const count = `step ${at + 1} of ${steps.length}`;
      slider.setAttribute("aria-valuetext", count);
      the(".lab-count").textContent = count;
      lanes.forEach((lane, n) => lane.classList.toggle("lab-acts", n === step.lane));
      light(step);
      // These two grow where they must, and stay so, that the page below them stands still.
      for (const each of [kernel, told]) {
        each.style.minHeight = `${each.getBoundingClientRect().height}px`;
      }
    }

    function shrink() {
      for (const each of [kernel, told]) each.style.minHeight = "";
    }

    function light(step) {
      for (const line of source.querySelectorAll(".lab-line")) {
        const number = Number(line.dataset.line);
        line.classList.toggle("lab-now", number === step.line);
        line.classList.toggle("lab-past", step.trail.includes(number));
        line.classList.toggle("lab-rests", step.rests.includes(number));
      }
      const line = source.querySelector(".lab-now") || source.querySelector(".lab-rests");
      if (!line) return;
      const top = line.offsetTop - source.clientHeight / 2; // only the source scrolls, not the page
      const steady = !root.matches(".lab-open") || matchMedia("(prefers-reduced-motion)").matches;
      source.scrollTo({ top, behavior: steady ? "instant" : "smooth" });
    }

    function scroller() { // what scrolls the page: on the site all of it, in JupyterLab a box
      let each = root.parentElement;
      while (each && !(/auto|scroll/.test(getComputedStyle(each).overflowY)
        && each.scrollHeight > each.clientHeight)) each = each.parentElement;
      return each || window;
    }

    const height = () => the(".lab-strip").getBoundingClientRect().top;

    function open(is) {
      if (root.matches(".lab-open") === is) return;
      const before = height();
      root.classList.toggle("lab-open", is);
      shrink();
      show(at);
      // What was clicked stays under the finger.
      scroller().scrollBy({ top: height() - before, behavior: "instant" });
    }

    const next = () => (at < steps.length - 1 ? show(at + 1) : play(false));

    function play(is) {
      clearInterval(playing);
      playing = is ? setInterval(next, PACE) : 0;
      the(".lab-play").textContent = is ? "Pause" : "Play";
      root.classList.toggle("lab-playing", is);
      if (is && at === steps.length - 1) show(0);
    }

    const go = (number) => { play(false); open(true); show(number); };
    const act = {
      play: () => { open(true); play(!playing); },
      back: () => go(at - 1),
      on: () => go(at + 1),
      call: () => {
        const found = steps.findIndex((step, n) => n > at && step.call);
        go(found < 0 ? steps.length - 1 : found);
      },
      first: () => go(0),
      last: () => go(steps.length - 1),
      close: () => { play(false); open(false); },
    };
    const keys = {
      ArrowLeft: "back", ArrowRight: "on", Home: "first", End: "last", n: "call", " ": "play",
    };

    box.addEventListener("click", (event) => {
      // After a click the keys are its own; JupyterLab gives them to the cell.
      if (!box.contains(document.activeElement)) box.focus({ preventScroll: true });
      const button = event.target.closest("[data-do]");
      if (button) act[button.dataset.do]();
      if (!event.target.closest(".lab-tracks")) return;
      const { left, width } = the(".lab-over").getBoundingClientRect();
      const x = 100 * (event.clientX - left) / width;
      const far = steps.map((step) => Math.abs(step.x - x));
      go(far.indexOf(Math.min(...far)));
    });
    slider.addEventListener("input", () => go(Number(slider.value)));
    box.addEventListener("keydown", (event) => {
      const what = keys[event.key];
      if (!what || event.ctrlKey || event.altKey || event.metaKey) return;
      event.stopPropagation(); // or the site turns the page
      if (event.key === " " && event.target.matches("button")) return; // which it presses
      event.preventDefault();
      act[what]();
    });
    addEventListener("resize", shrink);
    // The table of contents makes room for an open panel, as long as that is on the screen.
    new IntersectionObserver(([seen]) => root.classList.toggle("lab-seen", seen.isIntersecting))
      .observe(box);
    if ("open" in root.dataset) root.classList.add("lab-open");
    show(0);
  }

  function offer(root) { // a button for each run of a switch, of which one is shown
    const cases = [...root.querySelectorAll(":scope > .lab-case")];
    const row = document.createElement("div");
    row.className = "lab-choice";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", root.dataset.name);
    const choose = (number) => [...row.children].forEach((button, n) => {
      button.setAttribute("aria-pressed", n === number);
      cases[n].hidden = n !== number;
    });
    cases.forEach((each, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = each.dataset.label;
      button.addEventListener("click", () => choose(number));
      row.append(button);
    });
    root.dataset.on = "yes";
    root.prepend(row);
    choose(0);
  }

  function startAll() {
    document.querySelectorAll(".lab-steps:not([data-on])").forEach(start);
    document.querySelectorAll(".lab-switch:not([data-on])").forEach(offer);
  }
  const watch = () => {
    startAll();
    new MutationObserver(startAll).observe(document.body, { childList: true, subtree: true });
  };
  if (document.body && document.readyState !== "loading") watch();
  else addEventListener("DOMContentLoaded", watch);
})();
