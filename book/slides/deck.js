"use strict";
(() => {
  const root = document.documentElement;
  const slides = [...document.querySelectorAll(".slide")];
  const bar = document.querySelector(".bar");
  const button = name => bar.querySelector(`[data-do="${name}"]`);
  const clamp = number => Math.max(1, Math.min(slides.length, number || 1));
  let now = 0;
  let partner = window.opener;

  // Text that is too much for its slide is made smaller, down to a half; what is still too much scrolls.
  function fit(slide) {
    const body = slide.querySelector("article");
    const over = () => body.scrollHeight > body.clientHeight + 1 || body.scrollWidth > body.clientWidth + 1
      || [...body.querySelectorAll("pre, div.math")].some(box => box.scrollWidth > box.clientWidth + 1);
    let size = 1;
    body.style.setProperty("--fit", size);
    if (slide !== slides[0]) {
      while (size > 0.5 && over()) body.style.setProperty("--fit", size = Math.round(20 * size - 1) / 20);
    }
    for (const box of [body, ...slide.querySelectorAll("pre, div.math, .notes")]) {
      const scrolls = box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1;
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  function show(number, { tell = true, focus = true } = {}) {
    number = clamp(number);
    if (number === now) return;
    now = number;
    slides.forEach((slide, k) => {
      slide.classList.toggle("shown", k + 1 === now);
      slide.inert = k + 1 !== now;
    });
    const slide = slides[now - 1];
    bar.querySelector(".place").textContent = `${now} / ${slides.length}`;
    const next = slides[now];
    bar.querySelector(".next").textContent = next ? `Next: ${next.getAttribute("aria-label").replace(/^.*?: /, "")}` : "The end";
    button("back").disabled = now === 1;
    button("on").disabled = now === slides.length;
    history.replaceState(null, "", `#${now}`);
    fit(slide);
    if (focus) slide.querySelector("h2").focus({ preventScroll: true });
    if (tell && partner && !partner.closed) partner.postMessage({ slide: now }, "*");
  }

  function notes(on) {
    root.classList.toggle("with-notes", on);
    button("notes").setAttribute("aria-pressed", String(on));
    for (const details of document.querySelectorAll(".notes > details")) details.open = true;
    fit(slides[now - 1]);
  }

  function clock() {
    const start = Date.now();
    const face = bar.querySelector(".clock");
    const tick = () => { face.textContent = `${Math.floor((Date.now() - start) / 60000)} min`; };
    tick();
    setInterval(tick, 5000);
  }

  const actions = {
    back: () => show(now - 1),
    on: () => show(now + 1),
    first: () => show(1),
    last: () => show(slides.length),
    theme: () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; },
    notes: () => notes(!root.classList.contains("with-notes")),
    speaker: () => { partner = window.open(`${location.href.split("#")[0]}#${now}`, "speaker", "popup,width=1100,height=700"); },
    screen: () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()),
  };
  const keys = {
    ArrowRight: "on", PageDown: "on", " ": "on", ArrowLeft: "back", PageUp: "back", Home: "first", End: "last",
    d: "theme", n: "notes", s: "speaker", f: "screen",
  };

  addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const at = event.target;
    // A choice, a button or a link keeps its own keys.
    if (at.matches("input") && /^(Arrow| )/.test(event.key)) return;
    if (at.matches("button, a, summary") && event.key === " ") return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = key === " " && event.shiftKey ? "back" : keys[key];
    if (!action) return;
    event.preventDefault();
    actions[action]();
  });
  bar.addEventListener("click", event => {
    const name = event.target.closest("button")?.dataset.do;
    if (name) actions[name]();
  });
  addEventListener("message", event => {
    if (event.source !== partner || !event.data) return;
    if (Number.isInteger(event.data.slide)) show(event.data.slide, { tell: false });
  });
  addEventListener("hashchange", () => show(Number(location.hash.slice(1))));
  addEventListener("resize", () => fit(slides[now - 1]));
  document.addEventListener("change", () => fit(slides[now - 1]));

  show(Number(location.hash.slice(1)), { tell: false, focus: false });
  if (partner) {
    notes(true);
    clock();
  }
  // Formulas take their place when MathJax has run.
  addEventListener("load", () => MathJax.startup.promise.then(() => fit(slides[now - 1])));
})();
