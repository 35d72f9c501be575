// Runs in Chromium, after site_facts.js: loads a page with steppers in a frame of some width, uses
// them as a reader would, and sends what it has found.

const RUN = 0, OTHER = 1; // which of the page's steppers

class Stepper { // one of a page's steppers, and what a reader does to it
  constructor(root, view) {
    Object.assign(this, { root, view });
    this.box = root.querySelector(".lab-run");
    this.data = JSON.parse(root.querySelector("script").textContent);
    this.slider = this.box.querySelector("input");
  }

  part(selector) { return this.box.querySelector(selector); }

  press(key, target = this.box) {
    const { KeyboardEvent } = this.view;
    return !target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  }

  click(what) { this.part(`[data-do=${what}]`).click(); }

  slide(number) {
    this.slider.value = number;
    this.slider.dispatchEvent(new this.view.Event("input", { bubbles: true }));
  }

  get at() { return Number(this.slider.value); }

  get isOpen() { return width(this.part(".lab-lanes")) > 0; }

  get picture() { return width(this.root.previousElementSibling.querySelector("picture img")); }

  cursor() { // where it stands, in percent of the lanes' width
    const lanes = this.part(".lab-over").getBoundingClientRect();
    const cursor = this.part(".lab-cursor").getBoundingClientRect();
    return 100 * ((cursor.left + cursor.right) / 2 - lanes.left) / lanes.width;
  }

  wrong() { // how what is shown differs from the step's data
    const { data, at } = this, step = data.steps[at], found = [];
    const same = (what, shown, meant) => {
      if (shown !== meant) found.push(`step ${at}: ${what}: ${shown} and not ${meant}`);
    };
    const meant = (text) => {
      const box = this.view.document.createElement("div");
      box.innerHTML = text;
      return box.innerHTML;
    };
    ["threads", "queue", "lists", "others"].forEach((name, n) => {
      same(name, this.part(`.lab-${name}`).innerHTML, meant(data.fragments[step.shows[n]]));
    });
    same("code", this.part(".lab-did code").innerHTML, meant(step.code));
    same("who", this.part(".lab-did b").innerHTML, meant(step.who));
    same("time", this.part(".lab-did time").textContent, step.when);
    same("sentence", this.part(".lab-says").innerHTML, meant(step.says));
    same("count", this.part(".lab-count").textContent, `step ${at + 1} of ${data.steps.length}`);
    same("said", this.slider.getAttribute("aria-valuetext"), this.part(".lab-count").textContent);
    const lines = (kind) => [...this.box.querySelectorAll(`.lab-line.lab-${kind}`)]
      .map((line) => Number(line.dataset.line)).join();
    const known = new Set([...this.box.querySelectorAll(".lab-line")].map((l) => Number(l.dataset.line)));
    same("line", lines("now"), known.has(step.line) ? `${step.line}` : "");
    same("trail", lines("past"), step.trail.filter((line) => known.has(line)).join());
    same("rests", lines("rests"), step.rests.filter((line) => known.has(line)).join());
    const acts = [...this.box.querySelectorAll(".lab-lane")]
      .findIndex((lane) => lane.matches(".lab-acts"));
    same("lane", acts, step.lane ?? -1);
    if (Math.abs(this.cursor() - step.x) > 0.3) found.push(`cursor: ${this.cursor()}, not ${step.x}`);
    const now = this.part(".lab-now"), source = this.part(".lab-source");
    if (now) {
      const [line, box] = [now, source].map((each) => each.getBoundingClientRect());
      if (line.top < box.top - 1 || line.bottom > box.bottom + 1) found.push(`step ${at}: hidden`);
    }
    return found;
  }
}

function steppers(view) {
  return [...view.document.querySelectorAll(".lab-steps")].map((root) => new Stepper(root, view));
}

function wider(view) { // what of a stepper stands out of the screen
  const screen = view.document.documentElement.clientWidth;
  return [...view.document.querySelectorAll(".lab-run, .lab-run *, .lab-kernel *")]
    .filter((each) => !each.closest("pre") && width(each))
    .filter((each) => each.getBoundingClientRect().right > screen + 0.5
      || each.getBoundingClientRect().left < -0.5)
    .map((each) => each.outerHTML.slice(0, 90));
}

const READ = ".lab-run b, .lab-run p, .lab-run small, .lab-run time, .lab-run button, .lab-run code, "
  + ".lab-run li, .lab-run td, .lab-run th, .lab-run span:not(.lab-gap), .lab-run i, .lab-run del, "
  + ".lab-run s, .lab-run em, .lab-kernel *";

function pale(view) { // texts that do not stand out from their ground
  return [...view.document.querySelectorAll(READ)]
    .filter((each) => width(each) && [...each.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((each) => view.getComputedStyle(each).visibility !== "hidden")
    .map((each) => [each.outerHTML.slice(0, 90), contrast(each, view)])
    .filter(([, ratio]) => ratio < 4.5);
}

function keys(one) { // where each key leads to
  const last = one.data.steps.length - 1, went = {};
  const press = (key, target) => {
    const taken = one.press(key, target);
    return [one.at, taken];
  };
  one.slide(3);
  went.right = press("ArrowRight");
  went.left = press("ArrowLeft");
  went.end = press("End");
  went.beyond = press("ArrowRight");
  went.home = press("Home");
  went.before = press("ArrowLeft");
  const calls = one.data.steps.map((step, n) => (step.call ? n : -1)).filter((n) => n > 0);
  went.calls = calls.slice(0, 8).map(() => press("n")[0]);
  went.slider = press("ArrowRight", one.slider);
  went.button = press("ArrowRight", one.part("button"));
  went.other = press("x");
  return { ...went, last, next: calls.slice(0, 8) };
}

function plays(one) { // play and pause, with a clock of ours
  const { view } = one, clocks = new Map();
  const [set, clear] = [view.setInterval, view.clearInterval];
  view.setInterval = (tick) => { clocks.set(clocks.size + 1, tick); return clocks.size; };
  view.clearInterval = (number) => clocks.delete(number);
  const tick = () => [...clocks.values()].forEach((each) => each());
  const word = () => one.part(".lab-play").textContent;
  const found = [];
  const note = () => found.push([one.at, word(), clocks.size]);
  one.slide(0);
  one.click("play"); note();
  tick(); tick(); note();
  one.press(" "); note(); // pauses
  one.press(" "); note(); // plays on
  one.press("ArrowRight"); note(); // a step by hand pauses
  one.press("End"); one.click("play"); note(); // from the end it begins anew
  one.slide(one.data.steps.length - 2); one.click("play"); tick(); note();
  tick(); note(); // it ends by itself
  [view.setInterval, view.clearInterval] = [set, clear];
  return { found, last: one.data.steps.length - 1 };
}

function choices(view) { // of a switch: which run is seen, and which button is pressed, by click
  const root = view.document.querySelector(".lab-switch");
  const cases = [...root.querySelectorAll(".lab-case")];
  const buttons = [...root.querySelectorAll(".lab-choice button")];
  const state = () => [
    cases.map((each) => width(each) > 0), buttons.map((each) => each.getAttribute("aria-pressed")),
  ];
  const found = [buttons.map((each) => each.textContent), state()];
  buttons[1].click();
  found.push(state());
  return found;
}

async function use(view, is_whole) {
  const page = view.document, [one, other] = [RUN, OTHER].map((n) => steppers(view)[n]);
  page.head.insertAdjacentHTML("beforeend", "<style>* { transition: none !important }</style>");
  view.matchMedia = () => ({ matches: true }); // reduced motion: a line is there at once
  const closed = {
    wider: wider(view), pale: pale(view), picture: one.picture, isOpen: one.isOpen,
    strip: width(one.part(".lab-strip")),
  };
  one.click("on");
  const opened = { picture: one.picture, isOpen: one.isOpen, at: one.at, other: other.isOpen };
  const walked = [], outside = [];
  for (let n = 0; n < one.data.steps.length; n++) {
    one.slide(n);
    walked.push(...one.wrong());
    if (n % 5 === 0) outside.push(...wider(view), ...pale(view).map(String));
  }
  const found = { closed, opened, walked, outside, steps: one.data.steps.length };
  const height = () => Math.round(one.box.getBoundingClientRect().height);
  found.heights = [0, 1].map(() => { // of the panel, at each step
    const seen = one.data.steps.map((_, n) => { one.slide(n); return height(); });
    return [Math.min(...seen), Math.max(...seen)];
  });
  found.kernel = [".lab-beside .lab-kernel", ".lab-source"]
    .map((each) => one.part(each).getBoundingClientRect())
    .map(({ left, top }) => ({ left, top }));
  if (!is_whole) return found;
  found.keys = keys(one);
  found.plays = plays(one);
  const lanes = one.part(".lab-over").getBoundingClientRect();
  const aim = one.data.steps[7];
  one.part(".lab-track").dispatchEvent(new view.MouseEvent("click", {
    bubbles: true, clientX: lanes.left + lanes.width * aim.x / 100, clientY: lanes.top + 5,
  }));
  found.aimed = one.data.steps[one.at].x - aim.x;
  found.focus = one.box.contains(page.activeElement);
  found.independent = [other.at, other.isOpen];
  one.click("close");
  found.closedAgain = { picture: one.picture, isOpen: one.isOpen, strip: width(one.part(".lab-strip")) };
  found.atOnce = steppers(view)[2].isOpen;
  found.choices = choices(view);
  // What JupyterLab does: an output that comes later, and the script once more.
  const late = page.createElement("div");
  late.innerHTML = one.root.outerHTML.replace(/ data-on="yes"/, "");
  late.querySelector(".lab-run").remove();
  page.body.append(late);
  const again = page.createElement("script");
  again.textContent = await (await fetch("/stepper.js")).text();
  page.body.append(again);
  await new Promise((done) => setTimeout(done));
  found.late = [...page.querySelectorAll(".lab-steps")]
    .map((root) => root.querySelectorAll(".lab-run").length);
  return found;
}

async function measure(tasks) {
  const found = [];
  for (const { page, width: wide, theme, is_whole, has_script } of tasks) {
    const frame = document.createElement("iframe");
    frame.style = `border: 0; width: ${wide}px; height: 900px`;
    if (!has_script) frame.sandbox = "allow-same-origin";
    document.body.append(frame);
    await load(frame, `/${page}?${theme}`);
    const view = frame.contentWindow;
    view.document.documentElement.dataset.theme = theme;
    const facts = has_script ? await use(view, is_whole) : {
      runs: view.document.querySelectorAll(".lab-run").length,
      heights: [...view.document.querySelectorAll(".lab-steps")].map((each) => each.offsetHeight),
      pictures: [...view.document.querySelectorAll("picture img")].map(width),
    };
    found.push({ page, width: wide, theme, ...facts, errors: view.errors || [], turned: view.turned });
    frame.remove();
  }
  await fetch("/facts", { method: "POST", body: JSON.stringify(found) });
}
