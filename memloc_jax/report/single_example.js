// Shows the chosen example; all text goes in as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const select = document.getElementById('example');
  const shown = document.getElementById('shown');
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const place = (part, from, to) => {
    part.style.left = `${100 * Math.min(from, to)}%`;
    part.style.width = `${100 * Math.abs(to - from)}%`;
    return part;
  };
  // From a share to a place between the ends of the track.
  const lowest = Math.min(
    0, ...data.examples.flatMap(e => e.shares.map(([s, se]) => s - se)));
  const at = share => (share - lowest) / (data.limit.share - lowest);

  const profile = example => {
    const table = element('table', 'profile');
    const body = table.appendChild(element('tbody'));
    example.shares.forEach(([share, error], player) => {
      const row = body.appendChild(element('tr'));
      row.appendChild(element('td', 'nowrap', data.players[player]));
      const track = row.appendChild(element('td', 'track'));
      const bar = element('div', share < 0 ? 'bar negative' : 'bar');
      track.appendChild(place(bar, at(0), at(share)));
      const whisker = element('div', 'error');
      track.appendChild(place(whisker, at(share - error), at(share + error)));
      const zero = track.appendChild(element('div', 'zero'));
      zero.style.left = `${100 * at(0)}%`;
      row.appendChild(element('td', 'number', share.toFixed(3)));
    });
    return table;
  };

  const text = example => {
    const paragraph = element('p', 'text');
    for (const [token, contrast] of example.tokens) {
      const span = paragraph.appendChild(element('span', 'token', token));
      if (contrast === null) continue;
      const strength = Math.min(1, Math.abs(contrast) / data.limit.contrast);
      const colour = contrast > 0 ? '213, 94, 0' : '0, 114, 178';
      span.style.background = `rgba(${colour}, ${0.65 * strength})`;
      span.title = contrast.toFixed(3);
    }
    return paragraph;
  };

  const show = () => {
    const example = data.examples[select.selectedIndex];
    shown.replaceChildren(
      text(example),
      ...example.lines.map(line => element('p', '', line)),
      profile(example));
  };
  const step = by => {
    const count = data.examples.length;
    select.selectedIndex = (select.selectedIndex + by + count) % count;
    show();
  };
  for (const example of data.examples) {
    select.appendChild(element('option', '', example.title));
  }
  select.addEventListener('change', show);
  document.getElementById('previous').addEventListener('click', () => step(-1));
  document.getElementById('next').addEventListener('click', () => step(1));
  show();
})();
