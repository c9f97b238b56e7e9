// Map, table and single examples, which show one another. Texts and labels go
// in as text, never as markup.
(async () => {
  const byId = id => document.getElementById(id);
  const bundle = new Blob(
    [byId('datatables').textContent], {type: 'text/javascript'});
  const address = URL.createObjectURL(bundle);
  const {default: DataTable} = await import(address);
  URL.revokeObjectURL(address);

  const {columns, names, layers, tokens} =
    JSON.parse(byId('examples-data').textContent);
  const count = columns.id.length;
  const all = [...columns.id.keys()];
  const name = (kind, at) =>
    names[kind] && columns[kind][at] >= 0 ? names[kind][columns[kind][at]] : '';
  const number = (x, digits = 3) => x === null ? '–' : x.toFixed(digits);
  const interval = (low, high) =>
    low === null ? '' : `[${low.toFixed(3)}, ${high.toFixed(3)}]`;
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const colour = variable =>
    getComputedStyle(document.documentElement).getPropertyValue(variable).trim();

  // The table.
  const text = DataTable.render.text();
  const numeric = key => ({
    data: at => columns[key][at],
    render: (value, type) => type === 'display' ? number(value) : value,
    className: 'dt-right', searchable: false, type: 'num',
  });
  const word = (title, data, more = {}) => ({title, data, render: text, ...more});
  const shown = [
    word('Id', at => columns.id[at]),
    word('Text', at => columns.text[at], {className: 'text'}),
    word('Given', at => name('given', at)),
    ...(columns.noisy.some(x => x)
      ? [word('Original', at => columns.noisy[at] ? name('original', at) : '')]
      : []),
    ...(names.category
      ? [word('Suggested', at => name('suggested', at)),
        word('Do what', at => name('category', at))]
      : []),
    {title: 'Memorised', ...numeric('memorisation')},
    {title: 'Lower end', ...numeric('low')},
    {title: 'Trained on it', ...numeric('seen')},
    {title: 'Not trained on it', ...numeric('unseen')},
  ];
  const header = byId('examples-table').createTHead().insertRow();
  for (const {title} of shown) {
    header.appendChild(element('th', '', title)).scope = 'col';
  }
  const listed = new Set(['Given', 'Original', 'Suggested', 'Do what']);
  const lowest = shown.findIndex(each => each.title === 'Lower end');
  const table = new DataTable(byId('examples-table'), {
    data: all, columns: shown, order: [[lowest, 'desc']], pageLength: 10,
    deferRender: true, autoWidth: false, processing: false,
    lengthMenu: [10, 25, 100],
    layout: {
      topStart: {buttons: [{extend: 'csvHtml5', text: 'Download as CSV',
        title: null, filename: 'examples',
        exportOptions: {modifier: {search: 'applied', order: 'applied'},
          orthogonal: 'export'}}]},
      topEnd: 'search', bottomStart: ['info', 'pageLength'],
      bottomEnd: 'paging',
    },
    columnDefs: [
      {targets: shown.flatMap(({title}, at) => listed.has(title) ? [at] : []),
        columnControl: ['order', ['searchList']]},
      {targets: [0, 1], columnControl: ['order', ['search']]},
      {targets: '_all', columnControl: ['order']},
    ],
    ordering: {indicators: false, handler: false},
    language: {search: 'Find', emptyTable: 'No examples'},
    createdRow: (row, at) => {
      row.tabIndex = 0;
      row.dataset.place = at;
    },
  });
  const order = () =>
    table.rows({search: 'applied', order: 'applied'}).data().toArray();

  // The map.
  const map = byId('map');
  const groups = [
    ['original label', 'circle', 6,
      at => !columns.noisy[at] && name('kind', at) !== 'exception'],
    ['exception', 'triangle-up', 9,
      at => !columns.noisy[at] && name('kind', at) === 'exception'],
    ['noisy label', 'diamond', 8, at => columns.noisy[at]],
  ].map(([label, symbol, size, belongs]) =>
    ({label, symbol, size, places: all.filter(belongs)}))
    .filter(group => group.places.length);
  const dark = matchMedia('(prefers-color-scheme: dark)');
  // What is memorised stands out from the page.
  const scale = () => dark.matches
    ? [[0, '#24435f'], [0.5, '#5b9bd0'], [1, '#e3f2ff']]
    : [[0, '#d9e5ee'], [0.5, '#6fa6cc'], [1, '#0a3566']];
  const kinds = {'original label': '#56b4e9', 'exception': '#e69f00',
    'noisy label': '#d55e00'};
  const brief = at => columns.text[at].length > 80
    ? `${columns.text[at].slice(0, 80)}…` : columns.text[at];
  // Plotly reads some markup in texts.
  const plain = string => string.replace(/&/g, '&amp;').replace(/</g, '&lt;');
  const traces = by => groups.map(({label, symbol, size, places}, at) => ({
    type: 'scattergl', mode: 'markers', name: `${label} (${places.length})`,
    x: places.map(i => columns.unseen[i]),
    y: places.map(i => columns.seen[i]),
    customdata: places,
    text: places.map(i => plain(`${columns.id[i]}: ${name('given', i)}`) +
      `<br>memorisation ${number(columns.memorisation[i])} ` +
      `${interval(columns.low[i], columns.high[i])}<br>${plain(brief(i))}`),
    hoverinfo: 'text',
    marker: {
      symbol, size,
      line: {width: 0.6, color: label === 'noisy label' ? '#d55e00' : '#5b6673'},
      ...(by === 'memorisation'
        ? {color: places.map(i => columns.memorisation[i]), colorscale: scale(),
          cmin: 0, cmax: 1, showscale: at === 0,
          colorbar: {title: {text: 'Memorisation', side: 'right'},
            thickness: 12, outlinewidth: 0}}
        : {color: kinds[label]}),
    },
  }));
  const axis = title => ({
    title: {text: title}, range: [-0.03, 1.03], zeroline: false,
    gridcolor: colour('--line'), constrain: 'domain',
  });
  const layout = () => ({
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: {color: colour('--ink'), family: 'system-ui, sans-serif'},
    margin: {l: 60, r: 10, t: 10, b: 50}, height: 460, hovermode: 'closest',
    dragmode: 'select', legend: {orientation: 'h', y: -0.18},
    hoverlabel: {align: 'left'},
    xaxis: axis('p(given label), runs without the example'),
    yaxis: axis('p(given label), runs with the example'),
    shapes: [{type: 'line', x0: 0, y0: 0, x1: 1, y1: 1,
      line: {color: colour('--soft'), width: 1, dash: 'dash'}}],
  });
  const options = {displayModeBar: false, responsive: true};
  const colouring = byId('map-colour');
  const draw = () =>
    Plotly.react(map, traces(colouring.value), layout(), options);
  map.replaceChildren();
  await draw();
  colouring.addEventListener('change', draw);

  // What is marked in the map is what the table lists.
  const clear = byId('map-clear');
  const choose = places => {
    if (places === null) table.search.fixed('map', null);
    else {
      const chosen = new Set(places);
      table.search.fixed('map', (_, at) => chosen.has(at));
    }
    clear.hidden = places === null;
    table.draw();
  };
  map.on('plotly_selected', event => {
    if (event && event.points.length) {
      choose(event.points.map(point => point.customdata));
    }
  });
  clear.addEventListener('click', () => {
    choose(null);
    draw();
  });

  // One example.
  let current = null;
  const detail = byId('detail');
  const placeOf = new Map((layers ? layers.places : []).map((at, i) => [at, i]));
  const strongest = Math.max(1e-9, ...Object.values(tokens).flat()
    .map(([, contrast]) => Math.abs(contrast)));
  const words = at => {
    const paragraph = element('p', 'example');
    for (const [piece, contrast] of tokens[at] || [[columns.text[at], null]]) {
      const span = paragraph.appendChild(element('span', 'token', piece));
      if (contrast === null) continue;
      const strength = 0.65 * Math.min(1, Math.abs(contrast) / strongest);
      const hue = contrast > 0 ? '213, 94, 0' : '0, 114, 178';
      span.style.background = `rgba(${hue}, ${strength})`;
      span.title = contrast.toFixed(3);
    }
    return paragraph;
  };
  const facts = at => {
    const list = element('dl', 'facts');
    const add = (term, value) => {
      if (value === '') return;
      list.append(element('dt', '', term), element('dd', '', value));
    };
    add('Given label', name('given', at));
    if (columns.noisy[at]) add('Right label', name('original', at));
    add('Kind', name('kind', at));
    if (name('category', at) !== 'keep') {
      add('Suggested', [name('suggested', at), name('category', at)]
        .filter(x => x).join(', '));
    }
    add('Memorisation', `${number(columns.memorisation[at])} ` +
      interval(columns.low[at], columns.high[at]));
    add('Trained on it',
      `${number(columns.seen[at])} (${columns.inRuns[at]} runs)`);
    add('Not trained on it',
      `${number(columns.unseen[at])} (${columns.outRuns[at]} runs)`);
    if (columns.alike && columns.alike[at]) {
      add('Near-duplicates', String(columns.alike[at]));
    }
    const row = placeOf.get(at);
    if (row !== undefined) {
      add(`Over ${layers.pairs} pairs`, `${number(layers.memorisation[row])} ` +
        interval(layers.low[row], layers.high[row]));
      if (layers.depth[row] !== null) {
        add('Depth', `half of it lies up to layer ${layers.depth[row]}`);
      }
    }
    return list;
  };
  const profile = async (at, place) => {
    const row = placeOf.get(at);
    if (row === undefined) return;
    const shares = layers.shares[row];
    place.setAttribute('role', 'img');
    place.setAttribute('aria-label', 'Share of the memorisation by layer: ' +
      shares.map((s, i) => `${layers.players[i]}: ${s}`).join(', '));
    await Plotly.newPlot(place, [{
      type: 'bar', x: layers.players, y: shares,
      error_y: {type: 'data', array: layers.errors[row], thickness: 1.5,
        color: colour('--ink')},
      marker: {color: shares.map(s => s < 0 ? '#d55e00' : '#0072b2')},
      hovertemplate: 'layer %{x}: %{y:.3f}<extra></extra>',
    }], {
      ...layout(), height: 230, shapes: [],
      margin: {l: 55, r: 10, t: 10, b: 40}, dragmode: false,
      xaxis: {title: {text: 'Layer'}, type: 'category', fixedrange: true},
      yaxis: {title: {text: 'Share'}, fixedrange: true,
        gridcolor: colour('--line'), zerolinecolor: colour('--soft')},
    }, options);
  };
  const show = at => {
    current = at;
    const figure = element('div', 'profile');
    detail.replaceChildren(
      element('h3', '', columns.id[at]), words(at), facts(at), figure);
    profile(at, figure);
    for (const row of document.querySelectorAll('#examples-table tbody tr')) {
      row.classList.toggle('shown', row.dataset.place === String(at));
    }
  };
  const step = by => {
    const places = order();
    if (!places.length) return;
    const at = places.indexOf(current);
    // One that is not listed has no neighbours.
    const next = at < 0 ? (by > 0 ? 0 : places.length - 1)
      : (at + by + places.length) % places.length;
    show(places[next]);
  };
  byId('previous').addEventListener('click', () => step(-1));
  byId('next').addEventListener('click', () => step(1));
  map.on('plotly_click', event => show(event.points[0].customdata));
  const rows = byId('examples-table').tBodies[0];
  const open = event => {
    const row = event.target.closest('tr[data-place]');
    if (row) show(Number(row.dataset.place));
  };
  rows.addEventListener('click', open);
  rows.addEventListener('keydown', event => {
    if (event.key === 'Enter') open(event);
  });
  show(order()[0]);

  // Dark and light.
  const theme = () => {
    document.documentElement.classList.toggle('dark', dark.matches);
    draw();
    show(current);
  };
  dark.addEventListener('change', theme);
  document.documentElement.classList.toggle('dark', dark.matches);
  document.documentElement.dataset.ready = count;
})();
