// What all charts share: how they look, that they can be zoomed by keyboard, and bands.

const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
const isTouched = matchMedia("(hover: none) and (pointer: coarse)").matches; // a finger scrolls the page, it doesn't zoom
const KEYS = { "+": [0.5, 0], "=": [0.5, 0], "-": [2, 0], ArrowLeft: [1, -0.25], ArrowRight: [1, 0.25] };

const LOGARITHMIC = { nticks: 5, tickformat: "~g" }; // 0.05 rather than 5 below a power of ten

const axis = (more = {}) => ({
  gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("line"), automargin: true,
  exponentformat: "power", minexponent: 4, ...(more.type === "log" && LOGARITHMIC), ...more,
});

function look(more = {}) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13, color: colour("ink") },
    margin: { l: 10, r: 24, t: 28, b: 10 }, showlegend: false, hovermode: "closest", dragmode: isTouched ? false : "zoom",
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("ink") },
    ...more,
  };
}

// Draws into a container, made ready at the first time. `onPoint` is told of the point that is clicked.
function plot(container, name, traces, layout, onPoint) {
  if (!container.dataset.ready) {
    container.dataset.ready = "yes";
    container.classList.add("plot");
    container.tabIndex = 0;
    container.setAttribute("role", "group");
    container.addEventListener("keydown", (event) => onKey(container, event));
  }
  container.setAttribute("aria-label", `Chart: ${name}. Plus and minus zoom, arrows move, 0 shows all.`);
  container.style.height = layout.height ? `${layout.height}px` : "";
  const file = name.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const drawn = Plotly.react(container, traces, layout, { ...CONFIG, toImageButtonOptions: { filename: file } });
  if (onPoint) drawn.then(() => {
    container.removeAllListeners?.("plotly_click");
    container.on("plotly_click", (event) => onPoint(event.points[0]));
  });
  return drawn;
}

function onKey(container, event) {
  const shown = container.layout?.xaxis;
  if (!shown?.range || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "0") Plotly.relayout(container, { "xaxis.autorange": true, "yaxis.autorange": true });
  else if (event.key in KEYS) {
    const [factor, shift] = KEYS[event.key];
    const [low, high] = shown.range.map(Number);
    const [centre, half] = [(low + high) / 2 + shift * (high - low), (factor * (high - low)) / 2];
    Plotly.relayout(container, { "xaxis.range": [centre - half, centre + half] });
  } else return;
  event.preventDefault();
}

// The area between two edges, of which each unbroken stretch is a piece of its own.
// `floor` is where it ends below: on a logarithmic axis, or at 0.
function band(x, low, high, paint, floor) {
  const outline = { x: [], y: [] };
  let start = 0;
  for (let i = 0; i <= x.length; i++) {
    if (i < x.length && low[i] != null && high[i] != null) continue;
    const there = [...Array(i - start).keys()].map((k) => start + k);
    const places = there.map((k) => x[k]);
    const [over, under] = [high, low].map((edge) => there.map((k) => Math.max(edge[k], floor)));
    if (there.length) {
      outline.x.push(...places, ...places.toReversed(), null);
      outline.y.push(...over, ...under.toReversed(), null);
    }
    start = i + 1;
  }
  const look = { fill: "toself", fillcolor: translucent(paint, 0.16), hoverinfo: "skip", showlegend: false };
  return { ...outline, type: "scatter", mode: "none", ...look };
}
