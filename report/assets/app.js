// The page's own script: table of cases, best and worst, viewer, pictures where there is no WebGL.
// Text from the data is only ever set as text; nothing is fetched.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const HU_START = -192, HU_STEP = 2; // as report/volumes.py stores the CT
  const LABEL_BITS = 2, LABELS = ["pancreas", "tumor"];
  // Okabe and Ito: the result that is shown first has the first color of its target.
  const COLORS = {
    pancreas: ["#f0e442", "#e69f00", "#cc79a7", "#999999", "#ffffff", "#000000"],
    tumor: ["#56b4e9", "#0072b2", "#cc79a7", "#999999", "#ffffff", "#000000"],
  };
  const LABEL_COLORS = ["#009e73", "#d55e00"];
  const PRESETS = [
    ["as the network sees it", -100, 240], ["soft tissue", -160, 240],
    ["narrow", 10, 160], ["all that is stored", -192, 318],
  ];
  const AXES = ["z", "y", "x"];
  const MISSED = 1; // percent of DSC below which a lesion counts as missed

  const state = {
    result: 0, sort: null, down: false, current: null, rows: [], visible: {}, all: true,
    low: -100, high: 240, opacity: 0.4,
  };
  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const show = (value, column) => {
    if (value === null || value === undefined) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    return typeof value === "number" ? value.toFixed(column.digits) : value;
  };
  const nameOf = (number) => {
    const { center, id } = data.cases[number];
    return id.startsWith(center) ? id : `${center} ${id}`;
  };
  for (const one of data.results) { // cases without any result are listed too
    one.rows.push(...data.failed.map((number) => [number, ...one.columns.map(() => null)]));
  }
  const NO_RESULT = { name: "", columns: [], rows: data.failed.map((number) => [number]) };
  const result = () => data.results[state.result] || NO_RESULT;
  const indexOf = (name) => result().columns.findIndex((column) => column.name === name) + 1;
  const hasWebGL = (() => {
    try { return Boolean(document.createElement("canvas").getContext("webgl2")); } catch { return false; }
  })();
  const anyPicture = data.cases.some((one) => one.pictures);
  const severalCenters = new Set(data.cases.map((one) => one.center)).size > 1;

  // ---- overview
  const numbers = (name) => {
    const at = indexOf(name), empty = indexOf("empty");
    const labeled = (row) => !empty || !String(row[empty] || "").split(" ").includes("label");
    return at ? result().rows.filter((row) => typeof row[at] === "number" && labeled(row)).map((row) => row[at]) : [];
  };
  const tile = (value, told) => {
    const made = element("div", undefined, "tile");
    made.append(element("b", value), element("span", told));
    return made;
  };
  function drawTiles() {
    const rows = result().rows, count = new Set(rows.map((row) => row[0])).size;
    const tiles = count > 1 ? [tile(String(count), "cases")] : [];
    if (data.failed.length) tiles.push(tile(String(data.failed.length), "without a result"));
    const dice = numbers("dsc");
    for (const column of result().columns.filter((one) => numbers(one.name).length)) {
      if (dice.length && !["dsc", "asd_mm", "hd95_mm", "centroid_mm"].includes(column.name)) continue;
      if (tiles.length > 4) break;
      const values = numbers(column.name);
      tiles.push(tile((values.reduce((a, b) => a + b, 0) / values.length).toFixed(column.digits), values.length > 1 && !column.label.startsWith("mean") ? `mean ${column.label}` : column.label));
    }
    if (dice.length > 1) tiles.push(tile(`${dice.filter((one) => one < MISSED).length} of ${dice.length}`, "missed (DSC below 1 %)"));
    $("tiles").replaceChildren(...tiles);
  }
  const card = (row) => {
    const made = element("button", undefined, "card"), thumb = element("span", undefined, "thumb");
    const at = indexOf("dsc"), text = element("span", nameOf(row[0]), "text");
    made.type = "button";
    const template = $(`pictures-${row[0]}`);
    if (template) {
      thumb.append(template.content.querySelector(".axial svg").cloneNode(true));
      paintPictures(thumb, data.cases[row[0]], false);
    } else if (anyPicture) thumb.append(element("span", "no picture", "blank"));
    else thumb.hidden = true;
    if (at) text.append(element("small", `DSC ${show(row[at], result().columns[at - 1])} %`));
    made.append(thumb, text);
    made.addEventListener("click", () => open(row[0], true));
    return made;
  };
  function drawExtremes() {
    const at = indexOf("dsc"), place = $("extremes");
    place.replaceChildren();
    const ranked = at ? result().rows.filter((row) => numbers("dsc").length && typeof row[at] === "number").sort((a, b) => a[at] - b[at] || b[indexOf("asd_mm")] - a[indexOf("asd_mm")]) : [];
    const count = Math.min(3, Math.floor(ranked.length / 2));
    const groups = count ? [["Worst", ranked.slice(0, count)], ["Best", ranked.slice(-count).reverse()]]
      : [["Cases", result().rows.filter((row) => $(`pictures-${row[0]}`)).slice(0, 6)]];
    if (data.cases.length === 1) return; // the viewer shows it
    for (const [title, rows] of groups.filter((group) => group[1].length)) {
      const group = element("div"), cards = element("div", undefined, count ? "extremes" : "extremes few");
      cards.append(...rows.map(card));
      group.append(element("h3", title), cards);
      place.append(group);
    }
  }

  // ---- table
  const compare = (at) => (a, b) => {
    const one = at ? a[at] : nameOf(a[0]), two = at ? b[at] : nameOf(b[0]);
    const absent = (value) => value === null || value === undefined;
    if (absent(one) || absent(two)) return absent(one) - absent(two); // unknown: always last
    const order = typeof one === "number" && typeof two === "number" ? one - two
      : String(one).localeCompare(String(two), undefined, { numeric: true });
    return state.down ? -order : order;
  };
  function sortBy(name, down) {
    state.sort = name;
    state.down = down;
    drawTable();
  }
  function headCell(name, label, explained) {
    const cell = element("th"), button = element("button", label);
    cell.scope = "col";
    button.type = "button";
    button.dataset.column = name;
    if (explained) button.title = explained;
    if (state.sort === name) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    button.addEventListener("click", () => {
      sortBy(name, state.sort === name && !state.down);
      $("table").querySelector(`[data-column="${CSS.escape(name)}"]`).focus();
    });
    cell.append(button);
    return cell;
  }
  function bodyRow(row) {
    const line = element("tr"), head = element("th"), one = data.cases[row[0]];
    const button = element("button", severalCenters ? nameOf(row[0]) : one.id);
    const carried = one.volume && hasWebGL ? "viewer" : one.pictures ? "pictures" : "";
    if (carried) {
      const mark = element("span", undefined, carried === "viewer" ? "dotmark full" : "dotmark");
      mark.title = carried === "viewer" ? "to scroll through" : "pictures";
      button.prepend(mark);
    }
    if (one.warnings.length) {
      const mark = element("span", " \u26a0");
      mark.title = one.warnings.join("\n");
      button.append(mark);
    }
    button.type = "button";
    head.scope = "row";
    head.append(button);
    line.dataset.case = row[0];
    line.append(head);
    result().columns.forEach((column, number) => {
      const value = row[number + 1];
      line.append(element("td", show(value, column), typeof value === "string" ? "text" : ""));
    });
    line.addEventListener("click", () => open(row[0], true));
    if (row[0] === state.current) line.setAttribute("aria-current", "true");
    return line;
  }
  function drawTable() {
    const wanted = $("find").value.trim().toLowerCase(), at = indexOf(state.sort);
    state.rows = result().rows.filter((row) => nameOf(row[0]).toLowerCase().includes(wanted));
    if (state.sort !== null) state.rows.sort(compare(at));
    if (state.sort === "dsc" && !state.down) state.rows.sort((a, b) => compare(at)(a, b) || (b[indexOf("asd_mm")] ?? 0) - (a[indexOf("asd_mm")] ?? 0));
    const head = element("tr");
    head.append(headCell("case", "case"), ...result().columns.map((column) => headCell(column.name, column.label, column.explained)));
    $("table").tHead.replaceChildren(head);
    $("table").tBodies[0].replaceChildren(...state.rows.map(bodyRow));
    const volumes = data.cases.filter((one) => one.volume).length, pictures = data.cases.filter((one) => one.pictures).length;
    const told = [`${state.rows.length} of ${result().rows.length} rows.`];
    if (pictures) told.push(`● ${volumes} ${volumes === 1 ? "case" : "cases"} to scroll through, ○ ${pictures - volumes} more with pictures, of ${data.cases.length}.`);
    $("table-hint").textContent = told.join(" ");
  }
  function chooseResult(number) {
    state.result = number;
    state.sort = indexOf("dsc") ? "dsc" : state.sort && indexOf(state.sort) ? state.sort : null;
    state.down = false; // the worst first
    drawTiles();
    drawExtremes();
    drawTable();
    if (state.current !== null) drawFacts();
  }

  // ---- a case: what is common to viewer and pictures
  const layersOf = (one) => {
    const layers = one.layers || [], left = {};
    const colors = layers.map(() => "");
    for (let n = layers.length - 1; n >= 0; n -= 1) {
      const used = (left[layers[n].target] = (left[layers[n].target] ?? -1) + 1);
      colors[n] = COLORS[layers[n].target][used % 6];
    }
    const first = layers.map((layer, n) => layers.findLastIndex((other) => other.target === layer.target) === n);
    return layers.map((layer, n) => ({ ...layer, bit: n + LABEL_BITS, color: colors[n], first: first[n], kind: "result" }));
  };
  const overlaysOf = (one) => [
    ...(one.label ? LABELS.map((target, bit) => ({ name: `${target}, label`, target, bit, color: LABEL_COLORS[bit], first: true, kind: "label" })) : []),
    ...layersOf(one),
  ];
  const isOn = (overlay) => state.all && (state.visible[overlay.kind + overlay.name] ?? overlay.first);
  function paintPictures(place, one, obey = true) {
    for (const overlay of overlaysOf(one)) {
      const kind = overlay.kind === "label" ? `label${overlay.bit + 1}` : `result${overlay.bit - LABEL_BITS}`;
      for (const path of place.querySelectorAll(`path.${kind}`)) {
        path.style.stroke = overlay.color;
        if (overlay.kind === "result") path.style.fill = overlay.color;
        path.classList.toggle("off", !(obey ? isOn(overlay) : overlay.first));
      }
    }
    if (obey) place.style.setProperty("--fill", state.opacity);
  }
  function swatch(overlay) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of [["x", 1], ["y", 1], ["width", 20], ["height", 12]]) box.setAttribute(name, value);
    svg.setAttribute("viewBox", "0 0 22 14");
    svg.setAttribute("aria-hidden", "true");
    svg.classList.add("swatch");
    box.style.stroke = overlay.color;
    box.style.fill = overlay.kind === "label" ? "none" : overlay.color;
    svg.append(box);
    return svg;
  }
  function drawLayers(one) {
    const overlays = overlaysOf(one), place = $("layers");
    place.replaceChildren(element("legend", "Overlays: label as outline, result filled"));
    for (const overlay of overlays) {
      const label = element("label"), box = element("input");
      box.type = "checkbox";
      box.checked = state.visible[overlay.kind + overlay.name] ?? overlay.first;
      box.addEventListener("change", () => {
        state.visible[overlay.kind + overlay.name] = box.checked;
        state.all = true;
        repaint();
      });
      label.append(box, swatch(overlay), element("span", overlay.name));
      place.append(label);
    }
    place.hidden = !overlays.length;
  }
  function drawFacts() {
    const one = data.cases[state.current], facts = result().name ? [["result", result().name]] : [];
    const row = result().rows.find((other) => other[0] === state.current);
    if (row) result().columns.forEach((column, n) => { if (row[n + 1] !== null) facts.push([column.label, show(row[n + 1], column)]); });
    if (one.spacing) {
      facts.push(["voxel", `${one.spacing.join(" × ")} mm (z, y, x), scan of ${one.shape.join(" × ")} voxels`]);
      facts.push(["shown", `slices ${one.start[0] + 1} to ${one.start[0] + one.crop[0]}, around the organs; the page carries no more of the scan`]);
    }
    for (const warning of one.warnings) facts.push(["warning", warning]);
    $("case-facts").replaceChildren(...facts.map(([name, text]) => {
      const pair = element("div");
      pair.append(element("dt", name), element("dd", text));
      return pair;
    }));
  }
  const repaint = () => {
    $("layers").style.setProperty("--fill", state.opacity);
    if (viewer.ready) viewer.paint();
    paintPictures($("pictures"), data.cases[state.current]);
  };

  // ---- the viewer (niivue)
  const viewer = { nv: null, starting: null, ready: false, one: null, volumes: [], bits: null };
  const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  /** Colors by code: a code's value is 16 times it, with a plateau around it, so none is mixed. */
  function colormap(colors) {
    const map = { R: [0, 0], G: [0, 0], B: [0, 0], A: [0, 0], I: [0, 8] };
    colors.forEach((color, number) => {
      for (const value of [16 * (number + 1) - 7, 16 * (number + 1) + 8]) {
        rgb(color).forEach((part, at) => map["RGB"[at]].push(part));
        map.A.push(255);
        map.I.push(value);
      }
    });
    for (const key of "RGBAI") map[key].push(key === "I" ? 255 : map[key].at(-1));
    return map;
  }
  /** Writes the code of the topmost result into each voxel of what is filled. */
  function fill(overlays) {
    const { bits } = viewer, image = viewer.volumes[1].img;
    const shown = overlays.map((overlay, n) => ({ ...overlay, code: 16 * (n + 1) })).filter((one) => one.kind === "result" && isOn(one));
    const rank = ({ target, bit }) => (target === "tumor") * 10 + bit;
    shown.sort((a, b) => rank(a) - rank(b)); // the topmost last
    const codes = Array.from({ length: 256 }, (_, value) => shown.findLast(({ bit }) => (value >> bit) & 1)?.code ?? 0);
    for (let at = 0; at < bits.length; at += 1) image[at] = codes[bits[at]];
  }
  /** The plane's two axes in the viewer's voxels (x right, y front, z head), by niivue's number. */
  const PLANE_AXES = [[0, 1], [0, 2], [1, 2]];
  viewer.outline = () => {
    const { nv, one, bits } = viewer, canvas = $("outlines"), context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!viewer.ready) return;
    if (canvas.width !== nv.canvas.width || canvas.height !== nv.canvas.height) [canvas.width, canvas.height] = [nv.canvas.width, nv.canvas.height];
    const size = [...one.crop].reverse(), spacing = [...one.spacing].reverse(), here = toViewer(viewer.at());
    const steps = [1, size[0], size[0] * size[1]], thick = window.devicePixelRatio || 1;
    const overlays = overlaysOf(one).filter(isOn).sort((a, b) => (a.kind === "label") - (b.kind === "label"));
    for (const slice of nv.screenSlices) {
      const [across, up] = PLANE_AXES[slice.axCorSag] || [], through = 3 - across - up;
      if (across === undefined) continue;
      let [left, top, width, height] = slice.leftTopWidthHeight;
      const mirrored = width < 0;
      if (mirrored) [left, width] = [left + width, -width];
      const toX = (at) => { const part = (at * spacing[across] - slice.leftTopMM[0]) / slice.fovMM[0]; return left + (mirrored ? 1 - part : part) * width; };
      const toY = (at) => top + (1 - (at * spacing[up] - slice.leftTopMM[1]) / slice.fovMM[1]) * height;
      context.save();
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      for (const overlay of overlays) {
        const start = here[through] * steps[through];
        const inside = (x, y) => (bits[start + x * steps[across] + y * steps[up]] >> overlay.bit) & 1;
        context.beginPath();
        for (const [x0, y0, x1, y1] of outlinePieces(inside, size[across], size[up])) {
          context.moveTo(toX(x0), toY(y0));
          context.lineTo(toX(x1), toY(y1));
        }
        context.strokeStyle = overlay.color;
        context.lineWidth = (overlay.kind === "label" ? 2 : 1.4) * thick;
        context.lineCap = "round";
        context.stroke();
      }
      context.restore();
    }
  };
  viewer.paint = () => {
    const { nv, one, volumes } = viewer, overlays = overlaysOf(one);
    fill(overlays);
    nv.addColormap("report", colormap(overlays.map(({ color }) => color)));
    volumes[1].opacity = state.opacity;
    nv.updateGLVolume();
  };
  viewer.window = () => {
    [viewer.volumes[0].cal_min, viewer.volumes[0].cal_max] = [state.low, state.high];
    viewer.nv.updateGLVolume();
  };
  /** (z, y, x) of the whole scan <-> the viewer's voxel (x right, y front, z head) of the crop. */
  const toViewer = ([z, y, x]) => {
    const { start, crop } = viewer.one;
    return [crop[2] - 1 - (x - start[2]), crop[1] - 1 - (y - start[1]), z - start[0]];
  };
  const toScan = ([i, j, k]) => {
    const { start, crop } = viewer.one;
    return [k + start[0], crop[1] - 1 - j + start[1], crop[2] - 1 - i + start[2]];
  };
  viewer.at = () => {
    const voxel = Array.from(viewer.nv.frac2vox(viewer.nv.scene.crosshairPos));
    return toScan(voxel.map((n, axis) => Math.min(Math.max(Math.round(n), 0), viewer.one.crop[2 - axis] - 1)));
  };
  viewer.goTo = (scan) => {
    const { nv, one } = viewer;
    const kept = scan.map((n, axis) => Math.min(Math.max(n, one.start[axis]), one.start[axis] + one.crop[axis] - 1));
    nv.scene.crosshairPos = nv.vox2frac(toViewer(kept));
    nv.drawScene();
    viewer.tell();
  };
  viewer.tell = () => {
    if (!viewer.ready) return;
    const { one } = viewer, at = viewer.at(), [i, j, k] = toViewer(at);
    const index = i + one.crop[2] * (j + one.crop[1] * k);
    const stored = viewer.volumes[0].img[index], hu = stored * HU_STEP + HU_START;
    const told = stored === 0 ? `${hu} HU or less` : stored === 255 ? `${hu} HU or more` : `${hu} HU`;
    const here = overlaysOf(one).filter(({ bit }) => (viewer.bits[index] >> bit) & 1).map(({ name }) => name);
    AXES.forEach((axis, n) => {
      $(`slice-${axis}`).value = at[n];
      $(`slice-${axis}-text`).textContent = `${at[n] + 1}/${one.shape[n]}`;
    });
    $("readout").textContent = [`axial ${at[0] + 1}, coronal ${at[1] + 1}, sagittal ${at[2] + 1}`, told, ...here].join("  ·  ");
  };
  viewer.layout = () => {
    if (!viewer.one) return;
    const chosen = $("layout").value, place = $("canvas-place"), { crop, spacing } = viewer.one;
    const [high, deep, wide] = crop.map((n, axis) => n * spacing[axis]);
    const width = place.clientWidth || 600, most = Math.max(0.72 * window.innerHeight, 300);
    const narrow = width < 560;
    let tiles, height;
    if (chosen !== "all") {
      const [across, down] = [[wide, deep], [wide, high], [deep, high]][Number(chosen)];
      tiles = [[Number(chosen), 0, 0, 1, 1]];
      height = (width * down) / across;
    } else if (narrow) {
      const down = [deep / wide, (high / wide) * 0.5, (high / wide) * 0.5].map((part) => part * width);
      const [axial, low] = [down[0], Math.max((high / Math.max(wide, deep)) * 0.5 * width, 80)];
      height = axial + low;
      tiles = [[0, 0, 0, 1, axial / height], [1, 0, axial / height, 0.5, low / height], [2, 0.5, axial / height, 0.5, low / height]];
      return viewer.place(tiles, Math.min(height, 1.2 * most));
    } else {
      // The axial plane as high as the two others, one above the other.
      const beside = (2 * high) / Math.max(wide, deep), part = Math.min(Math.max(beside / (beside + deep / wide), 0.55), 0.7);
      height = Math.max((part * width * deep) / wide, (1 - part) * width * beside);
      tiles = [[0, 0, 0, part, 1], [1, part, 0, 1 - part, 0.5], [2, part, 0.5, 1 - part, 0.5]];
    }
    return viewer.place(tiles, Math.min(Math.max(height, 260), most));
  };
  viewer.place = (tiles, height) => {
    $("canvas-place").style.height = `${Math.round(height)}px`;
    viewer.nv.setCustomLayout(tiles.map(([sliceType, ...position]) => ({ sliceType, position })));
    viewer.nv.resizeListener();
  };
  viewer.start = async () => {
    const { Niivue, DRAG_MODE } = window.niivue;
    const nv = new Niivue({
      logLevel: "error", loadingText: "", dragAndDropEnabled: false, isRadiologicalConvention: true,
      backColor: [0, 0, 0, 1], fontColor: [0.75, 0.8, 0.85, 1], fontMinPx: 11, fontSizeScaling: 0, crosshairColor: [1, 1, 1, 0.55],
      crosshairWidthUnit: "percent", crosshairWidth: 0.15, crosshairGap: 4, dragMode: DRAG_MODE.windowing,
      multiplanarShowRender: 0, show3Dcrosshair: false, sagittalNoseLeft: true, isForceMouseClickToVoxelCenters: true,
      viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    });
    nv.onLocationChange = () => viewer.tell();
    nv.onIntensityChange = (volume) => {
      if (!viewer.ready || volume !== viewer.volumes[0]) return;
      setWindow(volume.cal_min, volume.cal_max, false);
    };
    const draw = nv.drawScene.bind(nv);
    nv.drawScene = () => { // whatever draws the planes draws the outlines over them
      draw();
      viewer.outline();
    };
    await nv.attachToCanvas($("canvas"));
    viewer.nv = nv;
  };
  viewer.open = async (number) => {
    viewer.starting ??= viewer.start();
    await viewer.starting;
    const { nv } = viewer, { NVImage } = window.niivue;
    const read = (kind, options) => NVImage.loadFromBase64({ base64: $(`${kind}-${number}`).textContent, name: `${kind}.nii.gz`, ...options });
    nv.addColormap("report", colormap([]));
    const volumes = [
      await read("image", { colormap: "gray", cal_min: state.low, cal_max: state.high }),
      await read("masks", { colormap: "report", cal_min: 0, cal_max: 255 }),
    ];
    if (state.current !== number) return; // another case was opened meanwhile
    for (const old of [...nv.volumes]) nv.removeVolume(old);
    viewer.one = data.cases[number];
    viewer.volumes = volumes;
    viewer.bits = new Uint8Array(volumes[1].img);
    for (const volume of volumes) nv.addVolume(volume);
    [volumes[1].cal_min, volumes[1].cal_max] = [0, 255];
    AXES.forEach((axis, n) => {
      $(`slice-${axis}`).min = viewer.one.start[n];
      $(`slice-${axis}`).max = viewer.one.start[n] + viewer.one.crop[n] - 1;
    });
    viewer.layout();
    viewer.paint();
    viewer.ready = true;
    viewer.goTo(viewer.one.foci[0].at);
  };
  function setWindow(low, high, apply = true) {
    [state.low, state.high] = [Math.round(low), Math.round(high)];
    $("window-center").value = (state.low + state.high) / 2;
    $("window-width").value = state.high - state.low;
    $("window-center-text").textContent = `${Math.round((state.low + state.high) / 2)} HU`;
    $("window-width-text").textContent = `${state.high - state.low} HU`;
    const preset = PRESETS.findIndex(([, from, to]) => from === state.low && to === state.high);
    $("window-preset").value = preset < 0 ? "" : preset;
    if (apply && viewer.ready) viewer.window();
  }

  // ---- open a case
  function showMode(live, pictures, told) {
    for (const id of ["stage", "sliders", "windowing", "keys", "foci"]) $(id).hidden = !live;
    $("layout").parentElement.hidden = !live;
    $("pictures").hidden = live || !pictures;
    $("tools").hidden = !live && !pictures;
    $("viewer-hint").textContent = told;
    $("viewer-hint").hidden = !told;
  }
  async function open(number, scroll) {
    const one = data.cases[number], live = one.volume && hasWebGL;
    state.current = number;
    viewer.ready = false;
    $("viewer-title").textContent = nameOf(number);
    for (const line of $("table").tBodies[0].rows) {
      if (Number(line.dataset.case) === number) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
    }
    for (const dot of document.querySelectorAll(".dot")) dot.classList.toggle("current", Number(dot.dataset.case) === number);
    drawLayers(one);
    drawFacts();
    const template = $(`pictures-${number}`), planes = element("div", undefined, "planes");
    if (template) planes.append(template.content.cloneNode(true));
    $("pictures").replaceChildren(planes);
    $("foci").replaceChildren(...(live ? one.foci : []).map((focus, n) => {
      const button = element("button", n ? `Go to the ${focus.name}` : `Go to the ${focus.name.startsWith("tumor") ? "tumor" : focus.name}`, n ? "second" : "");
      button.type = "button";
      button.addEventListener("click", () => viewer.goTo(focus.at));
      return button;
    }));
    let told = live ? "" : "This page carries no image of this case.";
    if (!live && template) told = one.volume ? "This browser has no WebGL 2: three planes through the tumor stand in for the viewer." : "Three planes through the tumor; this page carries the volumes of the best and worst cases only.";
    showMode(live, Boolean(template), told);
    repaint();
    if (scroll && $("viewer").getBoundingClientRect().top > 0.6 * window.innerHeight) $("viewer").scrollIntoView();
    else if (scroll && $("viewer").getBoundingClientRect().bottom < 200) $("viewer").scrollIntoView();
    if (!live) return;
    try {
      await viewer.open(number);
    } catch (error) {
      showMode(false, Boolean(template), `The viewer could not start (${error.message}); pictures stand in for it.`);
    }
  }
  const step = (by) => {
    const at = state.rows.findIndex((row) => row[0] === state.current);
    const next = state.rows[at + by];
    if (next) open(next[0], false);
  };
  const MOVES = { ArrowUp: [0, 1], ArrowDown: [0, -1], PageUp: [1, -1], PageDown: [1, 1], ArrowLeft: [2, -1], ArrowRight: [2, 1] };
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    event.stopPropagation(); // niivue has keys of its own
    if (event.type !== "keydown" || !viewer.ready) return;
    const move = MOVES[event.key], key = event.key.toLowerCase();
    if (move) {
      const at = viewer.at();
      at[move[0]] += move[1];
      viewer.goTo(at);
    } else if (key === "t") viewer.goTo(viewer.one.foci[0].at);
    else if (key === "o") { state.all = !state.all; repaint(); }
    else if (key === "n") step(1);
    else if (key === "p") step(-1);
    else return;
    event.preventDefault();
  };

  // ---- start
  data.results.forEach((one, number) => $("result").append(new Option(one.name, number)));
  $("result").addEventListener("change", () => chooseResult(Number($("result").value)));
  $("find").addEventListener("input", drawTable);
  $("window-preset").append(new Option("own", ""), ...PRESETS.map(([name], number) => new Option(name, number)));
  $("window-preset").addEventListener("change", () => { const [, low, high] = PRESETS[$("window-preset").value] || PRESETS[0]; setWindow(low, high); });
  for (const id of ["window-center", "window-width"]) {
    $(id).addEventListener("input", () => {
      const center = Number($("window-center").value), half = Number($("window-width").value) / 2;
      setWindow(center - half, center + half);
    });
  }
  $("opacity").addEventListener("input", () => {
    state.opacity = Number($("opacity").value) / 100;
    $("opacity-text").textContent = `${$("opacity").value} %`;
    for (const id of ["layers", "pictures"]) $(id).style.setProperty("--fill", state.opacity);
    if (viewer.ready) viewer.nv.setOpacity(1, state.opacity);
  });
  AXES.forEach((axis, n) => $(`slice-${axis}`).addEventListener("input", () => {
    const at = viewer.at();
    at[n] = Number($(`slice-${axis}`).value);
    viewer.goTo(at);
  }));
  $("layout").addEventListener("change", viewer.layout);
  window.addEventListener("resize", () => { if (viewer.ready) viewer.layout(); });
  for (const type of ["keydown", "keyup"]) $("canvas-place").addEventListener(type, onKey, true);
  document.addEventListener("click", (event) => {
    const dot = event.target.closest ? event.target.closest(".dot") : null;
    if (dot) open(Number(dot.dataset.case), true);
  });
  $("opacity-text").textContent = "40 %";
  setWindow(state.low, state.high, false);
  $("cases").hidden = $("overview").hidden = !data.cases.length;
  chooseResult(0);
  const first = state.rows.find((row) => data.cases[row[0]].pictures) || state.rows[0];
  if (first) open(first[0], false);
  window.reportPage = { viewer, state, open }; // for the tests
})();
