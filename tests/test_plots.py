"""The plots: the right data in the artists, nothing that overlaps or is cut off, words and small files, no side effects."""
import base64, io, itertools, json, subprocess, sys, textwrap
from functools import lru_cache

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib.colors import same_color, to_hex, to_rgb
from PIL import Image

import ggr_nb.show.plots as P
import ggr_nb.show.sparse_plots as S
from ggr_nb.methods import METHODS

pytestmark = pytest.mark.filterwarnings('error')
MOBILE = [f'features.{i}.conv.{j}.weight' for i in range(18) for j in range(3)][:-2] + ['classifier.1.weight']
RESNET = ['conv1.weight'] + [f'layer{i}.{j}.{k}.weight' for i in range(1, 5) for j in (0, 1)
                             for k in (('conv1', 'conv2', 'downsample.0') if i > 1 and j == 0 else ('conv1', 'conv2'))] + ['fc.weight']
FIVE = ['conv1.weight', 'conv2.weight', 'conv3.weight', 'fc1.weight', 'fc2.weight']


def values(names, seed): return dict(zip(names, np.geomspace(.6, .004, len(names)) * np.random.default_rng(seed).uniform(.5, 1.5, len(names))))


def history(names, updates=8, start=100):
    "A made-up history that conserves the total."
    rng, count, out = np.random.default_rng(0), dict.fromkeys(names, start), []
    for u in range(1, updates + 1):
        dropped = {n: int(.2 * c) for n, c in count.items()}
        k = sum(dropped.values())
        quota = dict(zip(names, map(int, rng.multinomial(k, rng.dirichlet(np.ones(len(names)))))))
        count = {n: count[n] - dropped[n] + quota[n] for n in names}
        layers = {n: dict(dropped=dropped[n], quota=quota[n], grown=quota[n], count=count[n]) for n in names}
        out.append(dict(step=10 * u, update=u, fraction=.2, k=k, threshold=None, layers=layers))
    return out


def update():
    "One update of three small layers, by hand."
    g = torch.Generator().manual_seed(0)
    shapes = {'fc1.weight': (6, 8), 'fc2.weight': (5, 6), 'conv.weight': (4, 2, 3, 3)}
    masks = {n: torch.rand(s, generator=g) < .4 for n, s in shapes.items()}
    dropped = {n: m.flatten().nonzero().flatten()[:3] for n, m in masks.items()}
    grads = {n: torch.randn(s, generator=g) for n, s in shapes.items()}
    free = {n: (~m).flatten().nonzero().flatten() for n, m in masks.items()}
    quotas = dict(zip(shapes, (1, 3, 5)))
    grown = {n: free[n][:q] for n, q in quotas.items()}
    half = {n: -(-q // 2) for n, q in quotas.items()}
    return masks, dropped, quotas, {n: p[:half[n]] for n, p in grown.items()}, {n: p[half[n]:] for n, p in grown.items()}, grads


X = np.arange(40)
SCORES = {(m, i): np.random.default_rng(0).uniform(20, 99, 3) for m in ('static', 'set', 'rigl', 'dsr', 'ggr') for i in ('uniform', 'erk')}
SPANS = [('step', 'forward', 0, 3), ('step', 'backward', 3, 9), ('update', 'a long name', 9, 9.2), ('moment', 'now', 9, 9)]
MASKS = {m: torch.rand(32, 9, 3, 3, generator=torch.Generator().manual_seed(i)) < .1 for i, m in enumerate(('SET', 'RigL', 'DSR', 'GGR'))}
LONG = 'A title that is a whole sentence, long enough for two lines, and says what one should see'


def series(names): return {l: values(names, i) for i, l in enumerate(('ERK', 'DSR', 'GGR'))}


def pairs(names): return {m: (values(names, 0), values(names, i)) for i, m in enumerate(('set', 'rigl', 'dsr', 'ggr'))}


# each kind of plot, and the hard cases
PLOTS = dict(
    layers5=lambda: P.layer_plot(series(FIVE), 'density', LONG), layers20=lambda: P.layer_plot(series(RESNET), 'density', LONG, log=True),
    layers53=lambda: P.layer_plot(series(MOBILE), 'density', LONG, log=True), zeros=lambda: P.layer_plot({'SET': dict(a=2, b=30), 'GGR': dict(a=40, b=0)}, 'weights', LONG, log=True), bars=lambda: P.layer_plot({'x': values(RESNET, 0)}, 'density'),
    curves=lambda: P.curve_plot({m: (X, i + X * .1, X * 0 + .3) for i, m in enumerate(('set', 'rigl', 'ggr'))}, 'epoch', 'accuracy', LONG, hline=(2, 'chance')),
    curves_log=lambda: P.curve_plot({l: (10.**np.arange(5), b**np.arange(5)) for l, b in dict(a=10., b=9.).items()}, 'k', 'bytes', logx=True, logy=True),
    stacked=lambda: P.stacked_plot({'loss': {'ggr': (X, 2. - X / 40), 'set': (X, 2. - X / 50)}, 'accuracy, %': {'ggr': (X, X * 2.)}}, 'epoch', LONG),
    bar=lambda: P.bar_plot({'the naive way': 1, 'ours': (.2, .03), 'theirs': (1.4, .2)}, 'time', LONG, reference=(1, 'naive')),
    heat=lambda: P.heat_plot([[.1, float('nan'), 99.]] * 3, ['a', 'b', 'c'], ['x', 'y', 'z'], LONG),
    huge=lambda: P.mask_plot({'m': torch.rand(3000, 6000) < .02}, LONG), mask=lambda: P.mask_plot(MASKS, LONG), tall=lambda: P.mask_plot({k: v.reshape(144, 18) for k, v in MASKS.items()}),
    timeline=lambda: P.timeline_plot(SPANS, LONG, 'ms'), order=lambda: P.timeline_plot(SPANS, LONG), methods=lambda: S.method_plot(SCORES | {('dense', ''): [99.]}, LONG),
    before_after=lambda: S.density_before_after(pairs(FIVE), LONG), before_after53=lambda: S.density_before_after({'ggr': pairs(MOBILE)['ggr']}, LONG),
    over_time=lambda: S.density_over_time(history(FIVE), dict.fromkeys(FIVE, 1000), LONG), over_time53=lambda: S.density_over_time(history(MOBILE)),
    quotas=lambda: S.quota_over_time(history(FIVE), LONG), quotas53=lambda: S.quota_over_time(history(MOBILE)),
    figure1=lambda: S.figure1(*update()), figure1_plain=lambda: S.figure1(*update()[:-1], title=''),
    figure2=lambda: S.figure2(series(FIVE), {l: {n: 1000 * v for n, v in d.items()} for l, d in series(FIVE).items()}, LONG),
    figure3=lambda: S.figure3(MASKS, LONG))


@lru_cache(None)
def plot(name): return PLOTS[name]()


@lru_cache(None)
def picture(name): return plot(name)._repr_png_()


each = pytest.mark.parametrize('name', PLOTS)


def boxes(fig, texts): return [t.get_window_extent(fig.canvas.get_renderer()) for t in texts if t.get_text() and t.get_visible()]


def overlap(a, b, slack=1.): return min(a.x1, b.x1) - max(a.x0, b.x0) > slack and min(a.y1, b.y1) - max(a.y0, b.y0) > slack


def texts_of(fig):
    "Every text that is drawn."
    fig.draw_without_rendering()
    for ax in fig.axes:
        if not ax.axison: continue
        yield from itertools.chain(ax.texts, [ax.title, ax._left_title, ax._right_title, ax.xaxis.label, ax.yaxis.label])
        for axis in (ax.xaxis, ax.yaxis):
            yield from (t.label1 for t in axis._update_ticks() if t.label1.get_visible())
    if fig._suptitle: yield fig._suptitle


@each
def test_says_what_it_shows(name):
    card = plot(name)
    assert isinstance(card, mpl.figure.Figure) and len(card.alt) > 30 and '  ' not in card.alt
    data, meta = picture(name)
    assert meta['alt'] == card.alt and repr(card).endswith(card.alt)
    assert meta['width'] <= 700 and Image.open(io.BytesIO(base64.b64decode(data))).text['Description'] == card.alt


CALLS = dict(layer_plot=({'a': {'x': 1.}}, 'density'), curve_plot=({'a': ([0, 1], [1, 2])}, 'epoch', 'loss'), bar_plot=({'a': 1}, 'points'),
    stacked_plot=({'loss': {'a': ([0, 1], [1, 2])}}, 'epoch'), heat_plot=([[1.]], ['r'], ['c']),
    mask_plot=({'a': torch.eye(3)},), timeline_plot=([('l', 'a', 0, 1)],), method_plot=({('ggr', 'erk'): [1.]},),
    density_before_after=({'ggr': ({'x': .1}, {'x': .2})},), density_over_time=(history(FIVE),), quota_over_time=(history(FIVE),),
    interval_plot=({('a', 'p'): (1., .5)},), figure1=update(), figure2=({'a': {'x': 1.}}, {'a': {'x': 1.}}), figure3=({'a': torch.eye(3)},))


@pytest.mark.parametrize('name', CALLS)
def test_words_of_ones_own_win(name):
    function = getattr(P, name, None) or getattr(S, name)
    assert function(*CALLS[name], alt='My words.').alt == 'My words.'


def test_every_public_plot_is_tested():
    "Whatever returns a card is in the list above."
    public = {n for module in (P, S) for n in module.__all__ if getattr(getattr(module, n), '__annotations__', {}).get('return') is P.Card}
    assert public - {'make_card', 'mask_card'} == set(CALLS)


@each
def test_small_file_on_a_white_card(name):
    png = base64.b64decode(picture(name)[0])
    assert len(png) <= 40_000
    image = np.asarray(Image.open(io.BytesIO(png)).convert('RGBA'))
    assert image[0, 0, 3] == 0 and image[-1, -1, 3] == 0                      # round corners
    assert (image[8:-8, 8:-8, 3] == 255).all() and tuple(image[12, 12]) == (255, 255, 255, 255)
    assert image.shape[1] >= (400 if name == 'huge' else 600)                 # sharp enough


def test_few_colours_keep_those_of_the_labels():
    "Letters are few pixels: the browns of SET's and GGR's names, and the lines, are in the file as they were drawn."
    x = np.arange(60)
    card = P.curve_plot({m: (x, 50 + i - 30 * np.exp(-x / 10)) for i, m in enumerate(('set', 'ggr', 'rigl'))}, 'epoch', 'accuracy, %', LONG)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(card._repr_png_()[0]))).convert('RGBA'))[..., :3]
    for m in ('set', 'ggr', 'rigl'):
        for c in (P.COLOURS[m], P.readable(P.COLOURS[m])): assert (image == np.round(255 * np.array(to_rgb(c)))).all(-1).sum() > 20, (m, c)


def test_numbers_of_bars_stand_on_white_and_errors_show_on_bars():
    ax = P.bar_plot({'the naive way': 1, 'ours': (.9, .03)}, 'time', reference=(1, 'naive')).axes[0]
    assert all(same_color(t.get_bbox_patch().get_facecolor(), P.PAPER) for t in ax.texts[:2])
    assert ax.lines[0].get_path_effects() and len({b.get_facecolor() for b in ax.patches}) == 1


def test_a_table_of_gains_and_losses_is_pale_at_zero():
    fig = P.heat_plot([[-.04, 2.], [-8., 1.]], ['a', 'b'], ['x', 'y'], fmt='+.1f')
    image, = fig.axes[0].images
    assert image.cmap is P.CHANGE and image.get_clim() == (-8, 8)
    assert [t.get_text() for t in fig.axes[0].texts] == ['0.0', '+2.0', '−8.0', '+1.0'] and '−8.0' in fig.alt
    assert P.heat_plot([[1., 2.]], ['a'], ['x', 'y']).axes[0].images[0].cmap is P.HEAT


def test_what_is_counted_has_no_halves():
    ax = P.curve_plot({'a': ([1, 2, 3], [1, 2, 3])}, 'update', 'loss').axes[0]
    assert all(float(t) == int(float(t)) for t in (l.get_text() for l in ax.get_xticklabels()) if t)


@each
def test_nothing_is_cut_off(name):
    fig = plot(name)
    texts = [t for t in texts_of(fig) if t.get_text() and t.get_visible()]
    for b, t in zip(boxes(fig, texts), texts):
        assert b.x0 >= 2 and b.x1 <= fig.bbox.width - 2 and b.y0 >= 2 and b.y1 <= fig.bbox.height - 2, t.get_text()


@each
def test_no_label_lies_on_another(name):
    fig = plot(name)
    fig.draw_without_rendering()
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            labels = [t.label1 for t in axis._update_ticks() if t.label1.get_text()] if ax.axison else []
            if labels and labels[0].get_rotation(): continue                  # tilted: their boxes overlap, their letters do not
            for a, b in itertools.combinations(boxes(fig, labels), 2): assert not overlap(a, b), (name, [t.get_text() for t in labels])
        ends = [t for t in fig.ends if t.axes is ax]
        for a, b in itertools.combinations(boxes(fig, ends), 2): assert not overlap(a, b, 2.5), [t.get_text() for t in ends]
    if fig._suptitle:
        head, = boxes(fig, [fig._suptitle])
        assert not any(overlap(head, b) for b in boxes(fig, [t for t in texts_of(fig) if t is not fig._suptitle]))


@each
def test_letters_are_legible(name):
    "Nothing below 7.5 points, and enough contrast with white for every text outside of coloured cells."
    fig = plot(name)
    for t in texts_of(fig):
        if not t.get_text(): continue
        assert t.get_size() >= 7.5, t.get_text()
        if name not in ('heat', 'timeline', 'order'): assert P.contrast(t.get_color()) >= 4.5, t.get_text()


@each
def test_few_artists(name): assert len(plot(name).findobj()) < 1500


# what the artists say

def test_layer_plot_has_the_values_in_order():
    data = {'ERK': values(FIVE, 0), 'GGR': dict(reversed(values(FIVE, 1).items()))}
    del data['GGR']['fc1.weight']
    ax = P.layer_plot(data, 'density', log=True).axes[0]
    assert ax.lines[0].get_ydata() == pytest.approx(list(data['ERK'].values()))
    assert ax.lines[1].get_ydata() == pytest.approx([data['GGR'].get(n, np.nan) for n in FIVE], nan_ok=True)
    assert [same_color(l.get_color(), P.COLOURS[k]) for l, k in zip(ax.lines, ('erk', 'ggr'))] == [True, True]
    assert [t.get_text() for t in ax.get_xticklabels()] == [n.removesuffix('.weight') for n in FIVE]
    assert {l.get_linestyle() for l in ax.lines} == {'None'}, 'layers are categories: nothing lies between two of them'


def test_one_series_is_bars_from_zero():
    ax = P.layer_plot({'d': values(FIVE, 0)}, 'density').axes[0]
    assert [b.get_height() for b in ax.patches] == pytest.approx(list(values(FIVE, 0).values()))
    assert ax.get_ylim()[0] == 0 == plot('layers5').axes[0].get_ylim()[0]
    assert P.layer_plot({'d': {'a': -2., 'b': 3.}, 'e': {'a': 1.}}, 'gain').axes[0].get_ylim()[0] < -2


def test_many_layers_are_grouped_by_block():
    ax = plot('layers53').axes[0]
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels == [str(i) for i in range(18)] + [''] and ax.get_xticks()[0] == 1
    assert [t.get_text() for t in ax.texts if t.get_text() in ('features', 'classifier')] == ['features', 'classifier']


def test_curve_plot_draws_mean_and_band():
    x, m, s = np.arange(5.), np.array([1, 2, 3, 4, 4.]), np.full(5, .5)
    ax = P.curve_plot({'ggr': (torch.tensor(x), m, s)}, 'epoch', 'loss', hline=2.5).axes[0]
    assert ax.lines[0].get_xydata().tolist() == np.c_[x, m].tolist()
    band = ax.collections[0].get_paths()[0].vertices
    assert {(0., .5), (0., 1.5), (4., 3.5), (4., 4.5)} <= set(map(tuple, band.tolist()))
    assert set(ax.lines[1].get_ydata()) == {2.5} and ax.lines[0].get_marker() == 'D'
    assert plot('curves_log').axes[0].get_xscale() == plot('curves_log').axes[0].get_yscale() == 'log'


def test_bar_plot_lengths_numbers_and_reference():
    ax = plot('bar').axes[0]
    assert [b.get_width() for b in ax.patches] == [1, .2, 1.4] and {b.get_x() for b in ax.patches} == {0}
    assert [t.get_text() for t in ax.texts] == ['1', '0.200 ± 0.030', '1.40 ± 0.20', 'naive']
    assert ax.yaxis_inverted() and set(ax.lines[-1].get_xdata()) == {1}
    assert len({to_hex(b.get_facecolor()) for b in ax.patches}) == 1
    named = P.bar_plot({'SET': 1, 'GGR': 2}, 'points').axes[0].patches
    assert [to_hex(b.get_facecolor()) for b in named] == [P.COLOURS['set'], P.COLOURS['ggr']]


@pytest.mark.parametrize('matrix', [torch.arange(6.).reshape(2, 3), [[0, 1, 2], [3, 4, 5]], np.ones((2, 3))])
def test_heat_plot_shows_every_number(matrix):
    ax = P.heat_plot(matrix, ['r', 's'], ['a', 'b', 'c'], fmt='.0f').axes[0]
    assert [t.get_text() for t in ax.texts] == [f'{float(v):.0f}' for row in matrix for v in row]
    shades = ax.images[0].to_rgba(ax.images[0].get_array()).reshape(-1, 4)
    assert all(P.contrast(t.get_color(), s[:3]) >= 3 for t, s in zip(ax.texts, shades))


def test_heat_plot_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match='2 × 2 numbers for 2 rows and 1 columns'): P.heat_plot([[1, 2], [3, 4]], ['a', 'b'], ['c'])


@pytest.mark.parametrize('shape', [(7, 5), (40, 6), (12, 3, 3, 3), (9,)])
def test_mask_pixels_are_the_mask(shape):
    "The picture itself, not only the artist: the pixel in the middle of each weight."
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < .4
    fig = P.mask_plot({'m': mask})
    flat = mask.reshape(shape[0] if len(shape) > 1 else 1, -1)
    pixels = np.asarray(Image.open(io.BytesIO(fig.png())).convert('RGBA').convert('L'))
    ax, scale = fig.axes[0], P.DPI / fig.dpi
    if ax.get_ylabel() == 'inputs': flat = flat.T                             # lies down
    (h, w), box = flat.shape, ax.bbox
    for i, j in itertools.product(range(h), range(w)):
        x, y = box.x0 + (j + .5) / w * box.width, box.y1 - (i + .5) / h * box.height
        assert (pixels[int(pixels.shape[0] - y * scale), int(x * scale)] > 128) == bool(flat[i, j]), (i, j)


def test_large_masks_keep_their_density():
    mask = torch.zeros(3000, 6000, dtype=torch.bool)
    mask[:300] = True
    fig = P.mask_plot({'m': mask})
    shown = fig.axes[0].images[0].get_array()
    assert shown.size < 1e6 and shown.mean() == pytest.approx(.1, rel=.02) and 'mean of' in fig.alt
    assert shown[0].min() == 1 and shown[-1].max() == 0


def test_weights_count_as_masks(): assert '4 active' in P.mask_plot({'w': torch.diag(torch.tensor([1., -2, 3e-9, 5], requires_grad=True))}).alt


def test_timeline_places_spans():
    ax = plot('timeline').axes[0]
    assert [(b.get_x(), b.get_width(), b.get_y() + .3) for b in ax.patches] == [(0, 3, 0), (3, 6, 0), (9, pytest.approx(.2), 1)]
    assert ax.lines[0].get_marker() == 'D' and ax.lines[0].get_xdata() == [9]


def test_without_a_unit_only_the_order_is_drawn():
    "Invented durations cannot be shown: every stretch is equally long, and the axis has no numbers."
    ax = plot('order').axes[0]
    assert [(b.get_x(), b.get_width()) for b in ax.patches] == [(0, 1), (1, 1), (2, 1)] and len(ax.get_xticks()) == 0
    assert 'lengths mean nothing' in ax.get_xlabel() and '9' not in plot('order').alt


def test_an_axis_carries_one_quantity():
    line = ([0, 1], [1, 2])
    for call in (lambda: P.curve_plot({'a': line}, 'epoch', ''), lambda: P.curve_plot({'a': line}, ' ', 'loss'), lambda: P.layer_plot({'a': {'x': 1}}, ''),
                 lambda: P.bar_plot({'a': 1}, ''), lambda: P.stacked_plot({'': {'a': line}}, 'epoch'), lambda: S.interval_plot({('a', 'p'): (1, 1)}, xlabel='')):
        with pytest.raises(ValueError, match='is empty. Say what the axis shows'): call()
    for two in (('loss', 'accuracy (%)'), ('time [s]', 'memory [MB]'), ('time, s', 'memory, MB'), ('threshold × 100', 'entered')):
        with pytest.raises(ValueError, match='two units on one axis'): P.curve_plot(dict.fromkeys(two, line), 'step', 'value')
    P.curve_plot(dict.fromkeys(('SET, uniform', 'GGR, 0.1', 'new (ours)'), line), 'step', 'loss')
    fig = plot('stacked')
    assert [ax.get_ylabel() for ax in fig.axes] == ['loss', 'accuracy, %'] and [len(ax.lines) for ax in fig.axes] == [2, 1]
    assert fig.axes[0].get_shared_x_axes().joined(*fig.axes)


def test_a_zero_has_a_place_on_a_logarithmic_axis():
    "At the foot, hollow, with the tick 0; the other values stay what they are."
    ax = plot('zeros').axes[0]
    full, hollow = [l for l in ax.lines if same_color(l.get_color(), P.COLOURS['ggr'])]
    assert full.get_ydata()[0] == 40 and hollow.get_markerfacecolor() == P.PAPER and len(hollow.get_ydata()) == 1
    foot = hollow.get_ydata()[0]
    ticks = dict(zip(ax.get_yticks(), [t.get_text() for t in ax.get_yticklabels()]))
    assert ticks[foot] == '0' and ax.get_ylim()[0] < foot < 2 and 'GGR 0 to 40' in plot('zeros').alt


def _oklab(c):
    lin = [v / 12.92 if v <= .04045 else ((v + .055) / 1.055) ** 2.4 for v in to_rgb(c)]
    lms = np.array([[.41222, .53633, .05145], [.21190, .68070, .10740], [.08830, .28172, .62998]]) @ lin
    return np.array([[.21045, .79362, -.00407], [1.97800, -2.42859, .45059], [.02590, .78277, -.80868]]) @ np.cbrt(lms)


def test_a_colour_is_a_method_and_nothing_else():
    "What is no method gets muted colours, apart from each method's; so do shades, masks and marks."
    methods = [c for n, c in P.COLOURS.items() if n in METHODS]
    others = [*P.SERIES, *map(P.COLOURS.get, ('uniform', 'er', 'erk'))]
    assert not {*methods} & {*others, S.LOST, S.FREE, S.ACTIVE} and len({*others}) == len(others)
    assert max(np.hypot(*_oklab(c)[1:]) for c in others) < .09 < min(np.hypot(*_oklab(P.COLOURS[m])[1:]) for m in ('set', 'rigl', 'dsr', 'ggr', 'snfs', 'deepr'))
    main = [P.COLOURS[m] for m in ('dense', 'static', 'set', 'rigl', 'dsr', 'ggr', 'snfs', 'deepr')]
    assert min(np.linalg.norm(_oklab(a) - _oklab(b)) for a in P.SERIES for b in main) > .05
    got = P.palette(['CIFAR-100', 'GGR', 'Tiny-ImageNet', 'small dense'])
    assert got['GGR'] == P.COLOURS['ggr'] and {*got.values()} - {got['GGR']} <= {*P.SERIES}
    bare = P.Card(); line, = bare.subplots().plot([0, 1])
    assert to_hex(line.get_color()) == P.SERIES[0], 'a card drawn by hand takes no method\'s colour'


def test_method_plot_every_seed_and_mean():
    scores = {('ggr', 'erk'): [90., 92., 97.], ('set', 'erk'): [80.], ('ggr', 'uniform'): [50., 60.], ('dense', ''): [99., 97.]}
    fig = S.method_plot(scores)
    erk, uniform = fig.axes
    assert erk.collections[0].get_offsets().tolist() == [[90, 0], [92, 0], [97, 0]]
    assert set(erk.lines[0].get_xdata()) == {93} and set(erk.lines[-1].get_xdata()) == {98}
    assert [t.get_text() for t in erk.texts] == ['93.0 ± 2.1', '80', 'dense 98'] and len(uniform.collections) == 1
    assert uniform.collections[0].get_offsets()[:, 1].tolist() == [0, 0]      # in GGR's row, not in SET's


def test_before_and_after():
    pair = values(FIVE, 0), values(FIVE, 1)
    fig = S.density_before_after({'dsr': pair, 'ggr': pair, 'rigl': pair})
    ring, dot = fig.axes[1].lines
    assert ring.get_ydata() == pytest.approx(list(pair[0].values())) and dot.get_ydata() == pytest.approx(list(pair[1].values()))
    assert same_color(dot.get_color(), P.COLOURS['ggr']) and ring.get_markerfacecolor() == P.PAPER


def test_history_starts_before_the_first_update():
    h = history(FIVE)
    fig = S.density_over_time(h, dict.fromkeys(FIVE, 200))
    lines = {l.get_label(): l.get_ydata() for l in fig.axes[0].lines}
    assert all(v[0] == .5 for v in lines.values()) and lines['fc2.weight'][1:].tolist() == [u['layers']['fc2.weight']['count'] / 200 for u in h]
    raster = plot('over_time53').axes[0].images[0].get_array()
    last = np.log2([history(MOBILE)[-1]['layers'][n]['count'] / 100 for n in MOBILE])
    assert raster.shape == (len(MOBILE), 9) and np.allclose(raster[:, 0], 0) and np.allclose(raster[:, -1], last)


def test_quotas_stack_to_one():
    h = history(FIVE)
    top, shares = S.quota_over_time(h).axes
    assert [b.get_height() for b in top.patches] == [u['k'] for u in h]
    bars = np.array([b.get_height() for b in shares.patches]).reshape(len(FIVE), len(h))
    assert np.allclose(bars.sum(0), 1) and np.allclose(bars[2], [u['layers']['conv3.weight']['quota'] / u['k'] for u in h])
    assert np.allclose(plot('quotas53').axes[0].images[0].get_array().sum(0), 1)


def tiles(ax): return np.round(255 * np.asarray(ax.images[0].get_array())).astype(int).reshape(-1, 3)


def colour(c): return np.round(255 * np.array(to_rgb(c))).astype(int).tolist()


def test_figure1_paints_every_place():
    masks, dropped, quotas, by_g, by_c, grads = update()
    fig = S.figure1(masks, dropped, quotas, by_g, by_c, grads)
    for row, n in enumerate(masks):
        before, drop, count, grow = (tiles(ax) for ax in fig.axes[4 * row:4 * row + 4])
        active, kept = masks[n].flatten().clone(), masks[n].flatten().clone()
        kept[dropped[n]] = False
        assert [t == colour(S.ACTIVE) for t in before.tolist()] == active.tolist()
        assert [i for i, t in enumerate(drop.tolist()) if t == colour(S.LOST)] == dropped[n].tolist()
        assert [i for i, t in enumerate(grow.tolist()) if t == colour(S.BY_GRADIENT)] == sorted(by_g[n].tolist())
        assert [i for i, t in enumerate(grow.tolist()) if t == colour(S.BY_CHANCE)] == sorted(by_c[n].tolist())
        free = grads[n].flatten().abs().masked_fill(kept, -1)
        w = masks[n].flatten(1).shape[1]
        frame = fig.axes[4 * row + 2].lines[0]
        framed = {int(x + w * y) for x, y in zip(frame.get_xdata(), frame.get_ydata())}
        assert framed == set(free.topk(quotas[n]).indices.tolist())
    assert 'fc2: 12 active' in fig.alt or f"fc2: {int(masks['fc2.weight'].sum())} active, 3 dropped, quota 3" in fig.alt
    assert masks['fc1.weight'].sum() == update()[0]['fc1.weight'].sum()       # the input is left alone


def test_figure2_two_panels():
    d, n = {'ERK': values(FIVE, 0), 'GGR': values(FIVE, 1)}, {'ERK': dict.fromkeys(FIVE, 7), 'GGR': dict.fromkeys(FIVE, 9)}
    top, bottom = S.figure2(d, n).axes
    assert top.lines[1].get_ydata() == pytest.approx(list(d['GGR'].values())) and set(bottom.lines[0].get_ydata()) == {7}
    assert (top.get_ylabel(), bottom.get_ylabel()) == ('density', 'active weights')


def test_figure3_counts_empty_units():
    mask = torch.zeros(4, 3, 3, 3)
    mask[1, 2, 0, 0] = mask[3] = 1
    assert 'empty: 2 of 4 outputs, 0 of 27 inputs' in S.figure3({'GGR': mask}).alt
    with pytest.raises(ValueError, match='same layer'): S.figure3({'a': torch.ones(2, 3), 'b': torch.ones(3, 2)})


# the pieces

@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(.1, 20), st.integers(0, 1000))
def test_keep_apart_is_feasible_and_best(wanted, gap, seed):
    got = P.keep_apart(wanted, gap)
    order = np.argsort(wanted, kind='stable')
    assert (np.diff(got[order]) >= gap - 1e-6).all()
    cost = ((got - wanted) ** 2).sum()
    rng = np.random.default_rng(seed)
    for scale in (.01, .3, 3.):
        other = np.empty(len(wanted))
        start = got[order] + rng.normal(0, scale, len(wanted))
        other[order] = [start[0], *(start[0] + np.cumsum(np.maximum(np.diff(start), gap)))]
        assert ((other - wanted) ** 2).sum() >= cost - 1e-6


@given(st.lists(st.sampled_from([*P.COLOURS, 'GGR', 'before', 'after', 'x', 1, 2]), unique_by=lambda l: str(l).lower(), max_size=10))
def test_palette_gives_each_label_its_own_colour(labels):
    got = P.palette(labels)
    assert list(got) == labels and len(set(got.values())) == len(labels)
    for l in labels:
        if l in ('ggr', 'GGR', 'dense', 'rigl', 'dsr'): assert got[l] == P.COLOURS[l.lower()]


def test_every_method_has_a_colour():
    methods = pytest.importorskip('ggr_nb.methods')
    main = {'dense', 'static', 'set', 'rigl', 'dsr', 'ggr', 'snfs', 'deepr', 'set+rigl', 'ggr-set', 'ggr-rigl', 'gmp', 'chase'}
    assert main <= set(P.COLOURS) and main <= set(methods.METHODS)
    assert len(set(map(P.COLOURS.get, main))) == len(main)


def test_readable_only_darkens():
    for c in [*P.COLOURS.values(), *P.SERIES, '#ffff00', 'white']:
        dark = P.readable(c)
        assert P.contrast(dark) >= 4.5 and P._luminance(dark) <= P._luminance(c) + 1e-9
    assert P.contrast('#000') == pytest.approx(21) and P.contrast('#777777') == pytest.approx(4.48, abs=.01)


@pytest.mark.parametrize('x, said', [(0, '0'), (1e-5, '1e−05'), (.5, '0.5'), (999, '999'), (1000, '1 k'), (138_358_000, '138 M'), (-2.5e9, '−2.5 G')])
def test_human(x, said): assert P.human(x) == said


def test_mean_and_deviation_have_the_same_decimals():
    assert [P.plus_minus(*v) for v in ((95.234, .611), (.11, .02), (0., .5), (12345., 67.), (5, 0))] == \
        ['95.2 ± 0.6', '0.110 ± 0.020', '0.000 ± 0.500', '12.3 k ± 67', '5']


def test_narrow_log_axes_have_numbers():
    for low, high in ((.02, .03), (.01, .06), (.001, .9), (1e-6, 1)):
        ax = P.layer_plot({'a': dict(x=low, y=high), 'b': dict(x=high, y=low)}, 'density', log=True).axes[0]
        a, b = ax.get_ylim()
        assert sum(a <= t <= b for t in ax.get_yticks()) >= 2, (low, high)


@pytest.mark.parametrize('call', [lambda: P.layer_plot({}, 'y'), lambda: P.curve_plot(series={}, xlabel='x', ylabel='y'), lambda: P.mask_plot({}), lambda: P.bar_plot({}, 'y'),
    lambda: P.stacked_plot({}, 'x'),
    lambda: P.timeline_plot([]), lambda: S.density_over_time([]), lambda: S.method_plot({}), lambda: S.figure3({}), lambda: P.heat_plot([], [], [])])
def test_nothing_to_draw_is_an_error(call):
    with pytest.raises(ValueError, match='nothing to draw'): call()


def test_missing_values_are_gaps():
    nan = float('nan')
    assert 'no value' in P.layer_plot({'a': {'x': nan}, 'b': {'x': 1.}}, 'y').alt
    assert 'b 1 to 2' in P.curve_plot({'a': ([0, 1], [nan, nan]), 'b': ([0, 1], [1, 2])}, 'x', 'y').alt
    assert P.heat_plot([[1, nan]], ['r'], ['a', 'b']).axes[0].texts[1].get_text() == '–'


# no side effects

def test_settings_are_left_alone():
    mpl.rcParams['axes.facecolor'] = 'black'
    try:
        before = dict(mpl.rcParams)
        fig = P.layer_plot({'a': values(FIVE, 0)}, 'density', title='Title')
        fig.png()
        assert dict(mpl.rcParams) == before and to_rgb(fig.axes[0].get_facecolor()) != (0, 0, 0, 1)
        assert fig.axes[0].spines['top'].get_visible() is False
    finally: mpl.rcdefaults()


def python(code): return subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, check=True).stdout.split()


def test_without_pyplot_and_the_same_under_any_style(tmp_path):
    "A script with a dark style draws the same bytes, and nobody imports pyplot."
    code = '''
        import sys, hashlib, matplotlib
        {setup}
        from ggr_nb.show.plots import layer_plot
        fig = layer_plot({{'GGR': dict(a=1, b=2), 'x': dict(a=2, b=1)}}, 'y', 'Title')
        print('matplotlib.pyplot' in sys.modules, hashlib.md5(fig.png()).hexdigest())
        fig.save(r'{path}.svg')
        '''
    plain = python(code.format(setup='', path=tmp_path / 'a'))
    dark = python(code.format(setup="import matplotlib.style; matplotlib.style.use('dark_background'); matplotlib.rcParams['font.size'] = 30", path=tmp_path / 'b'))
    assert plain[0] == 'False' and plain[1] == dark[1]
    assert '<svg' in (tmp_path / 'a.svg').read_text()


def test_jupyter_shows_it_once_with_its_words():
    "A real kernel, with pyplot loaded: one output, one picture, our metadata."
    client, v4 = pytest.importorskip('nbclient'), pytest.importorskip('nbformat').v4
    cell = v4.new_code_cell("import matplotlib.pyplot as plt\nfrom ggr_nb.show.plots import bar_plot\nbar_plot({'a': 1}, 'points', title='One bar')")
    nb = v4.new_notebook(cells=[cell])
    client.NotebookClient(nb, timeout=900, startup_timeout=600, kernel_name='python3').execute()
    output, = nb.cells[0].outputs
    assert output.metadata['image/png'] == dict(alt='One bar. points: a 1.', width=700, height=126)
    assert output.data['text/plain'] == 'Figure: One bar. points: a 1.' and set(output.data) == {'text/plain', 'image/png'}


def test_stored_outputs_carry_words_and_stay_small(root):
    "Every stored picture of the two notebooks."
    for name in ('show/plots', 'show/sparse_plots'):
        cells = json.loads((root / f'nbs/{name}.ipynb').read_text())['cells']
        pictures = [o for c in cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {})]
        assert len(pictures) >= 8
        for o in pictures:
            assert len(o['metadata']['image/png']['alt']) > 15 and o['metadata']['image/png']['width'] <= 700
            assert len(base64.b64decode(o['data']['image/png'])) <= 40_000
