// Puts interactive curves in the place of the static pictures. Everything on the page is complete without it.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;

  // What is the same for all points of a curve is stored once, in the tags of its source.
  function complete(models) {
    for (const model of models) {
      if (model.type !== "ColumnDataSource" || !model.tags.length) continue;
      const n = model.data.y.length;
      const {counted, ...words} = model.tags[0];
      const at = Array.from(model.data.linear, (x) => Number.isInteger(x) ? `${counted} ${x.toLocaleString("en")}:` : "");
      const same = Object.fromEntries(Object.entries(words).map(([name, text]) => [name, Array(n).fill(text)]));
      model.data = {...model.data, at, ...same};
    }
  }

  // Positions are stored in both forms of the step axis, logarithmic first.
  function setAxis(models, kind) {
    const form = kind === "log" ? 0 : 1;
    for (const model of models) {
      const places = model.tags[0];
      if (model.type === "GlyphRenderer") {
        const glyph = model.glyph;
        if (glyph.type === "Segment") glyph.setv({x0: {field: kind}, x1: {field: kind + "1"}});
        else glyph.setv({x: {field: kind}});
      } else if (places && model.type !== "ColumnDataSource") {
        const values = Object.fromEntries(Object.entries(places).map(([name, both]) => [name, both[form]]));
        if (model.type === "Range1d") Object.assign(values, {reset_start: values.start, reset_end: values.end});
        model.setv(values);
      }
    }
  }

  function setVisible(models, figure) {
    const chosen = {};
    for (const group of ["space", "series"]) {
      const boxes = [...figure.querySelectorAll(`input[data-group=${group}]`)];
      chosen[group] = boxes.length ? new Set(boxes.filter((box) => box.checked).map((box) => box.value)) : null;
    }
    for (const model of models) {
      if (!model.name || !model.name.includes("|")) continue;
      const [space, series] = model.name.split("|");
      const shown = (group, value) => !value || !chosen[group] || chosen[group].has(value);
      model.visible = shown("space", space) && shown("series", series);
    }
  }

  async function show(figure) {
    const key = figure.dataset.chart;
    figure.classList.add("shown");  // first, so that plots find their width
    const views = await Promise.all(charts[key].map((doc, i) =>
      Bokeh.embed.embed_item({doc, root_id: doc.roots[0].id, target_id: `plot-${key}-${i}`})));
    const models = views.flatMap((view) => [...view.roots].flatMap((each) => [...each.model.references()]));
    complete(models);
    const axis = () => (figure.querySelector("input[type=radio]:checked") || {value: figure.dataset.axis}).value;
    const update = () => { setAxis(models, axis()); setVisible(models, figure); };
    update();
    figure.addEventListener("change", update);
    figure.dataset.ready = "";
  }

  root.classList.add("scripted");
  Bokeh.logger.set_level("error");
  const waiting = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      waiting.unobserve(entry.target);
      show(entry.target).catch((error) => { entry.target.classList.remove("shown"); console.error(error); });
    }
  }, {rootMargin: "400px"});
  document.querySelectorAll("figure.chart").forEach((figure) => waiting.observe(figure));

  // A link into something folded opens it; so does printing.
  const unfold = (element) => { for (let at = element; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true; };
  const follow = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) { unfold(target); target.scrollIntoView(); }
  };
  addEventListener("hashchange", follow);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  follow();
})();
