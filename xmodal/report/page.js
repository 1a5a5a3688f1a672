// Reads out a curve under the pointer. The page says all it has to say without this.
"use strict";
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const places = JSON.parse(svg.dataset.hover);
  if (!places.length) continue;
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("class", "pointer");
  const readout = document.createElement("div");
  readout.className = "readout";
  readout.setAttribute("aria-hidden", "true");
  const leave = () => { line.remove(); readout.remove(); };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const nearest = places.reduce((best, place) => Math.abs(place[0] - x) < Math.abs(best[0] - x) ? place : best);
    line.setAttribute("d", `M${nearest[0]} ${svg.dataset.top}V${svg.dataset.bottom}`);
    readout.textContent = nearest[1];
    readout.style.top = `${box.top - svg.parentElement.getBoundingClientRect().top}px`;
    svg.append(line);
    svg.parentElement.append(readout);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointercancel", leave);
}
