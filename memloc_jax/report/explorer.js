// Map, table and single examples, which show one another. Texts and labels go
// in as text, never as markup.
(async () => {
  const byId = id => document.getElementById(id);
  const bundle = new Blob(
    [byId('datatables').textContent], {type: 'text/javascript'});
  const address = URL.createObjectURL(bundle);
  const {default: DataTable} = await import(address);
  URL.revokeObjectURL(address);

  const {columns, names, layers, tokens, review, terms} =
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

  const number2 = x => number(x, 2);

  // Decisions on labels, which stay in this browser.
  const decided = new Map(review.decided.map(([at, ...rest]) => [at, rest]));
  const store = review.key && `memloc ${review.key}`;
  try {
    for (const [at, ...rest] of JSON.parse(localStorage.getItem(store)) || []) {
      decided.set(at, rest);
    }
  } catch {}  // Not every browser keeps something of a file.
  // The rows that `memloc check` asks for, and their order.
  const sample = new Map(review.sample.map((at, i) => [at, i]));
  const complete = ([decision, label]) => decision !== 'relabel' || label;
  const summary = () => {
    const done = [...decided.values()].filter(complete).length;
    const ofSample = review.sample
      .filter(at => decided.has(at) && complete(decided.get(at))).length;
    byId('reviewed').textContent = !done ? '' : `${done} decided` +
      (sample.size ? `, ${ofSample} of ${sample.size} of the sample` : '');
    byId('download-review').disabled = !done;
    byId('next-step').hidden = !done;
  };
  const decide = (at, decision, label = '') => {
    if (decision) decided.set(at, [decision, label]);
    else decided.delete(at);
    if (store) {
      try {
        localStorage.setItem(store, JSON.stringify(
          [...decided].map(([at, rest]) => [at, ...rest])));
      } catch {}
    }
    summary();
  };
  const other = at => {
    const suggested = name('suggested', at);
    return suggested === name('given', at) ? '' : suggested;
  };
  const decision = at => {
    const group = element('div', 'decision');
    group.setAttribute('role', 'group');
    group.setAttribute('aria-label', `Decision on ${columns.id[at]}`);
    const draw = () => {
      const [chosen, label] = decided.get(at) || [];
      group.replaceChildren(...['keep', 'relabel', 'drop'].map(word => {
        const button = element('button', '', word);
        button.type = 'button';
        button.setAttribute('aria-pressed', chosen === word);
        button.addEventListener('click', () => {
          if (chosen === word) decide(at, '');
          else decide(at, word, word === 'relabel' ? other(at) : '');
          draw();
          group.querySelectorAll('button')[
            ['keep', 'relabel', 'drop'].indexOf(word)].focus();
        });
        return button;
      }));
      if (chosen !== 'relabel') return;
      const select = group.appendChild(element('select'));
      select.setAttribute('aria-label', `New label of ${columns.id[at]}`);
      for (const each of ['', ...review.labels]) {
        if (each === name('given', at)) continue;
        const option = select.appendChild(
          element('option', '', each || 'which label?'));
        option.value = each;
        option.selected = each === label;
      }
      select.addEventListener('change', () =>
        decide(at, 'relabel', select.value));
    };
    draw();
    return group;
  };
  const cell = value => /[",\r\n]/.test(value)
    ? `"${value.replaceAll('"', '""')}"` : value;
  byId('download-review').addEventListener('click', () => {
    // Guarded as in triage.csv, since spreadsheets change some texts.
    const guarded = value => review.guarded[value] || value;
    const rows = all.filter(at => decided.has(at) && complete(decided.get(at)))
      .map(at => {
        const [word, label] = decided.get(at);
        return [guarded(columns.id[at]), review.index[at], review.hash[at],
          guarded(name('given', at)), word, guarded(label)];
      });
    const lines = [['id', 'index', 'hash', 'given', 'decision', 'new_label'],
      ...rows].map(row => row.map(value => cell(String(value))).join(','));
    const link = element('a');
    link.href = URL.createObjectURL(
      new Blob([`${lines.join('\r\n')}\r\n`], {type: 'text/csv'}));
    link.download = 'reviewed.csv';
    link.click();
    URL.revokeObjectURL(link.href);
  });

  // The list.
  const text = DataTable.render.text();
  const numeric = (title, key, low, high) => ({
    title, data: at => columns[key][at],
    render: (value, type, at) => type !== 'display' ? value
      : low ? `${number2(value)} <span class="interval">${
        interval2(columns[low][at], columns[high][at])}</span>`
        : number2(value),
    className: 'dt-right', searchable: false, type: 'num',
  });
  const interval2 = (low, high) =>
    low === null ? '' : `[${low.toFixed(2)}, ${high.toFixed(2)}]`;
  const word = (title, data, more = {}) => ({title, data, render: text, ...more});
  const hidden = (title, key) => ({
    title, data: at => columns[key][at], visible: false, searchable: false,
    type: 'num',
  });
  const shown = [
    word('Id', at => columns.id[at], {className:
      columns.id.every(id => id.length <= 20) ? 'id nowrap' : 'id'}),
    word('Text', at => columns.text[at], {className: 'text'}),
    word('Given label', at => name('given', at)),
    ...(columns.noisy.some(x => x)
      ? [word('True label', at => columns.noisy[at] ? name('original', at) : '')]
      : []),
    ...(names.category
      ? [word('Suggested label', at => name('category', at) === 'keep' ? ''
        : other(at) || (names.suggested ? 'none' : ''))]
      : []),
    numeric('Generalisation', 'unseen'),
    {...numeric('Counterfactual memorisation', 'memorisation', 'low', 'high'),
      visible: !sample.size},
    hidden('Lower end', 'low'), hidden('Training memorisation', 'seen'),
    hidden('Rank', 'rank'),
    ...(sample.size ? [{...hidden('Place in the sample'),
      data: at => sample.get(at) ?? null}] : []),
    {title: 'Decision', data: () => '', orderable: false, searchable: false,
      className: 'decide', createdCell: (place, _, at) =>
        place.append(decision(at))},
  ];
  const at = title => shown.findIndex(each => each.title === title);
  const header = byId('examples-table').createTHead().insertRow();
  for (const {title} of shown) {
    const made = header.appendChild(element('th', '', title));
    made.scope = 'col';
    if (terms[title.toLowerCase()]) made.title = terms[title.toLowerCase()];
  }
  const views = (sample.size ? [
    {label: 'Most doubtful first', holds: () => true,
      order: [[at('Generalisation'), 'asc']]},
    {label: 'Sample to review', holds: i => sample.has(i),
      order: [[at('Place in the sample'), 'asc']]},
  ] : [
    {label: 'Labels to check', holds: i => columns.rank[i] !== null,
      order: [[at('Rank'), 'asc']]},
    {label: 'All examples', holds: () => true,
      order: [[at('Lower end'), 'desc']]},
  ]).map(view => ({...view, size: all.filter(view.holds).length}))
    .filter(view => view.size);
  const listed = new Set(['Given label', 'True label', 'Suggested label']);
  const table = new DataTable(byId('examples-table'), {
    data: all, columns: shown, order: views[0].order, pageLength: 10,
    deferRender: true, autoWidth: false, processing: false,
    lengthMenu: [10, 25, 100],
    layout: {
      topStart: null, topEnd: 'search',
      bottomStart: ['info', {buttons: [{extend: 'csvHtml5',
        text: 'Download the list', title: null, filename: 'examples',
        exportOptions: {modifier: {search: 'applied', order: 'applied'},
          columns: ':not(.decide)', orthogonal: 'export'}}]}],
      bottomEnd: ['pageLength', 'paging'],
    },
    columnDefs: [
      {targets: at('Decision'), columnControl: []},
      {targets: shown.flatMap(({title}, i) => listed.has(title) ? [i] : []),
        columnControl: ['order', ['searchList']]},
      {targets: '_all', columnControl: ['order']},
    ],
    ordering: {indicators: false, handler: false},
    language: {search: 'Find', emptyTable: 'No examples', infoFiltered: '',
      info: '_START_ to _END_ of _TOTAL_ examples', infoEmpty: 'No examples',
      lengthMenu: '_MENU_ a page', zeroRecords: 'No examples'},
    createdRow: (row, place) => {
      row.tabIndex = 0;
      row.dataset.place = place;
      const titles = shown.filter(each => each.visible !== false);
      [...row.cells].forEach((each, i) => {
        each.dataset.head = titles[i].title;
        each.classList.toggle('empty', !each.childNodes.length);
      });
      if (sample.has(place)) {
        row.cells[0].append(' ', element('span', 'tag', 'sample'));
      }
    },
  });
  const order = () =>
    table.rows({search: 'applied', order: 'applied'}).data().toArray();
  const look = wanted => {
    table.search.fixed('view', (_, i) => wanted.holds(i));
    table.order(wanted.order).draw();
    for (const each of views) each.button.setAttribute(
      'aria-pressed', each === wanted);
  };
  for (const view of views) {
    view.button = byId('views').appendChild(
      element('button', '', `${view.label} (${view.size})`));
    view.button.type = 'button';
    view.button.addEventListener('click', () => look(view));
  }
  byId('find').append(document.querySelector('.dt-search'));
  look(views[0]);
  summary();

  // The map, which the page of a check does not have.
  const map = byId('map');
  const groups = [
    [columns.noisy.some(x => x) ? 'right label' : 'examples', 'circle', 6,
      at => !columns.noisy[at] && name('kind', at) !== 'exception'],
    ['exception', 'triangle-up', 9,
      at => !columns.noisy[at] && name('kind', at) === 'exception'],
    ['wrong label', 'diamond', 8, at => columns.noisy[at]],
  ].map(([label, symbol, size, belongs]) =>
    ({label, symbol, size, places: all.filter(belongs)}))
    .filter(group => group.places.length);
  const dark = matchMedia('(prefers-color-scheme: dark)');
  // What is memorised stands out from the page.
  const scale = () => dark.matches
    ? [[0, '#24435f'], [0.5, '#5b9bd0'], [1, '#e3f2ff']]
    : [[0, '#d9e5ee'], [0.5, '#6fa6cc'], [1, '#0a3566']];
  const kinds = {'right label': '#56b4e9', 'examples': '#56b4e9', 'exception': '#e69f00',
    'wrong label': '#d55e00'};
  const brief = at => columns.text[at].length > 80
    ? `${columns.text[at].slice(0, 80)}…` : columns.text[at];
  // Plotly reads some markup in texts.
  const plain = string => string.replace(/&/g, '&amp;').replace(/</g, '&lt;');
  const traces = by => groups.map(({label, symbol, size, places}, at) => ({
    type: 'scattergl', mode: 'markers', name: `${label} (${places.length})`,
    showlegend: groups.length > 1,
    x: places.map(i => columns.unseen[i]),
    y: places.map(i => columns.seen[i]),
    customdata: places,
    text: places.map(i => plain(`${columns.id[i]}: ${name('given', i)}`) +
      `<br>counterfactual memorisation ${number(columns.memorisation[i])} ` +
      `${interval(columns.low[i], columns.high[i])}<br>${plain(brief(i))}`),
    hoverinfo: 'text',
    marker: {
      symbol, size,
      line: {width: 0.6, color: label === 'wrong label' ? '#d55e00' : '#5b6673'},
      ...(by === 'memorisation'
        ? {color: places.map(i => columns.memorisation[i]), colorscale: scale(),
          cmin: 0, cmax: 1, showscale: at === 0,
          colorbar: {title: {text: 'Counterfactual memorisation', side: 'right'},
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
    font: {color: colour('--ink'),
      family: getComputedStyle(document.body).fontFamily},
    margin: {l: 60, r: 10, t: 10, b: 50}, height: 420, hovermode: 'closest',
    dragmode: 'select', legend: {orientation: 'h', y: -0.18},
    hoverlabel: {align: 'left'},
    xaxis: axis('Generalisation'),
    yaxis: axis('Training memorisation'),
    shapes: [{type: 'line', x0: 0, y0: 0, x1: 1, y1: 1,
      line: {color: colour('--soft'), width: 1, dash: 'dash'}}],
  });
  const options = {displayModeBar: false, responsive: true};
  const colouring = byId('map-colour');
  const draw = () => map &&
    Plotly.react(map, traces(colouring.value), layout(), options);
  if (map) {
    colouring.closest('.controls').hidden = groups.length < 2;
    map.replaceChildren();
    await draw();
    colouring.addEventListener('change', draw);
  }

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
  if (map) map.on('plotly_selected', event => {
    if (event && event.points.length) {
      choose(event.points.map(point => point.customdata));
      // The list is above the map, and may be out of sight.
      clear.scrollIntoView({block: 'nearest'});
    }
  });
  clear.addEventListener('click', () => {
    choose(null);
    draw();
  });

  // One example.
  let current = null;
  const detail = element('div');
  detail.id = 'detail';
  detail.setAttribute('aria-live', 'polite');
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
    if (columns.noisy[at]) add('True label', name('original', at));
    add('Kind', name('kind', at));
    if (columns.rank[at] !== null) {
      add('Suggested label', other(at) || 'none');
      if (columns.margin && columns.margin[at] !== null) {
        add('Margin of the likeliest other label', `${number(columns.margin[at])}` +
          `, at least ${number(columns.marginLow[at])} (95 % interval); ` +
          `${number(columns.agreement[at], 2)} of the runs agree`);
      }
    }
    add('Counterfactual memorisation', `${number(columns.memorisation[at])} ` +
      interval(columns.low[at], columns.high[at]));
    add('Training memorisation',
      `${number(columns.seen[at])} (${columns.inRuns[at]} runs)`);
    add('Generalisation',
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
  const close = () => {
    if (current === null) return;
    const row = table.row(current);
    row.child.remove();
    if (row.node()) {
      row.node().classList.remove('shown');
    }
    current = null;
  };
  const button = (id, words, act) => {
    const made = element('button', '', words);
    made.id = id;
    made.type = 'button';
    made.addEventListener('click', act);
    return made;
  };
  const show = at => {
    let place = order().indexOf(at);
    if (place < 0) {  // A point of the map that is not listed.
      choose(null);
      table.search('');
      look(views[views.length - 1]);
      place = order().indexOf(at);
    }
    close();
    const page = Math.floor(place / table.page.len());
    if (page !== table.page()) table.page(page).draw('page');
    current = at;
    const controls = element('div', 'controls');
    controls.append(button('previous', 'Previous', () => step(-1)),
      button('next', 'Next', () => step(1)), button('close', 'Close', close));
    detail.replaceChildren(
      element('h3', '', columns.id[at]), words(at), facts(at), controls);
    const layered = placeOf.has(at);
    detail.classList.toggle('layered', layered);
    const row = table.row(at);
    row.child(detail, 'opened').show();
    row.node().classList.add('shown');
    row.node().scrollIntoView({block: 'nearest'});
    if (layered) {
      const side = detail.appendChild(element('div', 'side'));
      const figure = side.appendChild(element('div', 'profile'));
      side.append(element('p', 'soft', byLayer));
      profile(at, figure);
    }
  };
  const byLayer = 'Bars are the share of each layer in the memorisation, with ' +
    'one standard error over pairs of runs. Coloured words, where they were ' +
    'looked at, are those whose hiding costs runs that were trained on the ' +
    'example more (orange) or less (blue) than others.';
  const step = by => {
    const places = order();
    const next = (places.indexOf(current) + by + places.length) % places.length;
    show(places[next]);
    byId(by > 0 ? 'next' : 'previous').focus();
  };
  if (map) map.on('plotly_click', event => show(event.points[0].customdata));
  const rows = byId('examples-table').tBodies[0];
  const open = event => {
    if (event.target.closest('button, select')) return;
    const row = event.target.closest('tr[data-place]');
    if (!row) return;
    const at = Number(row.dataset.place);
    if (at === current) close();
    else show(at);
  };
  rows.addEventListener('click', open);
  rows.addEventListener('keydown', event => {
    if (event.key === 'Enter') open(event);
  });

  // The bar of contents says which section is being read.
  const links = [...document.querySelectorAll('.contents a')];
  const parts = links.map(link => byId(link.hash.slice(1)));
  const mark = () => {
    const seen = parts.filter(part => part.getBoundingClientRect().top < 120);
    const now = seen.length ? parts.indexOf(seen[seen.length - 1]) : -1;
    links.forEach((link, i) => i === now
      ? link.setAttribute('aria-current', 'true')
      : link.removeAttribute('aria-current'));
  };
  addEventListener('scroll', mark, {passive: true});
  mark();

  // Dark and light.
  const theme = () => {
    document.documentElement.classList.toggle('dark', dark.matches);
    draw();
    if (current !== null) show(current);
  };
  dark.addEventListener('change', theme);
  document.documentElement.classList.toggle('dark', dark.matches);
  document.documentElement.dataset.ready = count;
})();
