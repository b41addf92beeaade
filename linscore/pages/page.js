// Draws the charts of a page from the data in it, and saves what it holds.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data"), specs = read("specs");
// Columns, as they are stored, to rows, as charts and CSV files take them.
const rowsOf = (columns) => {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, place) => Object.fromEntries(names.map((name) => [name, columns[name][place]])));
};
const rows = Object.fromEntries(Object.entries(data.columns).map(([name, columns]) => [name, rowsOf(columns)]));
// Legends lie beside each other where there is room, else below each other.
const legend = (width) => ({
  labelFontSize: 12, orient: "top", symbolStrokeWidth: 2.5, rowPadding: 4,
  columns: width < 480 ? 1 : 3,
  labelLimit: width < 700 ? width - 110 : 0,
  layout: { top: { direction: width < 700 ? "vertical" : "horizontal", anchor: "start", margin: width < 700 ? 4 : 16 } },
});
const config = (width) => ({
  background: "transparent",
  font: "system-ui, sans-serif",
  axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, domain: false, ticks: false, labelPadding: 6 },
  legend: legend(width),
  view: { stroke: null },
});
const drawn = Object.entries(specs).map(async ([id, spec]) => {
  const place = document.getElementById(id);
  const options = { renderer: "svg", actions: false, config: config(place.clientWidth), tooltip: { theme: "custom", disableDefaultStyle: false } };
  const made = await vegaEmbed(place, { ...spec, datasets: rows }, options);
  made.view.resize();
  return [id, made.view];
});
// For whoever looks at a page by a program: every chart's view, once all are drawn.
window.linscoreViews = Promise.all(drawn).then(Object.fromEntries);

const save = (name, kind, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
};
const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  const quoted = /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  return /^[=+@]|^-(?![\d.])/.test(text) ? `'${quoted}` : quoted; // a spreadsheet would run it
};
const table = (rows) => {
  const names = [...new Set(rows.flatMap(Object.keys))];
  return [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(cell).join(",")).join("\n");
};
const element = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text, ...more });
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
const exact = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : number.format(value));
const shown = (value) => (value === null || value === undefined ? "–" : typeof value === "number" ? number.format(value) : value);
const filled = (name) => {
  const box = element("div", "", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: name });
  const made = document.createElement("table"), columns = data.columns[name];
  const names = Object.keys(columns).filter((key) => key !== "depth" && columns[key].some((value) => value !== null));
  const head = made.createTHead().insertRow();
  for (const key of names) {
    const [word, meaning] = data.words[key] ?? [key.replaceAll("_", " "), ""];
    head.append(element("th", word, { scope: "col", title: meaning }));
  }
  const body = made.createTBody();
  for (const row of rows[name]) {
    const line = body.insertRow();
    for (const key of names) line.append(element("td", shown(row[key]), typeof row[key] === "string" ? { className: "name" } : {}));
  }
  box.append(made);
  return box;
};
document.querySelectorAll(".heat").forEach((place, nth) => {
  const { tokens, rows, values } = data.heats[nth];
  const choice = element("select"), text = element("pre", "", { className: "text", tabIndex: 0 });
  for (const row of rows) choice.append(element("option", row));
  const label = element("label", "block ");
  label.append(choice);
  const spans = tokens.map((token) => element("span", token));
  text.append(...spans);
  const paint = () => spans.forEach((span, at) => {
    const value = values[choice.selectedIndex][at];
    const part = value === null ? 0 : Math.min(1, Math.log2(1 + value) / 3.2);
    span.style.background = `color-mix(in srgb, var(--hot) ${Math.round(100 * part)}%, transparent)`;
    span.title = value === null ? "no figure" : `${number.format(value)} of what is added on average`;
  });
  choice.addEventListener("change", paint);
  place.append(label, text);
  paint();
});
document.querySelectorAll(".cut").forEach((place, nth) => {
  const { blocks, sums } = data.cuts[nth];
  const ticks = [...place.querySelectorAll("input")];
  const told = () => {
    const gone = blocks.filter((_, row) => ticks[row].checked).sort((one, other) => one - other);
    const names = gone.join(",") + (gone.length === 1 ? "," : ""); // or it would be a number of blocks
    const of = Object.entries(sums).map(([words, values]) => {
      const [some, all] = [values.filter((_, row) => ticks[row].checked), values].map((own) => exact(own.reduce((sum, one) => sum + one, 0)));
      return words.replace("{some}", some).replace("{all}", all);
    });
    place.querySelector(".sum").textContent = gone.length ? [`${gone.length} of ${blocks.length} blocks`, ...of].join(" · ") : "Tick the blocks that are to go.";
    for (const named of place.querySelectorAll("pre span")) named.textContent = names;
  };
  place.addEventListener("change", told);
  told();
});
for (const folded of document.querySelectorAll("details[data-table]"))
  folded.addEventListener("toggle", () => folded.querySelector("table") ?? folded.append(filled(folded.dataset.table)));
for (const button of document.querySelectorAll("button[data-csv]"))
  button.addEventListener("click", () => save(`${button.dataset.csv}.csv`, "text/csv", table(rows[button.dataset.csv])));
for (const button of document.querySelectorAll("button[data-json]"))
  button.addEventListener("click", () => save("reports.json", "application/json", JSON.stringify(data.sources, null, 1)));
