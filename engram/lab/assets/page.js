// What the scripts of every report page share; goes before them.
"use strict";
const $ = (id) => document.getElementById(id);
const el = (tag, text, attributes = {}) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
