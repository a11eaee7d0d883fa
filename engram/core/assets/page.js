// What the scripts of every page share; goes before them.
"use strict";
const $ = (id) => document.getElementById(id);

// Layers count from 0, as layer_ids do: layerName(1) is "layer 1 (second block)". layer_name() of lab/pages/page.h says the same.
const ordinal = (n) => ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"][n - 1]
  || n + (n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th");
const layerName = (id) => `layer ${id} (${ordinal(id + 1)} block)`;
