// Pages about datasets: uploads with their progress, filters that send themselves. A file goes from
// the disk into the request as it is; it is never in memory whole.
"use strict";

(() => {
  const SAFE_NAME = /[^A-Za-z0-9_.-]+/g; // What a file may be called on the hub
  const SCALE_MAX = 16; // Tiny pictures are not blown up further.
  const PROBLEMS_SHOWN = 5;
  const NAME_CHARS_MAX = 120;

  const fileName = (file) =>
    file.name.replace(SAFE_NAME, "_").replace(/^[^A-Za-z0-9]+/, "").slice(-NAME_CHARS_MAX) || "source";

  const send = (form, method, address, file, reading) =>
    new Promise((resolve, reject) => {
      const bar = form.querySelector("progress");
      const status = form.querySelector("[data-status]");
      const request = new XMLHttpRequest();
      request.open(method, address);
      request.setRequestHeader("HX-Request", "true"); // Refusals as JSON
      request.responseType = "json";
      request.upload.addEventListener("progress", ({ loaded, total }) => {
        const share = total ? (100 * loaded) / total : 100;
        bar.value = share;
        status.textContent = `${Math.floor(share)} % sent`;
      });
      request.upload.addEventListener("load", () => {
        bar.removeAttribute("value"); // Nobody knows how long it takes.
        status.textContent = reading;
      });
      request.addEventListener("load", () => {
        if (request.status < 300 && request.response) resolve(request.response);
        else reject(request.response ?? { message: `The hub answered ${request.status}.`, remedy: "" });
      });
      request.addEventListener("error", () =>
        reject({ message: "The connection broke.", remedy: "Check that the hub runs, and send it again." }),
      );
      bar.hidden = false;
      bar.value = 0;
      status.textContent = "sending";
      request.send(file);
    });

  const upload = async (form, method, address, reading) => {
    const box = form.querySelector("[data-error]");
    const button = form.querySelector("button");
    const leaving = (event) => event.preventDefault();
    box.hidden = true;
    button.disabled = true;
    addEventListener("beforeunload", leaving);
    try {
      return await send(form, method, address, form.elements.file.files[0], reading);
    } catch (refusal) {
      box.textContent = [refusal.message, refusal.remedy].filter(Boolean).join(" ");
      box.hidden = false;
      return null;
    } finally {
      removeEventListener("beforeunload", leaving);
      button.disabled = false;
      form.querySelector("progress").hidden = true;
      form.querySelector("[data-status]").textContent = "";
    }
  };

  const importRule = ({ elements: field }) => {
    const classes = field.classes.value.split(",").map((name) => name.trim()).filter(Boolean);
    const rule = {
      train: field.train.value / 100,
      validation: field.validation.value / 100,
      test: field.test.value / 100,
      keeps_duplicates: field.keeps_duplicates.checked,
      options: {
        classes,
        window: Number(field.window.value),
        label_column: field.label_column.value,
        device_column: field.device_column.value,
      },
    };
    if (field.layout.value) rule.layout = field.layout.value;
    if (field.split_by.value) rule.split_by = field.split_by.value;
    return rule;
  };

  const onImport = async (event) => {
    event.preventDefault();
    const form = event.target;
    if (!form.reportValidity()) return;
    const added = form.dataset.import;
    const name = added || form.elements.name.value;
    const query = new URLSearchParams({
      file_name: fileName(form.elements.file.files[0]),
      rule: JSON.stringify(importRule(form)),
      is_added: String(Boolean(added)),
    });
    const made = await upload(form, "PUT", `/api/v1/datasets/${encodeURIComponent(name)}/import?${query}`, "reading and checking every item; this may take minutes");
    if (!made) return;
    const told = new URLSearchParams({
      read_as: made.layout,
      added: made.added_count,
      left_out: made.duplicates_count,
      broken: made.broken_count,
    });
    location.assign(`/datasets/${made.version.dataset}?${told}`);
  };

  // What could not be used is told by name before the page changes.
  const tellProblems = (form, made) => {
    const box = form.querySelector("[data-error]");
    const told = made.problems.slice(0, PROBLEMS_SHOWN).map(({ name, reason }) => `${name}: ${reason}`);
    box.textContent = `${made.changed_count} items have other labels now, in version ${made.version.version}. ${made.problems_count} could not be used. ${told.join("; ")}`;
    box.hidden = false;
  };

  const onLabels = async (event) => {
    event.preventDefault();
    const form = event.target;
    if (!form.reportValidity()) return;
    const query = new URLSearchParams({
      tool: form.elements.tool.value,
      file_name: fileName(form.elements.file.files[0]),
    });
    const name = encodeURIComponent(form.dataset.labels);
    const made = await upload(form, "PUT", `/api/v1/datasets/${name}/labels?${query}`, "reading the labels");
    if (!made) return;
    if (made.problems_count) return tellProblems(form, made);
    location.assign(`/datasets/${form.dataset.labels}?relabelled=${made.changed_count}`);
  };

  // Small pictures are shown larger, and every picture keeps its shape, so that boxes lie right.
  const fit = (picture) => {
    const { naturalWidth, naturalHeight } = picture;
    const height = parseFloat(getComputedStyle(picture).maxHeight);
    const scale = Math.min(picture.closest(".room").clientWidth / naturalWidth, height / naturalHeight, SCALE_MAX);
    if (!Number.isFinite(scale) || scale <= 0) return;
    picture.width = Math.max(1, Math.floor(naturalWidth * scale));
    picture.height = Math.max(1, Math.floor(naturalHeight * scale));
    picture.classList.toggle("coarse", scale > 3);
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const picture of document.querySelectorAll(".room .fit img")) {
      if (picture.complete) fit(picture);
      picture.addEventListener("load", () => fit(picture));
    }
    for (const form of document.querySelectorAll("[data-import]")) form.addEventListener("submit", onImport);
    for (const form of document.querySelectorAll("[data-labels]")) form.addEventListener("submit", onLabels);
    for (const form of document.querySelectorAll("[data-sends-itself]")) {
      form.addEventListener("change", () => form.requestSubmit());
    }
    for (const box of document.querySelectorAll("[data-window]")) {
      windowChart.fetchAndDraw(box, box.dataset.window, Number(box.dataset.rows), Number(box.dataset.channels));
    }
  });
})();
