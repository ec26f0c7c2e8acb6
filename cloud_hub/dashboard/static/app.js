// Isthmus dashboard: the live stream, charts, and a few small components. No eval, no inline script.
"use strict";

(() => {
  const THEMES = ["auto", "light", "dark"];
  const applyTheme = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  applyTheme(localStorage.getItem("theme") || "auto");

  // What a page shows carries data-live="fleet device:dev-1"; it fetches itself anew when one of
  // these changed. The stream says what changed, never what it changed to.
  const refresh = (changed) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const topics = part.dataset.live.split(" ");
      if (changed === null || topics.some((topic) => changed.includes(topic))) {
        part.dispatchEvent(new CustomEvent("live"));
      }
    }
  };

  const listen = () => {
    const sign = document.getElementById("live");
    if (!sign) return;
    const say = (state, text) => {
      sign.dataset.state = state;
      sign.textContent = text;
    };
    const source = new EventSource("/api/v1/live");
    // The server's own first event, not the connection's: from here on nothing goes untold, and
    // what changed before, while the page came or the line was down, is fetched now.
    source.addEventListener("hello", () => {
      say("live", "live");
      refresh(null);
    });
    source.addEventListener("message", (event) => refresh(JSON.parse(event.data).changed));
    source.addEventListener("error", () => {
      say("lost", source.readyState === EventSource.CLOSED ? "not live" : "reconnecting");
    });
    addEventListener("pagehide", () => source.close());
  };

  // Charts: <div data-chart data-src="…" data-live="…">; the source answers columns for uPlot.
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const resolved = (name) => {
    const probe = document.createElement("i");
    probe.hidden = true;
    document.body.append(probe);
    probe.style.color = `var(${name})`;
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value || colour(name);
  };
  const two = (number) => String(number).padStart(2, "0");
  const clockTicks = (_chart, ticks, _axis, _space, step) =>
    ticks.map((tick) => {
      const at = new Date(tick * 1000);
      const minutes = `${two(at.getHours())}:${two(at.getMinutes())}`;
      return step < 60 ? `${minutes}:${two(at.getSeconds())}` : minutes;
    });
  const draw = async (box) => {
    const response = await fetch(box.dataset.src, { headers: { "HX-Request": "true" } });
    if (!response.ok) return;
    const { series, swaps } = await response.json();
    // Joined, a time at which only others have a value leaves no gap; null, a silence, does.
    const columns = series.length ? uPlot.join(series.map(({ at, latency_ms }) => [at, latency_ms])) : [[]];
    const muted = resolved("--muted");
    const line = resolved("--line");
    const strokes = [resolved("--accent"), resolved("--muted"), resolved("--busy"), resolved("--back")];
    const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const marks = (chart) => {
      const { ctx, bbox } = chart;
      ctx.save();
      ctx.strokeStyle = resolved("--warn");
      ctx.fillStyle = resolved("--warn");
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      ctx.textAlign = "left"; // uPlot leaves its own behind.
      ctx.setLineDash([4, 4]);
      for (const swap of swaps) {
        const x = chart.valToPos(swap.at, "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.fillText(swap.text, x + 5 * devicePixelRatio, bbox.top + 12 * devicePixelRatio);
      }
      ctx.restore();
    };
    box.chart?.destroy();
    box.chart = new uPlot(
      {
        width: box.clientWidth,
        height: box.clientHeight - 30,
        cursor: { y: false, points: { size: 6 } },
        scales: { y: { range: (_chart, _low, high) => [0, Math.max(1, high * 1.15)] } },
        axes: [{ ...axis, space: 70, size: 30, values: clockTicks }, { ...axis, size: 60, values: (_chart, ticks) => ticks.map((tick) => `${tick} ms`) }],
        series: [
          { value: "{HH}:{mm}:{ss}" },
          ...series.map(({ label }, i) => ({
            label,
            stroke: strokes[i % strokes.length],
            width: i === 0 ? 2 : 1.25,
            points: { show: columns[0].length < 3 },
            value: (_chart, value) => (value == null ? "–" : `${value.toFixed(1)} ms`),
          })),
        ],
        hooks: { draw: [marks] },
      },
      columns,
      box,
    );
    box.dataset.drawn = String(columns[0].length); // For those who wait for it.
  };
  const startCharts = () => {
    for (const box of document.querySelectorAll("[data-chart]")) {
      draw(box);
      box.addEventListener("live", () => draw(box));
      let width = box.clientWidth;
      new ResizeObserver(() => {
        if (box.chart && box.clientWidth !== width) {
          width = box.clientWidth;
          box.chart.setSize({ width, height: box.clientHeight - 30 });
        }
      }).observe(box);
    }
  };

  document.addEventListener("alpine:init", () => {
    // A button that asks once more before it acts; moving away calms it down.
    Alpine.data("sure", () => ({
      asked: false,
      ask() {
        this.asked = true;
      },
      calm() {
        this.asked = false;
      },
    }));
    Alpine.data("copy", () => ({
      label: "Copy",
      async copy() {
        const text = this.$root.querySelector("[data-copy]").textContent.trim();
        try {
          await navigator.clipboard.writeText(text);
          this.label = "Copied";
        } catch {
          getSelection().selectAllChildren(this.$root.querySelector("[data-copy]"));
          this.label = "Selected: press Ctrl+C";
        }
        setTimeout(() => (this.label = "Copy"), 2500);
      },
    }));
    Alpine.data("theme", () => ({
      now: localStorage.getItem("theme") || "auto",
      get title() {
        return `Colours: ${this.now}`;
      },
      turn() {
        this.now = THEMES[(THEMES.indexOf(this.now) + 1) % THEMES.length];
        localStorage.setItem("theme", this.now);
        applyTheme(this.now);
        document.querySelectorAll("[data-chart]").forEach(draw);
      },
    }));
  });

  document.addEventListener("DOMContentLoaded", () => {
    listen();
    startCharts();
  });
})();
