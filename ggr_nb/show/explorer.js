// What turns the panels of an explorer into pictures in a browser. An expression whose value is the function `mount`.
// Lines are trimmed, and comments that have a line to themselves left out, before this travels (`explorer.runtime`).
(() => {
// --- text and numbers ---
const esc = t => String(t).replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
const cut = (t, n) => t.length <= n ? t : t.slice(0, n / 2 - 1) + '…' + t.slice(-n / 2);
const bare = t => t.replace(/\.weight$/, '');
const short = v => {
  const a = Math.abs(v);
  for (const [unit, size] of [['G', 1e9], ['M', 1e6], ['k', 1e3]])
    if (a >= size) return +(v / size).toPrecision(3) + ' ' + unit;
  return v && a < 1e-3 ? v.toExponential(0).replace('e-', 'e−') : String(+v.toPrecision(3));
};
const full = v => v == null ? '–' : Number.isInteger(v) ? v.toLocaleString('en')
  : v && Math.abs(v) < 1e-3 ? v.toExponential(2) : String(+v.toPrecision(4));

// --- axes: from data to pixels, ticks, names ---
const scale = (lo, hi, a, b, log) => {
  const f = log ? Math.log10 : v => v;
  return v => a + (b - a) * (f(v) - f(lo)) / (f(hi) - f(lo) || 1);
};
const color = s => `var(--s${s.slot})`;
const axes = (p, W, foot) => {
  const H = p.height || 230, widest = Math.max(...p.yticks.map(v => short(v).length));
  const a = {W, H, left: 14 + 6.6 * widest, right: W - 10, top: p.ylabel ? 26 : 12, bottom: H - foot, points: []};
  a.y = scale(...p.ylim, a.bottom, a.top, p.log[1]);
  a.out = p.ylabel ? `<text x=2 y=12 class=unit>${esc(p.ylabel)}</text>` : '';
  for (const v of p.yticks)
    a.out += `<path class=gl d="M${a.left} ${a.y(v)}H${a.right}"/>`
      + `<text class=tick text-anchor=end x=${a.left - 6} y=${a.y(v) + 4}>${short(v)}</text>`;
  if (p.xlabel) a.out += `<text class=unit text-anchor=middle x=${(a.left + a.right) / 2} y=${H - 4}>${esc(p.xlabel)}</text>`;
  if (p.hline != null) a.out += `<path class=rule d="M${a.left} ${a.y(p.hline)}H${a.right}"/>`;
  return a;
};

// --- series differ in shape as well as in colour ---
const mark = (i, x, y, r = 4) => [
  `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  `M${x} ${y - 1.3 * r}l${1.3 * r} ${1.3 * r}l${-1.3 * r} ${1.3 * r}l${-1.3 * r} ${-1.3 * r}z`,
  `M${x} ${y - 1.2 * r}l${1.2 * r} ${2.1 * r}h${-2.4 * r}z`,
  `M${x} ${y + 1.2 * r}l${1.2 * r} ${-2.1 * r}h${-2.4 * r}z`][i % 5];
const dash = i => ['', '7 3', '2 3', '9 3 2 3', '4 2'][i % 5];
const key = p => p.series.length < 2 ? '' : '<ul class=key>' + p.series.map((s, i) =>
  `<li><svg width=22 height=12 aria-hidden=true>` + (p.mode == 'line' || p.mode == 'step'
    ? `<path d="M1 6H21" stroke="${color(s)}" stroke-width=2.4 stroke-dasharray="${dash(i)}"/>`
    : `<path d="${mark(p.mode == 'bars' || p.mode == 'stack' ? 1 : i, 11, 6, 4.5)}" fill="${color(s)}"/>`)
  + `</svg>${esc(s.label)}</li>`).join('') + '</ul>';

// --- curves: a gap where a value is missing; every point remembers its sentence ---
const curves = (p, W) => {
  const a = axes(p, W, p.xlabel ? 40 : 24), x = scale(...p.xlim, a.left + 6, a.right - 6, p.log[0]);
  for (const v of p.xticks) a.out += `<text class=tick text-anchor=middle x=${x(v)} y=${a.bottom + 16}>${short(v)}</text>`;
  if (p.vline != null) a.out += `<path class=rule d="M${x(p.vline)} ${a.top}V${a.bottom}"/>`;
  p.series.forEach((s, i) => {
    let d = '', pen = 'M';
    s.y.forEach((v, j) => {
      if (v == null || p.log[1] && v <= 0) { pen = 'M'; return; }
      const px = x(s.x[j]), py = a.y(v);
      d += p.mode == 'points' ? mark(i, px, py, 3) : pen == 'L' && p.mode == 'step' ? `H${px}V${py}` : `${pen}${px} ${py}`;
      pen = 'L';
      a.points.push([px, py, `${s.label}: ${full(v)}${p.xlabel ? ` at ${p.xlabel} ${full(s.x[j])}` : ''}`]);
    });
    a.out += p.mode == 'points' ? `<path d="${d}" fill="${color(s)}"/>`
      : `<path d="${d}" fill=none stroke="${color(s)}" stroke-width=2.2 stroke-linejoin=round stroke-dasharray="${dash(i)}"/>`;
  });
  return a;
};

// --- bars, dots and stacks over names: flat where they fit, turned where they are many, numbered beyond that ---
const bars = (p, W) => {
  const tags = p.names.map(t => cut(bare(t), 18)), letters = 6.4 * Math.max(...tags.map(t => t.length)), n = tags.length;
  const room = (W - 50) / n, flat = letters < room, turned = !flat && room >= 12;
  const under = (turned ? 14 + letters : 22) + (p.xlabel ? 18 : 0);
  const a = axes({...p, height: 190 + under}, W, under), band = (a.right - a.left) / n, x = i => a.left + band * (i + .5);
  tags.forEach((t, i) => {
    if (!flat && !turned && i % Math.ceil(24 / band)) return;
    a.out += `<text class=tick ` + (turned ? `text-anchor=end transform="translate(${x(i) + 4} ${a.bottom + 8}) rotate(-90)"`
      : `text-anchor=middle x=${x(i)} y=${a.bottom + 16}`) + `>${esc(flat || turned ? t : i + 1)}</text>`;
  });
  const top = p.names.map(() => 0), zero = p.log[1] ? a.bottom : a.y(Math.max(0, p.ylim[0])), k = p.series.length;
  p.series.forEach((s, i) => {
    let solid = '', hollow = '', rings = '';
    s.y.forEach((v, j) => {
      if (v == null) return;
      const none = p.log[1] && v <= 0, why = Object.keys(s.flags || {}).find(t => s.flags[t].includes(j));
      let px = x(j), py = none ? a.bottom : a.y(v), w = band * .78;
      if (p.mode == 'dots') {
        if (k < 6 && n < 25) px += w * .45 * ((i + .5) / k - .5);
        const dot = mark(i, px, py, band < 9 ? 2.4 : 3.6);
        if (none) hollow += dot; else solid += dot;
      } else if (p.mode == 'stack') {
        const lo = a.y(top[j]);
        py = a.y(top[j] += v); solid += `M${px - w / 2} ${lo}V${py}h${w}V${lo}z`;
      } else {
        px += w * ((i + .5) / k - .5); w /= k; solid += `M${px - w / 2} ${zero}V${py}h${w}V${zero}z`;
      }
      if (why) rings += `<path class="ring${why[0] == '!' ? ' bad' : ''}" d="${mark(0, px, py, band < 9 ? 4.5 : 6.5)}"/>`;
      a.points.push([px, py, `${p.names[j]}, ${s.label}: ${full(v)}${why ? ' – ' + why.replace('!', '') : ''}`]);
    });
    a.out += `<path d="${solid}" fill="${color(s)}"/><path d="${hollow}" fill="var(--card)" stroke="${color(s)}"/>` + rings;
  });
  return a;
};

// --- masks: one rectangle per cell, a hairline between cells that are large enough to count ---
const classOf = m => Uint8Array.from(m.cells, c => parseInt(c, 36));
const masks = (p, box, W) => {
  const many = p.items.length, room = Math.max(120, many > 1 ? W / Math.min(many, W > 520 ? 4 : 2) - 12 : W);
  for (const m of p.items) {
    const s = Math.max(1, Math.min(p.cell || 14, room / m.w | 0)), gap = s > 6 ? 1 : 0, c = document.createElement('canvas');
    c.width = m.w * s; c.height = m.h * s; c.setAttribute('role', 'img'); c.setAttribute('aria-label', m.label);
    const g = c.getContext('2d');
    g.fillStyle = p.palette[0]; g.fillRect(0, 0, c.width, c.height);
    classOf(m).forEach((k, i) => {
      g.fillStyle = gap && !k ? '#262d38' : p.palette[k];
      if (k || gap) g.fillRect(i % m.w * s, (i / m.w | 0) * s, s - gap, s - gap);
    });
    const tile = document.createElement('div');
    tile.className = 'tile'; tile.innerHTML = `<span>${esc(m.label)}</span>`; tile.append(c); box.append(tile);
  }
  if (p.palette.length > 2 && p.key !== false) box.insertAdjacentHTML('beforeend', '<ul class=key>' + p.classes.map((t, i) =>
    `<li><i style="background:${p.palette[i]}"></i>${esc(t)}</li>`).join('') + '</ul>');
};

// --- a panel: heading, key, drawing, and a tip that follows a pointer or a finger ---
const panel = (p, box, W, say) => {
  box.innerHTML = (p.title ? `<p class=name>${esc(p.title)}</p>` : '') + (p.series ? key(p) : '');
  if (p.kind == 'frame') { box.insertAdjacentHTML('beforeend', `<img alt="${esc(p.alt || say)}" src="${p.src}">`); return; }
  const body = document.createElement('div'); body.className = p.kind; box.append(body);
  if (p.kind == 'masks') { masks(p, body, W); return; }
  const a = (p.kind == 'bars' ? bars : curves)(p, W);
  body.innerHTML = `<svg width=${a.W} height=${a.H} role=img aria-label="${esc(p.title || say)}">${a.out}</svg><span class=hover hidden></span>`;
  const tip = body.lastChild;
  body.onpointermove = body.onpointerdown = e => {
    const r = body.getBoundingClientRect(), x = e.clientX - r.left, y = e.clientY - r.top;
    const best = a.points.reduce((b, q) => { const d = Math.hypot(q[0] - x, q[1] - y); return d < b[0] ? [d, q] : b; }, [40, null])[1];
    tip.hidden = !best;
    if (!best) return;
    tip.textContent = best[2]; tip.style.top = best[1] - 34 + 'px';
    tip.style.left = Math.max(0, Math.min(best[0] + 8, W - tip.offsetWidth - 4)) + 'px';
  };
  body.onpointerleave = () => { tip.hidden = true; };
};

// --- the same numbers as a table, for whoever cannot see the drawing ---
// Tags are put together by a function: Quarto looks for the text of an opening table tag and does not ask whether it stands in a script.
const tag = (t, inner, more = '') => `<${t}${more}>${inner}</${t}>`;
const tab = (head, rows) => tag('table', tag('thead', tag('tr', head.map(h => tag('th', esc(h), ' scope=col')).join('')))
  + tag('tbody', rows.map(row => tag('tr', row.map((c, i) => {
    const text = typeof c == 'number' ? full(c) : i ? '–' : esc(c);
    return i ? tag('td', text) : tag('th', text, ' scope=row'); }).join(''))).join('')));
const table = panels => panels.map(p => {
  if (p.kind == 'frame') return '';
  if (p.kind == 'masks') return tab([p.title || 'grid', ...p.classes], p.items.map(m => {
    const v = classOf(m); return [m.label, ...p.classes.map((_, i) => v.reduce((n, k) => n + (k == i), 0))]; }));
  const x = p.kind == 'bars' ? p.names : [...new Set(p.series.flatMap(s => s.x))].sort((a, b) => a - b);
  const at = (s, i) => s.y[p.kind == 'bars' ? i : s.x.indexOf(x[i])];
  return tab([p.xlabel || 'name', ...p.series.map(s => s.label)], x.map((t, i) => [t, ...p.series.map(s => at(s, i))]));
}).join('');

// --- mounting: read the data, put the knobs in place, draw; again when a knob moves or the width changes ---
const inflate = async t => new Response(new Blob([Uint8Array.from(atob(t), c => c.charCodeAt(0))]).stream()
  .pipeThrough(new DecompressionStream('deflate'))).text();
return async root => {
  if (!root || root.dataset.on) return;
  root.dataset.on = 1;
  const $ = q => root.querySelector(q), {panels, states, sizes} = JSON.parse(await inflate($('script[type="text/ggr"]').textContent));
  const stage = $('.stage'), bar = document.createElement('div');
  bar.className = 'knobs'; bar.innerHTML = $('script[type="text/knobs"]').textContent; stage.before(bar);
  $('.say').insertAdjacentHTML('afterend', '<details><summary>Numbers</summary><div role=region aria-label=Numbers tabindex=0></div></details>');
  const knobs = [...bar.querySelectorAll('.knob')], more = $('details');
  const read = k => k.querySelector('input:checked') || k.querySelector('input,select');
  const draw = () => {
    const at = knobs.reduce((n, k, i) => n * sizes[i] + +read(k).value, 0), note = states[at][0], now = states[at][1].map(i => panels[i]);
    $('.say').textContent = note; stage.dataset.state = at;
    stage.replaceChildren(...now.map(p => Object.assign(document.createElement('div'), {className: 'pan' + (p.wide ? ' wide' : '')})));
    now.forEach((p, i) => panel(p, stage.children[i], stage.children[i].clientWidth, note));
    if (more.open) more.lastElementChild.innerHTML = table(now);
  };
  knobs.forEach(k => k.addEventListener('input', () => {
    const e = read(k), out = k.querySelector('output');
    if (out) { out.value = JSON.parse(k.dataset.names)[e.value]; e.setAttribute('aria-valuetext', out.value); }
    draw();
  }));
  more.ontoggle = draw;
  let width = 0;
  new ResizeObserver(() => { if (stage.clientWidth && stage.clientWidth != width) { width = stage.clientWidth; draw(); } }).observe(root);
  root.classList.add('on'); draw();
};
})()
