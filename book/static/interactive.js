/* Puts native controls and a live drawing in the place of each interactive figure's picture. The drawing's numbers are
   those of its specification: each control sets a parameter, and the parameter `readout` says what came out. */
(() => {
  const vega = new URL("vega.js", document.currentScript.src);
  let loading;
  const loadVega = () => loading ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    Object.assign(script, { src: vega, onload: done, onerror: failed });
    document.head.append(script);
  });

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  const control = ({ name, value, bind }) => {
    const select = bind.input === "select";
    const input = element(select ? "select" : "input", { name });
    if (select) {
      input.append(...bind.options.map((option) => element("option", { value: option }, option)));
    } else {
      Object.assign(input, { type: "range", min: bind.min, max: bind.max, step: bind.step });
    }
    input.value = value;
    const shown = element("span", { className: "vega-value", ariaHidden: "true" });
    const label = element("label", {}, element("span", {}, bind.name), input, shown);
    const read = () => (select ? input.value : Number(input.value));
    const show = () => { shown.textContent = select ? "" : String(read()); };
    show();
    return { name, label, input, read, show };
  };

  const start = (data) => {
    const spec = JSON.parse(data.textContent);
    const figure = data.parentElement;
    const picture = figure.querySelector("img");
    const controls = spec.params.filter((parameter) => parameter.bind).map(control);
    // Vega gives a role and a name of its own to what it draws into.
    const canvas = element("div", { ariaHidden: "true" });
    const chart = element("div", { className: "vega-chart" }, canvas);
    const readout = element("p", { className: "vega-readout" });
    readout.setAttribute("aria-live", "polite");
    const panel = element("div", { className: "vega-controls", role: "group", ariaLabel: "Controls of this figure" });
    panel.append(...controls.map(({ label }) => label));
    figure.classList.add("interactive");
    data.after(chart, readout, panel);

    delete spec.title;
    delete spec.$schema;
    for (const parameter of spec.params) delete parameter.bind;
    spec.width = "container";
    spec.autosize = { type: "fit-x", contains: "padding" };
    spec.config = { ...spec.config, background: "transparent", aria: false };
    const draw = async () => {
      await loadVega();
      const { view } = await vegaEmbed(canvas, spec, { mode: "vega-lite", actions: false, renderer: "svg" });
      Object.assign(chart, { role: "img", ariaLabel: picture.alt });
      const update = async () => {
        for (const { name, read, show } of controls) {
          view.signal(name, read());
          show();
        }
        await view.runAsync();
        readout.textContent = [view.signal("readout")].flat().join(" ");
      };
      await update();
      panel.addEventListener("input", update);
      figure.classList.add("live");
    };
    let drawn;
    const once = () => drawn ??= draw().catch((error) => { panel.remove(); throw error; });
    panel.addEventListener("focusin", once);
    new IntersectionObserver((entries, observer) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        observer.disconnect();
        once();
      }
    }, { rootMargin: "600px" }).observe(figure);
  };

  document.querySelectorAll("script.vega-lite").forEach(start);
})();
