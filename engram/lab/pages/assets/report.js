// What the scripts of the report pages share, after core/assets/page.js and the chart library.
const el = (tag, text, attributes = {}) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};

// Colours live in the stylesheet. tint("--c0") is one of them now; tinted("--c0") is asked by a chart at every drawing,
// so that it follows the theme. alpha is for colours of six digits.
const tint = (name, alpha = 1) => {
  const colour = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return alpha === 1 ? colour : colour + Math.round(alpha * 255).toString(16).padStart(2, "0");
};
const tinted = (name, alpha) => () => tint(name, alpha);
const heatPiece = (text, strength, title) => el("span", text, { title, style: `--strength: ${strength.toFixed(3)}`, class: strength > 0.85 ? "strong" : "" });

// A panel for a table: it says when the table is wider than the page, and arrow keys scroll it then.
const tablePanel = (table, label, into) => {
  const panel = el("div", undefined, { class: "panel" }), scroll = el("div", undefined, { class: "scroll" });
  scroll.append(table);
  panel.append(el("div", "More columns to the side: scroll \u2192", { class: "scroll-hint small soft" }), scroll);
  into.append(panel);
  new ResizeObserver(() => {
    const wide = scroll.scrollWidth > scroll.clientWidth + 1;
    panel.classList.toggle("wide", wide);
    if (wide) Object.entries({ tabindex: 0, role: "region", "aria-label": label }).forEach(([key, value]) => scroll.setAttribute(key, value));
    else ["tabindex", "role", "aria-label"].forEach((key) => scroll.removeAttribute(key));
  }).observe(scroll);
  return panel;
};

// Both ends of an axis that shows low .. high, at whole ticks.
const axisRange = (low, high) => {
  const rough = Math.max(high - low, 1e-6) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => rough <= factor * power);
  return { min: Math.floor(low / step) * step, max: Math.ceil(high / step) * step };
};

const themeCharts = () => {
  Chart.defaults.color = tint("--soft");
  Chart.defaults.borderColor = tint("--line");
};
Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
Chart.defaults.animation = false;
Chart.defaults.maintainAspectRatio = false;
Object.assign(Chart.defaults.plugins.legend.labels, { usePointStyle: true, boxHeight: 7, padding: 14 });
themeCharts();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  themeCharts();
  for (const chart of Object.values(Chart.instances)) chart.update();
});
