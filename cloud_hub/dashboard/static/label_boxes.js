// Boxes over a picture: drawn, moved, sized and removed, by mouse, finger or keyboard. Boxes are
// {class_name, left, top, right, bottom} in shares of the picture; what shows them decides nothing.
"use strict";

class BoxEditor {
  static SIDE_MIN = 4; // Pixels; less than that was a click.
  static STEP = 0.01; // Of a side, for one press of an arrow key
  static HANDLE = 9;
  static CORNERS = [["left", "top"], ["right", "top"], ["left", "bottom"], ["right", "bottom"]];

  // `changed` is called with all boxes when a person has changed one; `classOf` says what a new
  // box is, `number` gives a class its colour.
  constructor(svg, { changed, classOf, number }) {
    this.svg = svg;
    this.changed = changed;
    this.classOf = classOf;
    this.number = number;
    this.boxes = [];
    this.chosen = -1;
    this.drag = null;
    svg.addEventListener("pointerdown", (event) => this.#down(event));
    svg.addEventListener("pointermove", (event) => this.#move(event));
    svg.addEventListener("pointerup", (event) => this.#up(event));
    svg.addEventListener("pointercancel", () => this.#cancel());
  }

  show(boxes) {
    this.boxes = boxes.map((box) => ({ ...box }));
    this.chosen = Math.min(this.chosen, this.boxes.length - 1);
    this.render();
  }

  choose(index) {
    this.chosen = index;
    this.render();
    this.svg.querySelector(`[data-box="${index}"]`)?.focus({ preventScroll: true });
  }

  addInMiddle() {
    this.boxes.push({ class_name: this.classOf(), left: 0.35, top: 0.35, right: 0.65, bottom: 0.65 });
    this.#tell();
    this.choose(this.boxes.length - 1);
  }

  setClass(name) {
    if (this.chosen < 0) return false;
    this.boxes[this.chosen].class_name = name;
    this.#tell();
    this.choose(this.chosen);
    return true;
  }

  remove() {
    if (this.chosen < 0) return false;
    this.boxes.splice(this.chosen, 1);
    this.chosen = -1;
    this.#tell();
    this.render();
    return true;
  }

  // Arrow keys while a box has the focus: they move it; with Shift they move its lower right corner.
  nudge(key, isSizing) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    const box = this.boxes[this.chosen];
    if (!step || !box) return false;
    const [x, y] = step.map((each) => each * BoxEditor.STEP);
    this.#place(box, isSizing ? { ...box, right: box.right + x, bottom: box.bottom + y } : this.#moved(box, x, y));
    this.#tell();
    this.choose(this.chosen);
    return true;
  }

  render() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width || !height) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const isFocused = this.svg.contains(document.activeElement);
    this.svg.replaceChildren(...this.boxes.map((box, index) => this.#draw(box, index, width, height)));
    if (isFocused) this.svg.querySelector(`[data-box="${this.chosen}"]`)?.focus({ preventScroll: true });
  }

  #draw(box, index, width, height) {
    const isChosen = index === this.chosen;
    const x = box.left * width;
    const y = box.top * height;
    const w = (box.right - box.left) * width;
    const h = (box.bottom - box.top) * height;
    const group = this.#make("g", {
      class: `box k${this.number(box.class_name) % 8}${isChosen ? " chosen" : ""}`,
      "data-box": index,
      tabindex: "0",
      role: "button",
      "aria-label": `Box ${index + 1} of ${this.boxes.length}: ${box.class_name}`,
    });
    group.append(this.#make("rect", { x, y, width: w, height: h }));
    const name = this.#make("text", { x: x + 5, y: y > 20 ? y - 6 : y + 15 });
    name.textContent = box.class_name;
    group.append(name);
    if (isChosen) {
      for (const [i, [side, end]] of BoxEditor.CORNERS.entries()) {
        const half = BoxEditor.HANDLE / 2;
        group.append(
          this.#make("rect", {
            class: `handle ${i === 0 || i === 3 ? "falling" : "rising"}`,
            "data-corner": i,
            x: box[side] * width - half,
            y: box[end] * height - half,
            width: BoxEditor.HANDLE,
            height: BoxEditor.HANDLE,
          }),
        );
      }
    }
    group.addEventListener("focus", () => {
      if (this.chosen !== index && !this.drag) this.choose(index);
    });
    return group;
  }

  #make(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  #at(event) {
    const { left, top, width, height } = this.svg.getBoundingClientRect();
    return [this.#clip((event.clientX - left) / width), this.#clip((event.clientY - top) / height)];
  }

  #down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const [x, y] = this.#at(event);
    const corner = event.target.closest("[data-corner]")?.dataset.corner;
    const group = event.target.closest("[data-box]");
    this.svg.setPointerCapture(event.pointerId);
    if (group) {
      const index = Number(group.dataset.box);
      this.drag = { kind: corner === undefined ? "move" : "size", corner, index, x, y, from: { ...this.boxes[index] } };
      this.choose(index);
    } else {
      this.drag = { kind: "new", x, y, index: -1 };
      this.choose(-1);
    }
  }

  #move(event) {
    const { drag } = this;
    if (!drag) return;
    const [x, y] = this.#at(event);
    if (drag.kind === "new") {
      if (drag.index < 0 && !this.#isLarge(drag, x, y)) return;
      if (drag.index < 0) {
        drag.index = this.boxes.push({ class_name: this.classOf() }) - 1;
        this.chosen = drag.index;
      }
      this.#place(this.boxes[drag.index], { left: drag.x, right: x, top: drag.y, bottom: y });
    } else if (drag.kind === "move") {
      this.#place(this.boxes[drag.index], this.#moved(drag.from, x - drag.x, y - drag.y));
    } else {
      const [side, end] = BoxEditor.CORNERS[drag.corner];
      this.#place(this.boxes[drag.index], { ...drag.from, [side]: x, [end]: y });
    }
    this.render();
  }

  #up(event) {
    const { drag } = this;
    this.drag = null;
    if (!drag) return;
    const [x, y] = this.#at(event);
    const isMoved = x !== drag.x || y !== drag.y;
    if (drag.index >= 0 && (drag.kind === "new" || isMoved)) this.#tell();
    this.choose(drag.index);
  }

  #cancel() {
    if (this.drag?.from) this.boxes[this.drag.index] = this.drag.from;
    else if (this.drag?.index >= 0) this.boxes.splice(this.drag.index, 1);
    this.drag = null;
    this.chosen = -1;
    this.render();
  }

  #isLarge(drag, x, y) {
    const { width, height } = this.svg.getBoundingClientRect();
    return Math.abs(x - drag.x) * width >= BoxEditor.SIDE_MIN && Math.abs(y - drag.y) * height >= BoxEditor.SIDE_MIN;
  }

  #moved(box, x, y) {
    const dx = Math.min(Math.max(x, -box.left), 1 - box.right);
    const dy = Math.min(Math.max(y, -box.top), 1 - box.bottom);
    return { left: box.left + dx, right: box.right + dx, top: box.top + dy, bottom: box.bottom + dy };
  }

  // Sides in their order, within the picture, and never without area.
  #place(box, { left, top, right, bottom }) {
    const { width, height } = this.svg.getBoundingClientRect();
    [box.left, box.right] = this.#sides(left, right, BoxEditor.SIDE_MIN / width);
    [box.top, box.bottom] = this.#sides(top, bottom, BoxEditor.SIDE_MIN / height);
  }

  #sides(one, other, least) {
    const low = Math.min(this.#clip(Math.min(one, other)), 1 - least);
    return [low, Math.max(this.#clip(Math.max(one, other)), low + least)];
  }

  #clip(value) {
    return Math.min(1, Math.max(0, value));
  }

  #tell() {
    this.changed(this.boxes.map((box) => ({ ...box })));
  }
}
