// A classic script, run before the first paint: the theme that was chosen last, if any.
try {
  const chosen = localStorage.getItem("playground-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's theme it is.
}
