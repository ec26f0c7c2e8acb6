// The labelling page: one item large, a key for each class, back and forth, undo, boxes, save. What
// a person says goes to the hub at once (label_keeper.js); boxes are drawn by label_boxes.js.
"use strict";

(() => {
  const QUEUE = 500; // Items asked for at once
  const AHEAD = 4; // Fetched before they are wanted
  const CLASSES_SHOWN = 40;
  const KEYS = 9;
  const UNDO_MAX = 1000;
  const NEW_CLASS = "object"; // Of a box drawn before any class has a name
  const SCALE_MAX = 24; // Tiny pictures are not blown up further.

  const start = (root) => {
    const { path, kind } = root.dataset;
    const [rows, channels] = [Number(root.dataset.rows), Number(root.dataset.channels)];
    const find = (selector) => root.querySelector(selector);
    const stage = find("[data-stage]");
    const dialog = find("[data-conflicts]");
    const field = find("[data-add] input");
    const doButton = (name) => find(`[data-do="${name}"]`);
    const state = {
      task: root.dataset.task, version: 0, classes: [], slots: [], at: 0, current: "",
      undo: [], labelled: 0, items: 0, drafted: 0, editor: null, shown: 0,
      order: "unlabelled", class: "", seed: Math.floor(Date.now() / 1000) % 61,
    };

    const make = (name, attributes = {}, ...children) => {
      const made = document.createElement(name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      made.append(...children);
      return made;
    };
    const tell = (box, text) => {
      box.hidden = !text;
      box.textContent = text;
    };
    const complain = (error) => tell(find("[data-error]"), error ? [error.message, error.remedy].filter(Boolean).join(" ") : "");

    const keeper = new LabelKeeper(path, {
      told: (answer) => count(answer),
      state: (now, error) => {
        root.dataset.kept = now;
        const words = { kept: "kept on the hub", waiting: "keeping …", lost: "not kept yet, trying again" };
        find("[data-kept]").textContent = words[now];
        if (now === "lost") complain(error);
        else if (now === "kept") complain(null);
      },
      refused: (digest, error) => {
        complain({ message: `Not kept: ${error.message}`, remedy: error.remedy });
        root.dataset.kept = "refused";
      },
    });

    // The queue
    const item = () => state.slots[state.at];
    const isGiven = (each) => each.label !== null || each.boxes !== null;
    const load = async ({ first = 0, wanted = -1 }) => {
      const query = new URLSearchParams({ order: state.order, seed: state.seed, first, item: wanted, limit: QUEUE });
      if (state.class) query.set("class_name", state.class);
      const answer = await LabelKeeper.ask(`${path}/label/queue?${query}`);
      if (answer.version !== state.version || answer.count !== state.slots.length) state.slots = new Array(answer.count);
      state.version = answer.version;
      state.classes = [...new Set([...answer.classes, ...state.classes])];
      answer.items.forEach((each, i) => {
        const waiting = keeper.pending.get(each.digest)?.label;
        state.slots[answer.first + i] = waiting ? { ...each, ...said(each, waiting) } : each;
      });
      count(answer);
      return answer;
    };
    const go = async (position) => {
      if (!state.slots.length) return show();
      const wanted = Math.min(Math.max(position, 0), state.slots.length - 1);
      try {
        if (!state.slots[wanted]) await load({ first: wanted - (wanted % QUEUE) });
      } catch (error) {
        return complain(error);
      }
      state.at = wanted;
      show();
      if (!state.slots[wanted + AHEAD] && wanted + AHEAD < state.slots.length) {
        load({ first: wanted + AHEAD - ((wanted + AHEAD) % QUEUE) }).catch(() => {});
      }
    };
    const begin = async (wanted = -1) => {
      try {
        state.slots = [];
        const answer = await load({ wanted });
        let position = state.slots.findIndex((each) => each?.index === wanted);
        if (position < 0 && state.order === "unlabelled") position = state.slots.findIndex((each) => each && !isGiven(each));
        if (position < 0) position = answer.first;
        await go(position);
      } catch (error) {
        complain(error);
      }
    };

    // What a person says
    const said = (each, change) => {
      if (change.boxes) return { label: each.label, boxes: change.boxes };
      return change.label ? { label: change.label, boxes: each.boxes } : { label: null, boxes: null };
    };
    const give = (change) => {
      const now = item();
      if (!now) return;
      state.undo.push({ at: state.at, index: now.index, digest: now.digest, label: now.label, boxes: now.boxes });
      if (state.undo.length > UNDO_MAX) state.undo.shift();
      apply(now, change);
    };
    const apply = (now, change) => {
      const after = said(now, change);
      state.labelled += isGiven(after) - isGiven(now);
      for (const each of state.slots) if (each?.digest === now.digest) Object.assign(each, after);
      keeper.put(state.version, { digest: now.digest, ...change });
      tell(find("[data-done]"), "");
      doButton("save").disabled = false;
      showProgress();
    };
    const giveClass = (name) => {
      if (!state.classes.includes(name)) state.classes.push(name);
      if (state.task === "boxes") {
        state.current = name;
        state.editor?.setClass(name);
        return showClasses();
      }
      give({ label: name });
      goOn();
    };
    const goOn = () => {
      if (state.at + 1 < state.slots.length) return go(state.at + 1);
      show();
      tell(find("[data-done]"), "That was the last one here. Save them as a version, or look through them again.");
    };
    const clear = () => {
      give({});
      show();
    };
    const undo = async () => {
      const last = state.undo.pop();
      if (!last) return;
      await go(last.at);
      const now = item();
      if (now?.digest !== last.digest) return; // Another version has come meanwhile.
      apply(now, last.boxes ? { boxes: last.boxes } : last.label ? { label: last.label } : {});
      Object.assign(now, { label: last.label, boxes: last.boxes });
      show();
    };

    // What is shown
    const count = (answer) => {
      state.items = answer.items_count;
      state.labelled = answer.labelled_count;
      state.drafted = answer.draft_count;
      doButton("save").disabled = !answer.draft_count && !keeper.pending.size;
      doButton("save").textContent = `Save as v${answer.newest + 1}`;
      doButton("discard").hidden = !answer.draft_count;
      showProgress();
    };
    const showProgress = () => {
      const bar = find(".label-progress progress");
      bar.max = Math.max(1, state.items);
      bar.value = state.labelled;
      const place = state.slots.length ? `, item ${(state.at + 1).toLocaleString("en")} of ${state.slots.length.toLocaleString("en")} here` : "";
      find("[data-progress]").textContent = `${state.labelled.toLocaleString("en")} of ${state.items.toLocaleString("en")} labelled${place}`;
      doButton("undo").disabled = !state.undo.length;
    };
    const address = (each) => `/api/v1${path}/versions/${state.version}/items/${each.index}`;
    const fetched = new Map(); // Windows and texts ahead, by address
    const fetchAhead = (each) => {
      const from = address(each);
      if (kind === "image") return void (new Image().src = from);
      if (!fetched.has(from)) {
        fetched.set(from, fetch(from, { headers: { "HX-Request": "true" } }).then((answer) => (answer.ok ? answer.arrayBuffer() : Promise.reject(new Error()))));
        fetched.get(from).catch(() => fetched.delete(from));
        if (fetched.size > 4 * AHEAD) fetched.delete(fetched.keys().next().value);
      }
      return fetched.get(from);
    };
    const show = () => {
      const now = item();
      const isFocusedInside = stage.contains(document.activeElement);
      state.editor = null;
      state.shown += 1;
      root.dataset.item = now?.index ?? "";
      find("[data-name]").textContent = now ? [now.name, now.device, now.part].filter(Boolean).join(" · ") : "";
      doButton("back").disabled = state.at <= 0;
      doButton("next").disabled = state.at >= state.slots.length - 1;
      if (now) ({ image: showPicture, window: showWindow, text: showText })[kind](now);
      else stage.replaceChildren(make("p", { class: "muted" }, "No item is like that."));
      if (isFocusedInside) stage.focus({ preventScroll: true });
      showSaid();
      showClasses();
      showProgress();
      for (const each of state.slots.slice(state.at + 1, state.at + 1 + AHEAD)) if (each) fetchAhead(each);
    };
    const showSaid = () => {
      const now = item();
      const sign = find("[data-said]");
      sign.hidden = !now;
      if (!now) return;
      const words = now.label ?? (now.boxes ? (now.boxes.length ? `${now.boxes.length} ${now.boxes.length === 1 ? "box" : "boxes"}` : "nothing here") : "no label");
      sign.className = `chip ${isGiven(now) ? "good" : "warn"}`;
      sign.textContent = words;
    };
    const showPicture = (now) => {
      const picture = make("img", { alt: now.name, src: address(now), draggable: "false" });
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("class", state.task === "boxes" ? "boxes editor" : "boxes passive");
      const frame = make("span", { class: "fit" }, picture, svg);
      stage.replaceChildren(frame);
      const editor = new BoxEditor(svg, {
        changed: (boxes) => {
          state.classes = [...new Set([...state.classes, ...boxes.map((box) => box.class_name)])];
          give({ boxes });
          showSaid();
          showClasses();
        },
        classOf: () => state.current || state.classes[0] || NEW_CLASS,
        number: (name) => Math.max(0, state.classes.indexOf(name)),
      });
      state.editor = editor;
      const fit = () => {
        const room = stage.getBoundingClientRect();
        const scale = Math.min((room.width - 24) / picture.naturalWidth, (room.height - 24) / picture.naturalHeight, SCALE_MAX);
        if (!Number.isFinite(scale) || scale <= 0) return;
        picture.width = Math.max(1, Math.round(picture.naturalWidth * scale));
        picture.height = Math.max(1, Math.round(picture.naturalHeight * scale));
        picture.classList.toggle("coarse", scale > 3);
        editor.show(item()?.boxes ?? []);
        root.dataset.shown = now.index;
      };
      stage.fit = fit;
      picture.addEventListener("load", fit);
      picture.addEventListener("error", () => complain({ message: `${now.name} cannot be shown.`, remedy: "Its bytes are damaged, or the hub does not answer." }));
    };
    const showWindow = async (now) => {
      const turn = state.shown;
      const box = make("div", { class: "channels" });
      stage.replaceChildren(box);
      try {
        const bytes = await fetchAhead(now);
        if (turn !== state.shown) return; // The person is elsewhere already.
        stage.fit = () => windowChart.draw(box, bytes, rows, channels);
        stage.fit();
        root.dataset.shown = now.index;
      } catch {
        complain({ message: `${now.name} cannot be shown.`, remedy: "" });
      }
    };
    const showText = async (now) => {
      const turn = state.shown;
      const text = make("p", { class: "message" });
      stage.replaceChildren(text);
      stage.fit = null;
      try {
        const bytes = await fetchAhead(now);
        if (turn !== state.shown) return;
        text.textContent = new TextDecoder().decode(bytes);
        root.dataset.shown = now.index;
      } catch {
        complain({ message: `${now.name} cannot be shown.`, remedy: "" });
      }
    };
    const visibleClasses = () => {
      const part = field.value.trim().toLowerCase();
      return state.classes.filter((name) => name.toLowerCase().includes(part)).slice(0, CLASSES_SHOWN);
    };
    const showClasses = () => {
      const now = item();
      const chosen = state.task === "boxes" ? state.current || state.classes[0] : now?.label;
      const buttons = visibleClasses().map((name, i) => {
        const key = i < KEYS ? [make("kbd", {}, String(i + 1))] : [];
        const button = make("button", { type: "button", class: `k${state.classes.indexOf(name) % 8}`, "aria-pressed": String(name === chosen) }, make("span", { class: "dot" }), make("span", { class: "clip" }, name), ...key);
        button.dataset.give = name;
        button.addEventListener("click", () => giveClass(name));
        return button;
      });
      if (!buttons.length) buttons.push(make("p", { class: "small muted" }, state.classes.length ? "No class is called that; Enter adds it." : "No class yet: write the first one's name."));
      const focused = document.activeElement?.dataset?.give;
      find("[data-classes]").replaceChildren(...buttons);
      if (focused !== undefined) buttons.find((button) => button.dataset?.give === focused)?.focus();
      for (const each of root.querySelectorAll("[data-only]")) each.hidden = each.dataset.only !== state.task;
      for (const each of root.querySelectorAll(".switch button")) each.setAttribute("aria-pressed", String(each.dataset.task === state.task));
    };

    // Saving
    const save = async (decided = {}) => {
      complain(null);
      doButton("save").disabled = true;
      try {
        await keeper.flush();
        const answer = await LabelKeeper.ask(`${path}/label/save`, decided);
        if (answer.conflicts.length) return ask(answer, decided);
        const left = answer.gone_count ? ` ${answer.gone_count} items are not in the dataset any more.` : "";
        tell(find("[data-done]"), answer.changed_count ? `Saved as version ${answer.version}: ${answer.changed_count} items.${left}` : `Nothing differs from version ${answer.version}.${left}`);
        state.undo = [];
        await begin(item()?.index ?? -1);
      } catch (error) {
        complain(error);
        doButton("save").disabled = false;
      }
    };
    const inWords = ({ label, boxes }) => label ?? (boxes ? boxes.map((box) => box.class_name).join(", ") || "nothing here" : "no label");
    const ask = (answer, decided) => {
      const choices = answer.conflicts.map((conflict, i) => {
        const choice = (whose, words) => {
          const input = make("input", { type: "radio", name: `whose-${i}`, value: whose });
          input.checked = whose === "theirs";
          return make("td", {}, make("label", { class: "check" }, input, words));
        };
        const seen = state.slots.find((each) => each?.digest === conflict.digest);
        const what = make("td", { class: "breaks" }, conflict.name);
        if (kind === "image" && seen) what.prepend(make("img", { src: address(seen), alt: "" }));
        const row = make("tr", {}, what, choice("theirs", inWords(conflict.theirs)), choice("mine", inWords(conflict.mine)));
        row.dataset.digest = conflict.digest;
        return row;
      });
      dialog.querySelector("tbody").replaceChildren(...choices);
      dialog.returnValue = "";
      dialog.onclose = () => {
        doButton("save").disabled = false;
        if (dialog.returnValue !== "save") return;
        const next = { mine: [...(decided.mine ?? [])], theirs: [...(decided.theirs ?? [])] };
        for (const row of choices) next[row.querySelector("input:checked").value].push(row.dataset.digest);
        save(next);
      };
      dialog.showModal();
    };
    const discard = async () => {
      const button = doButton("discard");
      if (!button.dataset.asked) {
        button.dataset.asked = "yes";
        button.textContent = `Really discard ${state.drafted}?`;
        return;
      }
      calm();
      try {
        await keeper.flush();
        await LabelKeeper.ask(`${path}/label/discard`, {});
        state.undo = [];
        await begin(item()?.index ?? -1);
      } catch (error) {
        complain(error);
      }
    };
    const calm = () => {
      delete doButton("discard").dataset.asked;
      doButton("discard").textContent = "Discard";
    };

    // Hands on it
    const acts = {
      back: () => go(state.at - 1),
      next: () => go(state.at + 1),
      nothing: () => {
        give({ boxes: [] });
        goOn();
      },
      box: () => state.editor?.addInMiddle(),
      clear,
      undo,
      discard,
      save: () => save(),
    };
    const onBox = (event) => {
      const editor = state.editor;
      if (!editor || editor.chosen < 0 || !editor.svg.contains(document.activeElement)) return false;
      if (event.key === "Escape") {
        editor.choose(-1);
        stage.focus();
        return true;
      }
      if (event.key === "Backspace" || event.key === "Delete") {
        editor.remove();
        stage.focus();
        return true;
      }
      return editor.nudge(event.key, event.shiftKey);
    };
    const onKey = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
      if (event.target.closest("input, select, textarea")) return;
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const keys = { ArrowLeft: "back", ArrowRight: "next", 0: "clear", Backspace: "clear", Delete: "clear", u: "undo" };
      if (state.task === "boxes") Object.assign(keys, { n: "nothing", b: "box" });
      if (state.task === "boxes" && onBox(event)) return event.preventDefault();
      if (key >= "1" && key <= "9" && key.length === 1) {
        const name = visibleClasses()[Number(key) - 1];
        if (name) giveClass(name);
      } else if (key === "/") field.focus();
      else if (keys[key]) acts[keys[key]]();
      else return;
      event.preventDefault();
    };
    const addClass = (isNew) => {
      const name = field.value.trim();
      if (!name) return;
      const match = state.classes.find((each) => each === name) ?? (isNew ? undefined : visibleClasses()[0]);
      field.value = "";
      field.blur();
      stage.focus({ preventScroll: true });
      giveClass(match ?? name);
    };

    for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", () => acts[button.dataset.do]());
    doButton("discard").addEventListener("mouseleave", calm);
    for (const button of root.querySelectorAll(".switch button")) {
      button.addEventListener("click", () => {
        state.task = button.dataset.task;
        show();
      });
    }
    find("[data-add] button").addEventListener("click", (event) => {
      event.preventDefault();
      addClass(event.detail !== 0); // Enter in the field clicks it too, with detail 0.
    });
    field.addEventListener("input", showClasses);
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      field.value = "";
      field.blur();
      showClasses();
    });
    find("[data-order]").addEventListener("change", ({ target }) => {
      state.order = target.value;
      state.class = target.selectedOptions[0].dataset.class ?? "";
      target.blur();
      begin();
    });
    document.addEventListener("keydown", onKey);
    new ResizeObserver(() => stage.fit?.()).observe(stage);
    root.dataset.kept = "kept";
    begin(Number(root.dataset.item));
  };

  document.addEventListener("DOMContentLoaded", () => {
    const root = document.getElementById("label");
    if (root) start(root);
  });
})();
