// Runs in Chromium, in a page of the test's own: loads the site's pages, each in a frame of some
// width, measures them there, and sends what it has found.

const width = (element) => element.getBoundingClientRect().width;

function cut(box) {  // by how many pixels a box is narrower than what is in it
  return box.scrollWidth - box.clientWidth;
}

function hidden(element) {  // how many pixels of an element stand out of some box that hides them
  const { left, right } = element.getBoundingClientRect();
  let most = 0;
  for (let box = element.parentElement; box; box = box.parentElement) {
    const edge = box.getBoundingClientRect();
    if (getComputedStyle(box).overflowX !== "visible") {
      most = Math.max(most, edge.left - left, right - edge.right);
    }
  }
  return most;
}

function icon(element, view) {  // what the font shows for an icon, and how large
  const drawn = view.getComputedStyle(element, "::before");
  const box = element.getBoundingClientRect();
  const font = `${drawn.fontWeight} 16px ${drawn.fontFamily}`;
  return {
    name: element.getAttribute("class"), font: drawn.fontFamily, content: drawn.content,
    loaded: view.document.fonts.check(font, "\uf002"),
    height: box.height, middle: (box.top + box.bottom) / 2,
    inHead: Boolean(element.closest(".article-header-buttons")),
  };
}

function rgba(text) {  // a computed colour as numbers: red, green, blue, opacity
  const [red, green, blue, opacity = 1] = text.match(/[\d.]+/g).map(Number);
  return [red, green, blue, opacity];
}

function over(ground, [red, green, blue, opacity]) {
  return [red, green, blue].map((each, n) => each * opacity + ground[n] * (1 - opacity));
}

function luminance(colour) {
  const [red, green, blue] = colour.map((each) =>
    each / 255 <= 0.04045 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(element, view) {  // of an element's text with what it stands on, as WCAG has it
  const all = [];
  for (let each = element; each; each = each.parentElement) all.unshift(view.getComputedStyle(each));
  const ground = all.reduce((under, each) => over(under, rgba(each.backgroundColor)), [255, 255, 255]);
  const opacity = all.reduce((product, each) => product * each.opacity, 1);
  const [red, green, blue, own] = rgba(view.getComputedStyle(element).color);
  const lights = [luminance(ground), luminance(over(ground, [red, green, blue, own * opacity]))];
  return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
}

const TEXTS = ".lab-pill, .lab-diff span, .lab-table :is(td, th), .lab-claim p, .lab-signs, "
  + ".lab-defects li, .lab-folded summary, .lab-figure figcaption";

function script(input) {  // by how much a script is cut off, before and after its button is used
  const [pre, more] = [input.querySelector("pre"), input.nextElementSibling];
  const hides = () => pre.scrollHeight - pre.clientHeight;
  const has = Boolean(more && more.matches(".lab-more") && width(more));
  const before = { has, hides: hides(), says: has ? more.textContent : "" };
  if (has) more.click();
  return { ...before, left: hides(), still: Boolean(has && width(more)) };
}

function facts(view) {
  const page = view.document;
  const all = (selector) => [...page.querySelectorAll(selector)];
  const seen = all(TEXTS).filter(width);
  return {
    cut: cut(page.documentElement),
    tables: all(".lab-wide .lab-scroll").map(cut),
    hidden: all(".lab-matrix :is(td, th)").map(hidden),
    tableWidth: Math.max(0, ...all(".lab-matrix").map(width)),
    paragraphs: all(".bd-article section > p").map(width),
    targets: all(".lab-matrix thead a").map((link) => {
      const { width, height, left } = link.getBoundingClientRect();
      return { width, height, left };
    }),
    signs: all(".lab-matrix .lab-pill").some(
      (each) => view.getComputedStyle(each).fontSize === "0px"),
    icons: all("i[class*='fa-'], svg.svg-inline--fa").filter(width).map((each) => icon(each, view)),
    pale: seen.map((each) => [each.outerHTML.slice(0, 80), contrast(each, view)])
      .filter(([, ratio]) => ratio < 4.5),
    texts: seen.length,
    height: page.querySelector(".bd-article").getBoundingClientRect().height,
    scripts: all(".bd-article .cell_input:not(details *)").filter(width).map(script),
    theme: page.documentElement.dataset.theme,
    loaded: view.performance.getEntriesByType("resource").map((each) => each.name),
  };
}

function load(frame, address) {
  return new Promise((loaded) => {
    frame.onload = loaded;
    frame.src = address;
  });
}

function opened(view) {  // the steppers of a page, all opened: does it stay as narrow as the screen?
  const steppers = [...view.document.querySelectorAll(".lab-steps")];
  const open = steppers.map((each) => {
    const cases = [...view.document.querySelectorAll(".lab-case")];
    const choice = each.closest(".lab-switch")?.querySelector(".lab-choice");
    choice?.children[cases.indexOf(each.closest(".lab-case"))].click();
    each.querySelector("[data-do=on]")?.click();
    return width(each.querySelector(".lab-lanes") || view.document.createElement("i")) > 0;
  });
  return { open, cut: cut(view.document.documentElement) };
}

async function measure(tasks) {
  const found = [];
  for (const { page, width, theme } of tasks) {
    localStorage.setItem("mode", theme);
    localStorage.setItem("theme", theme);
    const frame = document.createElement("iframe");
    frame.style = `border: 0; width: ${width}px; height: 900px`;
    document.body.append(frame);
    await load(frame, `/${page}`);
    await frame.contentDocument.fonts.ready;
    const seen = facts(frame.contentWindow);
    found.push({ page, width, theme, ...seen, opened: opened(frame.contentWindow) });
    frame.remove();
  }
  await fetch("/facts", { method: "POST", body: JSON.stringify(found) });
}
