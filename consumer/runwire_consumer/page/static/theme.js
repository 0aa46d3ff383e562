// Dark or light before anything is painted: what was chosen here, else what the system says.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("runwire.theme");
  } catch {
    // Storage is switched off: the system's choice holds.
  }
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
