// A window of sensors as a column of charts, one for each channel over its own range.
"use strict";

const windowChart = (() => {
  const CHANNELS_MAX = 12; // More than that nobody reads
  const HEIGHT_MIN = 76;
  const HEIGHT_ALL = 460;
  const STROKES = ["--accent", "--busy", "--back", "--warn"];

  const colour = (name) => {
    const probe = document.createElement("i");
    probe.hidden = true;
    document.body.append(probe);
    probe.style.color = `var(${name})`;
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };

  // float32 (T, C), little-endian, whatever this machine is.
  const columns = (bytes, rows, channels) => {
    const view = new DataView(bytes);
    return Array.from({ length: Math.min(channels, CHANNELS_MAX) }, (_, channel) =>
      Array.from({ length: rows }, (_, row) => {
        const value = view.getFloat32(4 * (row * channels + channel), true);
        return Number.isFinite(value) ? value : null;
      }),
    );
  };

  const draw = (box, bytes, rows, channels) => {
    for (const chart of box.charts ?? []) chart.destroy();
    box.replaceChildren();
    const found = columns(bytes, rows, channels);
    const at = Array.from({ length: rows }, (_, row) => row);
    const muted = colour("--muted");
    const line = colour("--line");
    const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const height = Math.max(HEIGHT_MIN, Math.floor(HEIGHT_ALL / found.length));
    box.charts = found.map((values, i) => {
      const isLast = i === found.length - 1;
      return new uPlot(
        {
          width: box.clientWidth,
          height: height + (isLast ? 22 : 0),
          legend: { show: false },
          cursor: { y: false, sync: { key: "window" } },
          scales: { x: { time: false } },
          axes: [{ ...axis, size: isLast ? 26 : 4, values: isLast ? undefined : () => [] }, { ...axis, size: 58, space: 28 }],
          series: [{}, { stroke: colour(STROKES[i % STROKES.length]), width: 1.5, points: { show: rows < 3 } }],
        },
        [at, values],
        box,
      );
    });
    if (channels > found.length) {
      const more = document.createElement("p");
      more.className = "small muted";
      more.textContent = `The first ${found.length} of ${channels} channels`;
      box.append(more);
    }
  };

  const fetchAndDraw = async (box, address, rows, channels) => {
    const answer = await fetch(address, { headers: { "HX-Request": "true" } });
    if (answer.ok) draw(box, await answer.arrayBuffer(), rows, channels);
    box.dataset.drawn = String(box.charts?.length ?? 0);
  };

  return { draw, fetchAndDraw };
})();
