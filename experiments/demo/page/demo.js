// The page: what the pointer and the keys do, and what is shown of the server's answers.

import { decodePicture, paint, Scene } from "./scene.js";

const COLORS = ["#ff5a5f", "#35d07f", "#4c9dff", "#ffcc33", "#f067f0", "#2fd6d6", "#ff9640", "#a98bff"];
const CLICK = 4; // a pointer that moves less, in pixels of the screen, clicked
const OUTSIDE = 14; // so far outside of the picture, in pixels of the screen, an object leaves it
const byId = (id) => document.getElementById(id);
const stage = byId("stage");
const SVG = "http://www.w3.org/2000/svg";

let setup; // of the model
let scene;
let chosen = null; // the item that keys and Remove are for
let drag = null; // what the pointer does while it is down
let lastLook = null;

/* ---------------------------------------------------------------- asking the server */

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("No answer: has “air demo” ended? Start it again.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

let asking = false;
let changed = false;

/** Look at the scene as it is now; while an answer is awaited, only the latest change waits. */
async function look() {
  changed = true;
  if (asking) return;
  asking = true;
  document.documentElement.dataset.state = "looking"; // for those who drive the page
  try {
    while (changed) {
      changed = false;
      const start = performance.now();
      const views = byId("views").checked ? 1 : 0;
      const answer = await ask(`look?views=${views}`, { method: "POST", body: scene.render().pixels });
      answer.page_ms = performance.now() - start;
      lastLook = answer;
      showLook(answer);
    }
    showProblem("connection", "");
  } catch (error) {
    showProblem("connection", error.message);
  } finally {
    asking = false;
    document.documentElement.dataset.state = "still";
  }
}

/* ---------------------------------------------------------------- showing */

const problems = {};

function showProblem(kind, text) {
  problems[kind] = text;
  const all = Object.values(problems).filter(Boolean).join(" ");
  byId("error").textContent = all;
  byId("error").hidden = !all;
}

function showNotice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

function showScene() {
  paint(byId("scene"), scene.render());
  byId("hint").hidden = !scene.empty || Boolean(drag?.points);
  byId("remove").disabled = !chosen;
  showBoxes();
}

function changeScene() {
  showScene();
  look();
}

function rectangle(x, y, width, height, className) {
  const element = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries({ x, y, width, height, class: className })) {
    element.setAttribute(name, value);
  }
  return element;
}

function showBoxes() {
  const shapes = [];
  if (chosen) shapes.push(rectangle(chosen.x, chosen.y, chosen.width, chosen.height, "chosen"));
  lastLook?.steps.slice(0, lastLook.count).forEach((step, t) => {
    const [left, top, right, bottom] = step.box;
    if (!step.box.every(Number.isFinite) || right < left || bottom < top) return;
    const box = rectangle(left, top, right - left, bottom - top, "found");
    box.setAttribute("stroke", COLORS[t % COLORS.length]);
    shapes.push(box);
  });
  byId("boxes").replaceChildren(...shapes);
}

const number = (value, digits = 1) =>
  Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–";
const minus = (value) => (Number.isFinite(value) ? (value < 0.05 ? "0.0" : `−${value.toFixed(1)}`) : "–");
const percent = (p) =>
  !Number.isFinite(p) ? "–" : p < 0.001 ? "< 0.1 %" : p > 0.999 ? "> 99.9 %" : `${(100 * p).toFixed(1)} %`;

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function bar(p, className = "") {
  const fill = make("div", `fill ${className}`);
  fill.style.width = `${100 * (p || 0)}%`;
  return make("div", "track", fill);
}

function showLook(answer) {
  byId("count").textContent = answer.count;
  byId("count-noun").textContent = answer.count === 1 ? "object" : "objects";
  byId("probs").replaceChildren(
    ...answer.count_probs.flatMap((p, n) => {
      const best = n === answer.count ? "best" : "";
      return [make("span", best, String(n)), bar(p, best), make("span", `value ${best}`, percent(p))];
    }),
  );
  byId("steps").replaceChildren(...answer.steps.map((step, t) => stepCard(step, t, answer.count)));
  byId("elbo").textContent = number(answer.elbo);
  byId("log_likelihood").textContent = number(answer.log_likelihood);
  for (const part of ["kl_num_steps", "kl_z_where", "kl_z_what"]) byId(part).textContent = minus(answer[part]);
  const [down, right] = answer.shift;
  const view = byId("views").checked ? ` View kept: ${number(down, 0)} down, ${number(right, 0)} right.` : "";
  byId("times").textContent =
    `${answer.model_ms.toFixed(0)} ms to look, ${answer.pictures_ms.toFixed(0)} ms for the pictures, ` +
    `${answer.page_ms.toFixed(0)} ms in all.${view}`;
  showBoxes();
}

function figure(picture, caption, className = "") {
  const canvas = make("canvas");
  paint(canvas, decodePicture(picture));
  return make("figure", className, canvas, make("figcaption", "", caption));
}

function stepCard(step, t, count) {
  const taken = t < count;
  const state = taken ? "object found" : t === count ? "stops here" : "not reached";
  const card = make(
    "article",
    `step${taken ? "" : " not-taken"}`,
    make("h4", "", make("span", "", `Step ${t + 1}`), make("span", "", state)),
  );
  card.style.setProperty("--color", COLORS[t % COLORS.length]);
  const p = t > count ? NaN : step.continue_prob;
  const question = make("span", "label", t ? "one more object?" : "an object?");
  card.append(make("div", "more", question, bar(p), make("span", "", percent(p))));
  card.append(
    make(
      "div",
      "looks",
      figure(step.glimpse, "glimpse"),
      figure(step.decoded_glimpse, "decoded"),
      figure(step.canvas, `canvas with ${t + 1} ${t ? "objects" : "object"}`, "wide"),
    ),
  );
  return card;
}

/* ---------------------------------------------------------------- the tray */

let digits = [];

async function newDigits(seed = "") {
  const answer = await ask(`digits?seed=${seed}`);
  digits = answer.digits.map(({ label, picture }) => ({ label, ...decodePicture(picture) }));
  byId("tray").replaceChildren(
    ...digits.map((digit) => {
      const canvas = make("canvas");
      paint(canvas, digit);
      const button = make("button", "", canvas);
      button.type = "button";
      button.setAttribute("aria-label", `Digit ${digit.label}`);
      button.title = "Drag into the picture, or click";
      button.addEventListener("pointerdown", (event) => startDrag(event, newItem(digit), { isNew: true }));
      button.addEventListener("click", (event) => {
        if (event.detail === 0) addFreely(newItem(digit)); // by a key: the pointer has its own way
      });
      return button;
    }),
  );
}

function newItem(digit) {
  return { x: 0, y: 0, width: digit.width, height: digit.height, pixels: digit.pixels };
}

function addFreely(item) {
  scene.placeFreely(item);
  scene.add(item);
  chosen = item;
  changeScene();
}

function randomScene(count = Math.floor(Math.random() * 3)) {
  scene.clear();
  chosen = null;
  showNotice("");
  for (let i = 0; i < count; i++) {
    const item = newItem(digits[Math.floor(Math.random() * digits.length)]);
    scene.placeFreely(item);
    scene.add(item);
  }
  changeScene();
}

/* ---------------------------------------------------------------- the pointer */

function pointOf(event) {
  const edges = byId("scene").getBoundingClientRect();
  return {
    x: ((event.clientX - edges.left) / edges.width) * scene.width,
    y: ((event.clientY - edges.top) / edges.height) * scene.height,
  };
}

function isOutside(event) {
  const edges = stage.getBoundingClientRect();
  return (
    event.clientX < edges.left - OUTSIDE ||
    event.clientX > edges.right + OUTSIDE ||
    event.clientY < edges.top - OUTSIDE ||
    event.clientY > edges.bottom + OUTSIDE
  );
}

function startDrag(event, item, { isNew = false } = {}) {
  if (drag || event.button !== 0) return;
  event.preventDefault(); // no text is chosen on the way
  const point = pointOf(event);
  const grip = isNew
    ? { x: 0, y: 0 }
    : { x: item.x + item.width / 2 - point.x, y: item.y + item.height / 2 - point.y };
  drag = { pointer: event.pointerId, item, grip, isNew, moved: false, from: [event.clientX, event.clientY] };
  if (!isNew) chosen = item;
  document.documentElement.classList.add("dragging");
  showScene();
}

function moveGhost(event) {
  if (!drag.ghost) {
    drag.ghost = make("canvas", "ghost");
    paint(drag.ghost, { ...drag.item, channels: 1 });
    const scale = byId("scene").getBoundingClientRect().width / scene.width;
    drag.ghost.style.width = `${drag.item.width * scale}px`;
    drag.ghost.style.height = `${drag.item.height * scale}px`;
    document.body.append(drag.ghost);
  }
  const edges = drag.ghost.getBoundingClientRect();
  drag.ghost.style.left = `${event.clientX - edges.width / 2}px`;
  drag.ghost.style.top = `${event.clientY - edges.height / 2}px`;
}

function dropGhost() {
  drag.ghost?.remove();
  drag.ghost = null;
}

function moveDrag(event) {
  const [startX, startY] = drag.from;
  if (Math.hypot(event.clientX - startX, event.clientY - startY) >= CLICK) drag.moved = true;
  if (!drag.moved) return;
  const { item, grip } = drag;
  if (isOutside(event)) {
    moveGhost(event);
    if (!scene.items.includes(item)) return;
    scene.remove(item);
    chosen = null;
  } else {
    dropGhost();
    const before = scene.items.includes(item) ? [item.x, item.y] : [];
    const point = pointOf(event);
    scene.place(item, point.x + grip.x, point.y + grip.y);
    scene.add(item);
    chosen = item;
    if (item.x === before[0] && item.y === before[1]) return;
  }
  changeScene();
}

function moveStroke(event) {
  const point = pointOf(event);
  const last = drag.points.at(-1);
  if (Math.hypot(point.x - last.x, point.y - last.y) < 0.5) return;
  drag.points.push(point);
  scene.remove(drag.item);
  drag.item = scene.stroke(drag.points);
  scene.add(drag.item);
  changeScene();
}

function endDrag(event) {
  const ended = drag;
  if (!ended || event.pointerId !== ended.pointer) return;
  dropGhost();
  drag = null;
  document.documentElement.classList.remove("dragging");
  if (ended.points) {
    if (ended.points.length > 1) {
      scene.remove(ended.item);
      chosen = scene.draw(ended.points);
    }
  } else if (ended.isNew && !ended.moved && event.type === "pointerup") {
    addFreely(ended.item);
    return;
  }
  changeScene();
}

stage.addEventListener("pointerdown", (event) => {
  if (drag || event.button !== 0) return;
  stage.focus({ preventScroll: true });
  const point = pointOf(event);
  const item = scene.itemAt(point.x, point.y);
  if (item) {
    startDrag(event, item);
    return;
  }
  event.preventDefault();
  chosen = null;
  drag = { pointer: event.pointerId, points: [point], item: null };
  showScene();
});

window.addEventListener("pointermove", (event) => {
  if (drag && event.pointerId === drag.pointer) {
    // All points on the way, not one a frame: a fast pen draws a smooth line.
    const events = drag.points ? event.getCoalescedEvents?.() ?? [] : [];
    for (const part of events.length ? events : [event]) (drag.points ? moveStroke : moveDrag)(part);
  } else if (!drag && scene && event.target instanceof Element && stage.contains(event.target)) {
    const point = pointOf(event);
    stage.classList.toggle("over-item", Boolean(scene.itemAt(point.x, point.y)));
  }
});
window.addEventListener("pointerup", endDrag);
window.addEventListener("pointercancel", endDrag);

/* ---------------------------------------------------------------- keys and buttons */

const MOVES = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

stage.addEventListener("keydown", (event) => {
  if (event.key in MOVES && scene.items.length) {
    chosen ??= scene.items.at(-1);
    const [dx, dy] = MOVES[event.key];
    scene.place(chosen, chosen.x + chosen.width / 2 + dx, chosen.y + chosen.height / 2 + dy);
  } else if ((event.key === "Delete" || event.key === "Backspace") && chosen) {
    removeChosen();
  } else if ((event.key === "PageUp" || event.key === "PageDown") && scene.items.length) {
    const step = event.key === "PageUp" ? -1 : 1;
    const next = scene.items.indexOf(chosen) + step;
    chosen = scene.items.at(next % scene.items.length);
  } else return;
  event.preventDefault();
  changeScene();
});

function removeChosen() {
  scene.remove(chosen);
  chosen = null;
}

byId("remove").addEventListener("click", () => {
  removeChosen();
  changeScene();
});
byId("clear").addEventListener("click", () => {
  scene.clear();
  chosen = null;
  showNotice("");
  showProblem("image", "");
  changeScene();
});
byId("views").addEventListener("change", look);
byId("random").addEventListener("click", () => randomScene());
byId("shuffle").addEventListener("click", () => newDigits().catch((error) => showProblem("connection", error.message)));

/* ---------------------------------------------------------------- images */

async function openImage(file) {
  showNotice("");
  showProblem("image", "");
  const name = file.name || "The image";
  try {
    if (file.size > 32 * 2 ** 20) throw new Error("The file is larger than 32 MB.");
    const answer = await ask("image", { method: "POST", body: file });
    scene.clear();
    chosen = null;
    scene.backdrop = decodePicture(answer.picture);
    showNotice(`${name} is open. ${answer.notice} This model knows objects of about ${setup.typical_size} of ${Math.min(setup.width, setup.height)} pixels.`);
    changeScene();
  } catch (error) {
    showProblem("image", `${name}: ${error.message}`);
  }
}

byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // the same file can be opened again
  if (file) openImage(file);
});
window.addEventListener("dragover", (event) => {
  event.preventDefault();
  stage.classList.add("drop");
});
window.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) stage.classList.remove("drop");
});
window.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("drop");
  const [file] = event.dataTransfer?.files ?? [];
  if (file) openImage(file);
});
window.addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) openImage(file);
});

/* ---------------------------------------------------------------- the start */

try {
  setup = await ask("setup");
  byId("model").textContent = setup.model;
  byId("views-number").textContent = setup.views;
  byId("views").parentElement.hidden = !setup.views; // of a tiny canvas there is one alone
  stage.style.aspectRatio = `${setup.width} / ${setup.height}`;
  byId("boxes").setAttribute("viewBox", `0 0 ${setup.width} ${setup.height}`);
  scene = new Scene(setup.width, setup.height, setup.channels);
  const seed = new URLSearchParams(location.search).get("seed") ?? ""; // the same page again
  await newDigits(seed);
  randomScene(Math.min(2, setup.max_objects));
} catch (error) {
  showProblem("connection", error.message);
}
