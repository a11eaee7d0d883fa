// What the scripts of every page share; goes before them.
"use strict";
const $ = (id) => document.getElementById(id);

// Layers count from 0, as layer_ids do: layerName(1) is "layer 1 (second block)". layer_name() of lab/pages/page.h says the same.
const ordinal = (n) => ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"][n - 1]
  || n + (n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th");
const layerName = (id) => `layer ${id} (${ordinal(id + 1)} block)`;

// Text goes in as text nodes only: whatever somebody else wrote stays text.
const node = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// Lines as an SVG that fills its box: points are [0 .. 1 from the left, value], null for a gap; low and high are the
// values at the bottom and at the top. A filled line has the area below it.
const plot = (lines, low, high) => {
  const make = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const svg = make("svg", { viewBox: "0 0 300 90", preserveAspectRatio: "none" });
  svg.append(make("path", { class: "grid", d: "M0 88H300M0 46H300M0 4H300" }));
  for (const { points, colour, filled } of lines) {
    let path = "", area = "", from = null;
    for (const [at, value] of points) {
      if (value === null) { if (from !== null) area += `L${from} 88Z`; from = null; continue; }
      const x = (at * 300).toFixed(1), y = (88 - (value - low) / (high - low) * 84).toFixed(1);
      path += `${from === null ? "M" : "L"}${x} ${y}`;
      area += from === null ? `M${x} 88L${x} ${y}` : `L${x} ${y}`;
      from = x;
    }
    if (from !== null) area += `L${from} 88Z`;
    if (filled) svg.append(make("path", { class: "area", d: area }));
    svg.append(make("path", { class: "line", d: path, ...(colour ? { style: `stroke: ${colour}` } : {}) }));
  }
  return svg;
};
