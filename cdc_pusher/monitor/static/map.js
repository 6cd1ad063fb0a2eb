// All stations as dots, by where they are (Mercator), those that are behind above the others: read page by page, then kept as they are now.
"use strict";

const ORDER = ["delivered", "pending", "failing", "held", "rejected"];
const WORDS = { delivered: "delivered", pending: "on their way", failing: "failed, tried again", held: "held", rejected: "rejected" };
const VARIABLES = { delivered: "--good", pending: "--busy", failing: "--warn", held: "--bad", rejected: "--bad" };
const BEHIND_MS = 3000, ALL_MS = 300000, LISTED = 200;

const canvas = document.getElementById("map");
const legend = document.getElementById("legend");
const pointed = document.getElementById("pointed");
const emp = document.getElementById("emp").value;
const stations = new Map(); // id → [x, y] in the unit square
let states = new Map(); // id → state, of those that are behind
let view = null; // centre and scale: pixels of the unit square
let isComplete = false, mayBeMore = false, placeless = 0;

async function read(path, parameters) {
  const answer = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function project(longitude, latitude) {
  const bounded = Math.max(-85, Math.min(85, latitude)) * Math.PI / 180;
  return [longitude / 360 + 0.5, 0.5 - Math.log(Math.tan(Math.PI / 4 + bounded / 2)) / (2 * Math.PI)];
}

async function readAll() {
  const seen = new Set();
  let without = 0;
  for (let after = ""; after !== null;) {
    const page = await read("/api/map", after ? { emp, after } : { emp });
    for (const [id, longitude, latitude] of page.stations) {
      stations.set(id, project(longitude, latitude));
      seen.add(id);
    }
    without += page.placeless;
    after = page.after;
    if (!view || !isComplete) showAll();
    draw();
  }
  for (const id of stations.keys()) if (!seen.has(id)) stations.delete(id);
  isComplete = true;
  placeless = without;
  draw();
}

async function readBehind() {
  const found = await read("/api/map/behind", { emp });
  states = new Map(found.stations);
  mayBeMore = found.are_more;
  list();
  draw();
}

function list() {
  const worst = [...states].sort((a, b) => ORDER.indexOf(b[1]) - ORDER.indexOf(a[1]) || a[0].localeCompare(b[0])).slice(0, LISTED);
  document.getElementById("behind").replaceChildren(...worst.map(([id, state]) => {
    const item = document.createElement("li"), link = document.createElement("a"), word = document.createElement("span");
    link.href = `/stations/${encodeURIComponent(id)}`;
    link.textContent = id;
    word.className = `state ${state}`;
    word.textContent = WORDS[state];
    item.append(link, " ", word);
    return item;
  }));
}

function showAll() {
  if (!stations.size) return;
  let [left, top, right, bottom] = [1, 1, 0, 0];
  for (const [x, y] of stations.values()) {
    left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
  }
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = Math.min(width / Math.max(right - left, 1e-5), height / Math.max(bottom - top, 1e-5)) * 0.9;
  view = { x: (left + right) / 2, y: (top + bottom) / 2, scale: Math.min(scale, 1e7) };
}

const place = ([x, y]) => [(x - view.x) * view.scale + canvas.clientWidth / 2, (y - view.y) * view.scale + canvas.clientHeight / 2];

let isDrawing = false;
function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => { isDrawing = false; paint(); });
}

function paint() {
  const ratio = devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const counts = Object.fromEntries(ORDER.map((state) => [state, 0]));
  if (view) grid(pen, style, width, height);
  const layers = Object.fromEntries(ORDER.map((state) => [state, []]));
  for (const [id, at] of stations) layers[states.get(id) ?? "delivered"].push(at);
  for (const state of ORDER) {
    counts[state] = layers[state].length;
    pen.fillStyle = style.getPropertyValue(VARIABLES[state]);
    const size = state === "delivered" ? 2.5 : 5;
    for (const at of view ? layers[state] : []) {
      const [x, y] = place(at);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      if (state === "rejected") { pen.beginPath(); pen.moveTo(x, y - 5); pen.lineTo(x + 5, y + 4); pen.lineTo(x - 5, y + 4); pen.fill(); }
      else pen.fillRect(x - size / 2, y - size / 2, size, size);
    }
  }
  const told = ORDER.filter((state) => counts[state]).map((state) => `${counts[state].toLocaleString("en")} ${WORDS[state]}`);
  legend.textContent = (told.join(", ") || "No station has a place.") + (isComplete ? "" : " … more are read") + (placeless ? `; ${placeless.toLocaleString("en")} without a place, which were never ready to be sent` : "") + (mayBeMore ? "; more are behind than are marked" : "");
  canvas.dataset.stations = stations.size;
  canvas.dataset.behind = states.size;
  canvas.dataset.complete = isComplete;
}

function grid(pen, style, width, height) {
  const degrees = [30, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01].find((one) => one / 360 * view.scale < 220) ?? 0.01;
  pen.strokeStyle = style.getPropertyValue("--line");
  pen.fillStyle = style.getPropertyValue("--quiet");
  pen.font = "11px system-ui, sans-serif";
  const name = (value) => `${Math.abs(+value.toFixed(2))}°`;
  const from = (view.x - width / 2 / view.scale - 0.5) * 360, to = (view.x + width / 2 / view.scale - 0.5) * 360;
  for (let at = Math.ceil(Math.max(from, -180) / degrees) * degrees; at <= Math.min(to, 180); at += degrees) {
    const [x] = place(project(at, 0));
    pen.beginPath(); pen.moveTo(x, 0); pen.lineTo(x, height); pen.stroke();
    pen.fillText(name(at) + (at > 0 ? "E" : at < 0 ? "W" : ""), x + 3, height - 4);
  }
  for (let at = Math.ceil(-84 / degrees) * degrees; at <= 84; at += degrees) {
    const [, y] = place(project(0, at));
    if (y < 0 || y > height) continue;
    pen.beginPath(); pen.moveTo(0, y); pen.lineTo(width, y); pen.stroke();
    pen.fillText(name(at) + (at > 0 ? "N" : at < 0 ? "S" : ""), 3, y - 3);
  }
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  if (!view) return;
  if (!factor) showAll();
  else {
    const dx = (x - canvas.clientWidth / 2) / view.scale, dy = (y - canvas.clientHeight / 2) / view.scale;
    const scale = Math.max(200, Math.min(3e8, view.scale * factor)), moved = 1 - view.scale / scale;
    view = { x: view.x + dx * moved, y: view.y + dy * moved, scale };
  }
  draw();
}

function nearest(x, y) {
  let found = null, least = 100;
  for (const [id, at] of view ? stations : []) {
    const [px, py] = place(at), distance = (px - x) ** 2 + (py - y) ** 2 - (states.has(id) ? 40 : 0);
    if (distance < least) [found, least] = [id, distance];
  }
  return found;
}

function point(event) {
  const id = nearest(event.offsetX, event.offsetY);
  const link = document.createElement("a");
  if (id !== null) {
    link.href = `/stations/${encodeURIComponent(id)}`;
    link.textContent = `Station ${id}`;
    pointed.replaceChildren(link, ` ${WORDS[states.get(id) ?? "delivered"]}`);
  } else pointed.replaceChildren();
  return id;
}

const touches = new Map();
let moved = 0;
canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); touches.set(event.pointerId, event); moved = 0; });
canvas.addEventListener("pointermove", (event) => {
  const before = touches.get(event.pointerId);
  if (!before) { point(event); return; }
  if (!view) return;
  if (touches.size === 2) {
    const [other] = [...touches.values()].filter((one) => one.pointerId !== event.pointerId);
    const apart = (one) => Math.hypot(one.offsetX - other.offsetX, one.offsetY - other.offsetY);
    zoom(apart(event) / Math.max(apart(before), 1), (event.offsetX + other.offsetX) / 2, (event.offsetY + other.offsetY) / 2);
  } else {
    view.x -= (event.offsetX - before.offsetX) / view.scale;
    view.y -= (event.offsetY - before.offsetY) / view.scale;
    draw();
  }
  moved += Math.abs(event.offsetX - before.offsetX) + Math.abs(event.offsetY - before.offsetY);
  touches.set(event.pointerId, event);
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    touches.delete(event.pointerId);
    const id = end === "pointerup" && moved < 4 ? point(event) : null;
    if (id !== null && event.pointerType === "mouse") location.href = `/stations/${encodeURIComponent(id)}`;
  });
}
canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY); }, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const step = 60 / (view?.scale ?? 1);
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (moves && view) { view.x += moves[0]; view.y += moves[1]; draw(); event.preventDefault(); }
  else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.5 : 1 / 1.5);
});
for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

async function keep(look, pause) {
  const began = performance.now();
  if (document.visibilityState === "visible") {
    try { await look(); } catch (error) { legend.textContent = `Not now: ${error.message}`; }
  }
  setTimeout(() => keep(look, pause), Math.max(pause, 5 * (performance.now() - began)));
}
if (emp) { keep(readBehind, BEHIND_MS); keep(readAll, ALL_MS); }
else legend.textContent = "No EMP is configured.";
