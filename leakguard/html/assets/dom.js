// Elements, words and moments. Foreign strings become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// A name from the application: isolated, so that right-to-left text moves nothing beside it.
const name = (text, kind) => h("bdi", { class: kind || null }, text);

const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const number = (value) => value.toLocaleString("en-US");

function duration(seconds) {
  if (seconds === null) return "";
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds), two = (value) => String(value).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor(whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d${two(Math.floor(whole / 3600) % 24)}h`;
}

const iso = (moment) => new Date(moment).toISOString();
const clock = (moment) => iso(moment).slice(11, 19);
const dayAndClock = (moment) => (moment === null ? "" : `${iso(moment).slice(0, 10)} ${clock(moment)}`);

function factList(facts) {
  return h("dl", { class: "facts" }, facts.map(([label, lines]) => [
    h("dt", {}, label),
    h("dd", {}, lines.map((line) => h("div", {}, name(line)))),
  ]));
}

// Draw the inside of a box anew, and leave unfolded what was, and the focus where it was.
function keeping(box, draw) {
  const places = () => [...box.querySelectorAll("button, summary, a, [tabindex]")];
  const open = [...box.querySelectorAll("details")].map((one) => one.open);
  const focus = places().indexOf(document.activeElement);
  draw();
  box.querySelectorAll("details").forEach((one, at) => (one.open = open[at] ?? one.open));
  if (focus >= 0) (places()[focus] || box).focus({ preventScroll: true });
}
