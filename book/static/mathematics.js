/* The text comes first, then its formulas: MathJax is asked for when the page has been painted, and sets them in turns
   that are too short to notice, so that the page scrolls and answers meanwhile. What is on the screen or near it comes
   first, wherever the reader goes; the rest follows from the top. */
(() => {
  const TURN = 8; // milliseconds
  const PARTS = ["core", "input/tex", "output/chtml", "a11y/assistive-mml"];
  const FONT = "output/chtml/fonts/tex"; // which the output asks for itself
  const here = document.currentScript.src;
  const file = (part) => new URL(`mathjax/${part}.js`, here).href;
  const config = (window.MathJax ??= {});
  const pause = () => new Promise((done) => { setTimeout(done); });
  // A page that is not seen is never painted.
  const painted = () => document.hidden ? pause()
    : new Promise((done) => { requestAnimationFrame(() => setTimeout(done)); });

  const element = (name, properties) => Object.assign(document.createElement(name), properties);

  const setFormulas = async () => {
    const left = new Set(document.querySelectorAll(".math, .output_area"));
    const near = new Set();
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) near[isIntersecting ? "add" : "delete"](target);
    }, { rootMargin: "50%" });
    left.forEach((formula) => observer.observe(formula));
    const next = (count) => {
      const chosen = [...new Set([...near, ...left])].slice(0, count);
      for (const formula of chosen) {
        observer.unobserve(formula);
        near.delete(formula);
        left.delete(formula);
      }
      return chosen;
    };
    let count = 4;
    while (left.size) {
      const start = performance.now();
      await MathJax.typesetPromise(next(document.hidden ? left.size : count));
      count = Math.max(1, Math.min(2 * count, Math.round(count * TURN / (performance.now() - start))));
      await pause();
    }
  };

  let moved = false;
  for (const sign of ["wheel", "touchmove", "keydown"]) {
    addEventListener(sign, () => { moved = true; }, { once: true, passive: true });
  }
  // What the address names has moved down, and a reader who has not moved yet wants to see it.
  const returnToPlace = () => {
    const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (place && !moved) place.scrollIntoView();
  };

  // Each part is a script of its own, as running all at once would take long.
  const load = () => new Promise((done, failed) => {
    config.loader = { ...config.loader, load: PARTS, failed };
    config.startup = { ...config.startup, pageReady: () => pause().then(setFormulas).then(done, failed) };
    const wanted = [...PARTS, FONT].map((part) => element("link", { rel: "preload", as: "script", href: file(part) }));
    document.head.append(...wanted);
    const onerror = () => failed(new Error("MathJax is out of reach"));
    document.head.append(element("script", { src: file("startup"), onerror }));
  });

  // Whoever waits for MathJax waits from now on, not from when it has come.
  config.startup = { promise: painted().then(load).then(returnToPlace) };
})();
