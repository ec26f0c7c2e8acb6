// Jobs in the cloud: their live curves, and the form that shows only the fields that count.
"use strict";

(() => {
  const LEGEND_LINES_MAX = 4;
  const LOG_FROM = 20; // Largest to smallest: below that even steps show more
  const EPOCH_STEPS = [0.01, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
  const PERIOD_MS = 1000; // Between two looks at the same curves
  const resolved = (name) => {
    const probe = document.createElement("i");
    probe.hidden = true;
    document.body.append(probe);
    probe.style.color = `var(${name})`;
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  const short = (value) => (value == null ? "–" : Number(value.toPrecision(4)).toString());

  // Three charts share one source: {charts: {loss: [{label, tone, x, y}], …}, value_name}.
  const draw = (box, lines) => {
    const empty = box.parentElement.querySelector("[data-empty]");
    if (empty) empty.hidden = lines.length > 0;
    box.hidden = lines.length === 0;
    box.chart?.destroy();
    box.chart = null;
    if (!lines.length) return;
    const columns = uPlot.join(lines.map(({ x, y }) => [x, y]));
    const muted = resolved("--muted");
    const grid = resolved("--line");
    const tones = { strong: resolved("--accent"), faint: resolved("--faint-line"), second: resolved("--warn") };
    const axis = { stroke: muted, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const isCrowded = lines.length > LEGEND_LINES_MAX;
    const values = lines.flatMap(({ y }) => y);
    const isWide = Math.max(...values) > LOG_FROM * Math.min(...values);
    const isLog = box.dataset.scale === "log" && isWide && values.every((value) => value > 0);
    box.chart = new uPlot(
      {
        width: box.clientWidth,
        height: box.clientHeight - 28,
        cursor: { y: false, points: { size: 6 } },
        scales: { x: { time: false }, y: isLog ? { distr: 3 } : {} },
        axes: [
          { ...axis, space: 44, size: 28, incrs: columns[0].at(-1) > 2 ? EPOCH_STEPS.slice(4) : EPOCH_STEPS },
          { ...axis, size: 54, values: (_chart, ticks) => ticks.map((tick) => (tick == null ? "" : short(tick))) },
        ],
        legend: { show: true },
        series: [
          { label: "Epoch", value: (_chart, value) => short(value) },
          ...lines.map(({ label, tone }) => ({
            label,
            stroke: tones[tone],
            width: tone === "strong" ? 2.25 : 1.25,
            dash: tone === "second" ? [5, 4] : undefined,
            spanGaps: true,
            points: { show: columns[0].length < 3, size: 5 },
            value: (_chart, value) => short(value),
          })),
        ],
      },
      columns,
      box,
    );
    box.classList.toggle("crowded", isCrowded);
    // Faint lines need no row each below the chart: only those that are not faint are named.
    box.querySelectorAll(".u-legend .u-series").forEach((row, index) => {
      row.hidden = isCrowded && index > 0 && lines[index - 1].tone === "faint";
    });
    box.dataset.drawn = String(columns[0].length); // For those who wait for it
  };

  const startCurves = (part) => {
    const boxes = [...part.querySelectorAll("[data-curve]")];
    let last = null;
    let asked = 0;
    let isWaiting = false;
    const show = () => boxes.forEach((box) => draw(box, last.charts[box.dataset.curve] ?? []));
    const look = async () => {
      if (isWaiting) return; // One more look is on its way
      isWaiting = true;
      const rest = asked + PERIOD_MS - Date.now();
      if (rest > 0) await new Promise((done) => setTimeout(done, rest));
      isWaiting = false;
      asked = Date.now();
      const response = await fetch(part.dataset.src, { headers: { "HX-Request": "true" } });
      if (!response.ok) return;
      last = await response.json();
      part.querySelectorAll("[data-value-name]").forEach((place) => {
        place.textContent = last.value_name;
      });
      show();
    };
    look();
    part.addEventListener("live", look);
    let width = part.clientWidth;
    new ResizeObserver(() => {
      if (last && part.clientWidth !== width) {
        width = part.clientWidth;
        show();
      }
    }).observe(part);
    new MutationObserver(() => last && show()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  };

  // <div data-when="plan=folds search">: shown, and sent, only while field `plan` has such a value.
  const startForm = (form) => {
    const settle = () => {
      for (const part of form.querySelectorAll("[data-when]")) {
        const [name, values] = part.dataset.when.split("=");
        const field = form.elements.namedItem(name);
        const isWanted = !field || values.split(" ").includes(field.value);
        part.hidden = !isWanted;
        for (const input of part.querySelectorAll("input, select")) input.disabled = !isWanted;
      }
      const released = form.elements.namedItem("is_released"); // form.dataset is a field here
      const method = form.elements.namedItem("method.kind");
      if (released && method && form.getAttribute("data-unreleased").split(" ").includes(method.value)) {
        released.checked = false;
      }
    };
    form.addEventListener("change", settle);
    settle();
    const wrong = form.querySelector("[aria-invalid=true], p.error");
    wrong?.scrollIntoView({ block: "center" });
    wrong?.focus();
  };

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("[data-curves]").forEach(startCurves);
    document.querySelectorAll("form[data-train]").forEach(startForm);
    // What is chosen above the form decides which fields there are.
    for (const form of document.querySelectorAll("form[data-choose]")) {
      form.addEventListener("change", () => form.submit());
    }
  });
})();
