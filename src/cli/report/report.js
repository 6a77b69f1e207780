// Values under the pointer, and smoothing. Each chart carries its axes and its points.
const charts = [...document.querySelectorAll('svg[data-chart]')].map(svg => {
  const chart = JSON.parse(svg.dataset.chart);
  const map = (axis, value) =>
    axis.from + ((axis.log ? Math.log10(Math.max(value, 1e-300)) : value) - axis.low) / (axis.high - axis.low) * (axis.to - axis.from);
  // A single value is a dot.
  const drawn = [...svg.querySelectorAll('polyline')];
  const lines = chart.series.map(series => series.points.length > 1 ? drawn.shift() : null);
  return { svg, chart, map, lines, shown: chart.series.map(one => one.points) };
});
const smoothed = (points, keep) => {
  let sum = 0, weight = 0;
  return points.map(([x, y]) => {
    sum = keep * sum + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return [x, sum / weight];
  });
};
const short = value => Number(value.toPrecision(5)).toString();
const slider = document.getElementById('smooth');
const smooth = () => {
  for (const one of charts) {
    one.svg.querySelectorAll('.raw').forEach(line => line.remove());
    one.shown = one.chart.series.map((series, i) => {
      const points = smoothed(series.points, +slider.value), line = one.lines[i];
      if (!line) return points;
      if (+slider.value > 0) {
        const raw = line.cloneNode();
        raw.classList.add('raw', 'thin');
        raw.style.opacity = 0.3;
        raw.setAttribute('points', line.dataset.raw ??= line.getAttribute('points'));
        line.before(raw);
      }
      line.setAttribute('points', points.map(([x, y]) =>
        `${one.map(one.chart.x, x).toFixed(1)},${one.map(one.chart.y, y).toFixed(1)}`).join(' '));
      return points;
    });
  }
};
slider.addEventListener('input', smooth);
// A page that asks for itself anew keeps its smoothing.
try {
  slider.value = sessionStorage.getItem('smooth') ?? 0;
  slider.addEventListener('input', () => sessionStorage.setItem('smooth', slider.value));
} catch { /* a browser that stores nothing */ }
if (+slider.value > 0) smooth();
const note = document.createElement('div');
note.className = 'tip';
document.body.append(note);
for (const one of charts) {
  const ruler = one.svg.querySelector('.grid').cloneNode();
  one.svg.addEventListener('pointerleave', () => { note.style.display = 'none'; ruler.remove(); });
  one.svg.addEventListener('pointermove', event => {
    const box = one.svg.getBoundingClientRect(), axis = one.chart.x;
    const at = (event.clientX - box.left) / box.width * one.svg.viewBox.baseVal.width;
    const inner = (at - axis.from) / (axis.to - axis.from) * (axis.high - axis.low) + axis.low;
    const wanted = axis.log ? 10 ** inner : inner;
    const near = one.shown.map(points =>
      points.reduce((best, point) => Math.abs(point[0] - wanted) < Math.abs(best[0] - wanted) ? point : best, points[0]));
    const rows = one.chart.series.map((series, i) => [series, near[i]]).filter(([, point]) => point);
    if (!rows.length) return;
    const x = one.map(axis, rows[0][1][0]);
    for (const [name, value] of [['x1', x], ['x2', x], ['y1', one.chart.y.from], ['y2', one.chart.y.to]]) ruler.setAttribute(name, value);
    one.svg.append(ruler);
    note.replaceChildren(`${one.chart.across} ${short(rows[0][1][0])}`, ...rows.map(([series, point]) => {
      const row = document.createElement('div'), key = document.createElement('span');
      key.className = `key b${series.colour}`;
      row.append(key, `${series.name}: ${short(point[1])}`);
      return row;
    }));
    note.style.display = 'block';
    const right = event.clientX + 16 + note.offsetWidth < innerWidth;
    note.style.left = `${right ? event.clientX + 16 : event.clientX - 16 - note.offsetWidth}px`;
    note.style.top = `${event.clientY + 12}px`;
  });
}
