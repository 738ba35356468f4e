"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // ---- charts
  const axis = () => ({ gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true });
  const CONTROLS = {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  function draw(place) {
    const figure = data.charts[place.dataset.chart];
    const layout = {
      height: 260, margin: { l: 60, r: 60, t: 20, b: 45 }, font: { color: colour("--ink"), size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", legend: { orientation: "h", y: 1.12 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--accent") },
      hovermode: "closest", ...figure.layout,
    };
    for (const name of ["xaxis", "yaxis", "yaxis2"]) {
      if (name !== "yaxis2" || layout[name]) layout[name] = { ...axis(), ...(layout[name] || {}) };
    }
    Plotly.react(place, figure.data, layout, CONTROLS);
  }
  const charts = () => document.querySelectorAll(".chart");
  const redraw = () => charts().forEach((place) => { if (place.offsetParent !== null) draw(place); });
  redraw();
  dark.addEventListener("change", redraw);

  // ---- tabs
  for (const tab of document.querySelectorAll("[data-tab]")) {
    tab.addEventListener("click", () => {
      for (const other of document.querySelectorAll("[data-tab]")) {
        other.setAttribute("aria-selected", String(other === tab));
      }
      for (const panel of document.querySelectorAll("[data-panel]")) {
        panel.hidden = panel.dataset.panel !== tab.dataset.tab;
      }
      redraw();
    });
  }

  // ---- pictures at their full size
  for (const figure of document.querySelectorAll("figure")) {
    figure.addEventListener("click", () => figure.classList.toggle("big"));
    figure.addEventListener("keydown", (event) => { if (event.key === "Enter") figure.classList.toggle("big"); });
  }

  // ---- patch decisions
  const tints = { 0: [148, 163, 184], 1: [239, 68, 68], 2: [16, 185, 129], 4: [59, 130, 246] };
  for (const place of document.querySelectorAll("[data-maps]")) {
    const maps = data.maps[place.dataset.maps];
    const canvas = place.querySelector("canvas"), pen = canvas.getContext("2d");
    const slider = place.querySelector("input"), status = place.querySelector(".status");
    const unit = Math.min(640 / maps.width, 480 / maps.height);
    canvas.width = Math.round(maps.width * unit);
    canvas.height = Math.round(maps.height * unit);
    const deepest = Math.max(1, ...maps.frames.map((frame) => Math.max(...frame.depth)));
    const show = () => {
      const frame = maps.frames[Number(slider.value)];
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.font = "12px system-ui, sans-serif";
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      frame.patches.forEach(([top, left, height, width], index) => {
        const depth = frame.depth[index], scale = depth ? frame.scale[index] : 0;
        const [r, g, b] = tints[scale] || tints[0];
        const strength = depth ? 0.25 + 0.7 * depth / deepest : 0.25;
        const box = [left * unit + 1, top * unit + 1, width * unit - 2, height * unit - 2];
        pen.fillStyle = `rgba(${r},${g},${b},${strength})`;
        pen.fillRect(...box);
        pen.strokeStyle = `rgb(${r},${g},${b})`;
        pen.strokeRect(...box);
        pen.fillStyle = colour("--ink");
        pen.fillText(depth || "–", box[0] + box[2] / 2, box[1] + box[3] / 2);
      });
      status.textContent = `${frame.seconds.toFixed(3)} s, ${frame.kind}: ${frame.gflop} GFLOP`;
    };
    slider.addEventListener("input", show);
    dark.addEventListener("change", show);
    show();
  }

  // ---- the table of videos
  const table = document.getElementById("table"), body = table.tBodies[0];
  const all = [...body.rows];
  const value = (row, column, kind) => {
    const cell = row.cells[column];
    return kind === "number" ? Number(cell.dataset.value) : cell.textContent.toLowerCase();
  };
  for (const head of table.querySelectorAll("th[data-sort]")) {
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending", column = head.cellIndex, kind = head.dataset.sort;
      for (const other of table.querySelectorAll("th[data-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      all.sort((a, b) => {
        const x = value(a, column, kind), y = value(b, column, kind);
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      });
      body.append(...all);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  }
  document.getElementById("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    let shown = 0;
    for (const row of all) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    document.getElementById("shown").textContent = shown;
  });
})();
