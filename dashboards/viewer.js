// The viewer: all pixel work happens here, in the browser. Text from data is set as textContent,
// never as markup. Positions in data are shares of the image (0 to 1): [row0, col0, row1, col1].

const shown = new WeakMap(); // parent element -> {key, release}

export default function (component) {
  const { data, parentElement } = component;
  const root = parentElement.querySelector(".root");
  if (!root || !data) return;
  const before = shown.get(parentElement);
  if (before && before.key === data.key) return; // a rerun of the page must not reset the view
  if (before) before.release();
  root.replaceChildren();
  const release = data.kind === "gallery" ? showGallery(root, data) : showCase(root, data);
  shown.set(parentElement, { key: data.key, release });
  return () => {
    release();
    shown.delete(parentElement);
  };
}

function node(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function showGallery(root, data) {
  root.append(node("div", { className: "gallery" }, ...data.cards.map((card) => cardOf(card))));
  return () => {};
}

function cardOf(card, sum) {
  const element = node("div", { className: "card" }, node("h3", { textContent: card.title }));
  if (sum) element.append(node("p", { className: "sum", textContent: sum }));
  if (card.crop) {
    element.append(
      node("div", { className: "pictures" },
        node("figure", {}, node("img", { src: card.crop, alt: card.title }),
          node("figcaption", { textContent: "the patch" })),
        node("figure", {}, node("img", { src: card.source, alt: "its training image" }),
          node("figcaption", { textContent: "its training image, patch boxed" }))));
  } else {
    element.append(node("p", { textContent: "Its picture is missing from the run folder." }));
  }
  for (const line of card.lines) element.append(node("p", { textContent: line }));
  return element;
}

function showCase(root, data) {
  // Of a plane there is one view; of a volume each piece of evidence has planes of its own.
  const decoded = new Map();
  const view = () => data.views[data.evidence[state.chosen]?.view ?? 0];
  function words() {
    const { pixels } = view();
    if (!decoded.has(pixels)) {
      decoded.set(pixels, new Uint16Array(bytes(pixels).buffer)); // little endian, as every browser is
    }
    return decoded.get(pixels);
  }
  const colors = bytes(data.colors);
  const start = { level: 0.5, width: 1, zoom: 1, x: 0, y: 0, invert: false };
  const state = { ...start, chosen: 0, map: "prototype", opacity: 0.5, boxes: true };

  const canvas = node("canvas", {
    tabIndex: 0,
    role: "img",
    "aria-label": `Image of the case, predicted ${data.label}. Arrow keys change the window.`,
  });
  const readout = node("div", { className: "readout", "aria-live": "off" });
  const stage = node("div", { className: "stage" }, canvas, readout);
  const pane = node("div", { "aria-live": "polite" });
  const list = node("ul", { className: "list" });
  const tools = toolbar(state, draw, reset);
  const help = node("p", {
    className: "help",
    textContent:
      "Drag: window (right: width, up: level) · Shift+drag: move · wheel or + −: zoom · arrows: " +
      "window · I invert · H map · B boxes · 1–9 evidence · 0 reset",
  });
  root.append(
    node("div", { className: "viewer" },
      node("div", {}, tools.element, stage, help),
      node("div", {}, node("h3", { textContent: `Evidence for and against “${data.logit}”` }),
        list, pane)));

  const gray = document.createElement("canvas"); // the image in the chosen window
  gray.width = data.cols;
  gray.height = data.rows;
  const grayContext = gray.getContext("2d");
  const pixels = grayContext.createImageData(data.cols, data.rows);
  let windowed = "";

  function applyWindow() {
    const wanted = `${state.level},${state.width},${state.invert},${data.views.indexOf(view())}`;
    if (wanted === windowed) return;
    windowed = wanted;
    const low = (state.level - state.width / 2) * 65535;
    const scale = 255 / (state.width * 65535);
    const table = new Uint8ClampedArray(65536);
    for (let value = 0; value < 65536; value++) {
      const level = (value - low) * scale;
      table[value] = state.invert ? 255 - Math.min(255, Math.max(0, level)) : level;
    }
    const [out, values] = [pixels.data, words()];
    for (let i = 0, j = 0; i < values.length; i++, j += 4) {
      out[j] = out[j + 1] = out[j + 2] = table[values[i]];
      out[j + 3] = 255;
    }
    grayContext.putImageData(pixels, 0, 0);
  }

  const maps = new Map(); // data of a map -> canvas
  function mapCanvas(heat) {
    if (!heat) return null;
    if (maps.has(heat)) return maps.get(heat);
    const element = document.createElement("canvas");
    element.width = heat.cols;
    element.height = heat.rows;
    const context = element.getContext("2d");
    const image = context.createImageData(heat.cols, heat.rows);
    bytes(heat.values).forEach((value, i) => {
      image.data.set([colors[3 * value], colors[3 * value + 1], colors[3 * value + 2], value], 4 * i);
    });
    context.putImageData(image, 0, 0);
    maps.set(heat, element);
    return element;
  }

  function fit() {
    return Math.min(canvas.width / data.cols, canvas.height / data.rows);
  }

  function place() {
    const scale = fit() * state.zoom;
    return {
      scale,
      left: (canvas.width - data.cols * scale) / 2 + state.x,
      top: (canvas.height - data.rows * scale) / 2 + state.y,
    };
  }

  let waiting = 0;
  function draw() {
    if (!waiting) waiting = requestAnimationFrame(paint);
  }

  function paint() {
    waiting = 0;
    applyWindow();
    const context = canvas.getContext("2d");
    const { scale, left, top } = place();
    const [width, height] = [data.cols * scale, data.rows * scale];
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = scale < 4; // far in, pixels are shown as pixels
    context.drawImage(gray, left, top, width, height);
    const chosen = data.evidence[state.chosen];
    const heat =
      state.map === "gradCam" ? view().gradCam : state.map === "prototype" && chosen?.heat;
    const colored = mapCanvas(heat);
    if (colored) {
      context.imageSmoothingEnabled = true;
      context.globalAlpha = state.opacity;
      context.drawImage(colored, left, top, width, height);
      context.globalAlpha = 1;
    }
    if (state.boxes) {
      data.evidence.forEach((line, i) => {
        if (i !== state.chosen) outline(context, line, left, top, width, height, 1);
      });
      if (chosen) outline(context, chosen, left, top, width, height, 2.5);
    }
    tell(scale);
    tools.sync();
  }

  function outline(context, line, left, top, width, height, thickness) {
    for (const box of view().boxes[data.evidence.indexOf(line)]) {
      outlineBox(context, line, box, left, top, width, height, thickness);
    }
  }

  function outlineBox(context, line, part, left, top, width, height, thickness) {
    const [row0, col0, row1, col1] = part;
    const ratio = window.devicePixelRatio || 1;
    const box = [left + col0 * width, top + row0 * height,
      (col1 - col0) * width, (row1 - row0) * height];
    context.lineWidth = (thickness + 2) * ratio;
    context.strokeStyle = "rgba(0, 0, 0, 0.75)";
    context.strokeRect(...box);
    context.lineWidth = thickness * ratio;
    context.strokeStyle = line.color;
    context.strokeRect(...box);
    const size = 13 * ratio;
    context.font = `bold ${size}px system-ui, sans-serif`;
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "#000";
    const shift = (line.place - 1) * size; // boxes often share a corner; their numbers must not
    context.strokeText(String(line.place), box[0] + shift, box[1] - 4 * ratio);
    context.fillStyle = line.color;
    context.fillText(String(line.place), box[0] + shift, box[1] - 4 * ratio);
  }

  function tell(scale) {
    const percent = (value) => `${(100 * value).toFixed(0)} %`;
    let text = `Level ${percent(state.level)}  Width ${percent(state.width)}`;
    if (data.gray) {
      const center = data.gray.center + (state.level - 0.5) * data.gray.width;
      text += `  (center ${center.toFixed(0)}, width ${(state.width * data.gray.width).toFixed(0)})`;
    }
    const shownScale = (scale * data.cols) / data.fullCols / (window.devicePixelRatio || 1);
    text += `\nZoom ${percent(shownScale)} of ${data.size}`;
    if (data.rows !== data.fullRows) text += `, sent as ${data.rows} × ${data.cols}`;
    readout.textContent = text + (state.invert ? "  inverted" : "");
    root.dataset.level = state.level.toFixed(4);
    root.dataset.width = state.width.toFixed(4);
    root.dataset.zoom = state.zoom.toFixed(4);
    root.dataset.map = state.map;
  }

  function reset() {
    Object.assign(state, start);
    draw();
  }

  function changeWindow(level, width) {
    state.level = Math.min(1.5, Math.max(-0.5, state.level + level));
    state.width = Math.min(2, Math.max(0.01, state.width + width));
    draw();
  }

  function zoomAt(factor, x = canvas.width / 2, y = canvas.height / 2) {
    const zoom = Math.min(40, Math.max(0.25, state.zoom * factor));
    const { left, top, scale } = place();
    const ratio = zoom / state.zoom;
    state.zoom = zoom;
    state.x += x - left - (x - left) * ratio - (data.cols * scale * (1 - ratio)) / 2;
    state.y += y - top - (y - top) * ratio - (data.rows * scale * (1 - ratio)) / 2;
    draw();
  }

  function choose(index) {
    if (!data.evidence[index]) return;
    state.chosen = index;
    [...list.querySelectorAll("button")].forEach((button, i) =>
      button.setAttribute("aria-pressed", String(i === index)));
    const line = data.evidence[index];
    pane.replaceChildren(line.card ? cardOf(line.card, line.sum) : node("p", { textContent: line.sum }));
    draw();
  }

  data.evidence.forEach((line, i) => {
    const points = line.sum.slice(line.sum.lastIndexOf("=") + 2);
    const button = node("button", { type: "button" },
      node("span", { textContent: String(line.place) }),
      node("span", { textContent: `prototype ${line.prototype}, ${line.className}` }),
      node("span", { className: `points ${line.side}`, textContent: `${points} ${line.side}` }));
    button.addEventListener("click", () => choose(i));
    list.append(node("li", {}, button));
  });

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    drag = { x: event.clientX, y: event.clientY, move: event.shiftKey || event.button > 0 };
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    Object.assign(drag, { x: event.clientX, y: event.clientY });
    if (drag.move) {
      const ratio = window.devicePixelRatio || 1;
      state.x += x * ratio;
      state.y += y * ratio;
      draw();
    } else {
      changeWindow(-y / 400, x / 400);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { drag = null; });
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    // Only a chosen image zooms: the page must scroll past one that is not.
    if (canvas.getRootNode().activeElement !== canvas) return;
    event.preventDefault();
    const ratio = window.devicePixelRatio || 1;
    zoomAt(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.offsetX * ratio, event.offsetY * ratio);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 0.02;
    const actions = {
      ArrowUp: () => changeWindow(step, 0),
      ArrowDown: () => changeWindow(-step, 0),
      ArrowRight: () => changeWindow(0, step),
      ArrowLeft: () => changeWindow(0, -step),
      "+": () => zoomAt(1.2),
      "=": () => zoomAt(1.2),
      "-": () => zoomAt(1 / 1.2),
      0: reset,
      i: () => { state.invert = !state.invert; draw(); },
      b: () => { state.boxes = !state.boxes; draw(); },
      h: () => { state.map = state.map === "none" ? "prototype" : "none"; draw(); },
    };
    const action = actions[event.key] || actions[event.key.toLowerCase()] ||
      (/^[1-9]$/.test(event.key) ? () => choose(Number(event.key) - 1) : null);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  });

  const observer = new ResizeObserver(() => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(stage.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(stage.clientHeight * ratio));
    draw();
  });
  observer.observe(stage);
  choose(0);
  return () => {
    observer.disconnect();
    cancelAnimationFrame(waiting);
  };
}

function toolbar(state, draw, reset) {
  const invert = node("button", { type: "button", textContent: "Invert" });
  invert.addEventListener("click", () => { state.invert = !state.invert; draw(); });
  const again = node("button", { type: "button", textContent: "Reset view" });
  again.addEventListener("click", reset);
  const map = node("select", {},
    node("option", { value: "none", textContent: "none" }),
    node("option", { value: "prototype", textContent: "similarity to the chosen prototype" }),
    node("option", { value: "gradCam", textContent: "Grad-CAM (second opinion)" }));
  map.addEventListener("change", () => { state.map = map.value; draw(); });
  const opacity = node("input", { type: "range", min: "0", max: "1", step: "0.05" });
  opacity.addEventListener("input", () => { state.opacity = Number(opacity.value); draw(); });
  const boxes = node("input", { type: "checkbox" });
  boxes.addEventListener("change", () => { state.boxes = boxes.checked; draw(); });
  const element = node("div", { className: "toolbar", role: "toolbar", "aria-label": "Image tools" },
    node("label", {}, "Map", map), node("label", {}, "Opacity", opacity),
    node("label", {}, boxes, "Boxes"), invert, again);
  function sync() {
    map.value = state.map;
    opacity.value = String(state.opacity);
    boxes.checked = state.boxes;
    invert.setAttribute("aria-pressed", String(state.invert));
  }
  return { element, sync };
}
