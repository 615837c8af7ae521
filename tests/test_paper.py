"The paper's tables, checked against themselves, and the comparison with our runs."
import json
import re
import statistics
from collections import Counter
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from ggr_nb.paper.evidence import estimate, holm, paired, verdict
from ggr_nb.paper.published import (COLUMNS, Cell, Entry, METHODS_1, NETS, PUBLISHED, cell_of, cite, column_mean, disagreements,
                                    grid, our_mean, podium, read_table, table, winners)
from ggr_nb.paper.sweep import Job, Results, recipe_of, sealed, epochs_and_width

settings.register_profile('any machine', deadline=None)      # a busy one is no failure
settings.load_profile('any machine')
RESNET = dict(data='cifar100', models='resnet18')


def records(jobs, accuracy):
    return {j.key: dict(key=j.key, job=asdict(j), accuracy=accuracy(j)) for j in jobs}


def test_counts_of_the_published_tables():
    cells = PUBLISHED[1]
    assert len([c for c in cells if c.method == 'dense']) == 4
    assert len([c for c in cells if c.method != 'dense']) == 96
    assert sum(v is None for v in cells.values()) == 8 + 4 * 3 + 2
    assert all(25 <= v <= 77 for v in cells.values() if v is not None)
    assert set(Counter(c[:2] for c in cells).values()) == {25}


def test_a_sparser_network_is_never_better_in_the_published_table():
    "A typing error in Table 1 would most likely break this."
    rising = []
    for net, m, init in product(NETS, METHODS_1, ('erk', 'uniform')):
        values = [PUBLISHED[1][Cell(*net, m, s, init)] or 0 for s in (.9, .97, .99)]
        rising += [(net, m, init)] if values != sorted(values, reverse=True) else []
    assert rising == []


def test_averages_and_the_two_slips():
    assert [(c.method, c.sparsity, c.init, *v) for t in (2, 3) for c, v in disagreements(t).items()] == [
        ('dsr', .9, 'uniform', 59.64, 59.54), ('ggr', .9, 'erk', 63.57, 63.62)]


def test_sums_of_table_1_by_column():
    "Sums over all four networks, a second path to the same numbers as Table 2."
    for m, c in product(METHODS_1, COLUMNS[:3]):
        total = sum(PUBLISHED[1][Cell(*n, m, *c)] for n in NETS)
        printed = PUBLISHED[2][Cell('all', 'all', m, *c)]
        off = abs(total / 4 - printed)
        assert off <= .01 or (m, c) == ('dsr', (.9, 'uniform')) and round(off, 2) == .1


def test_wins():
    assert Counter(winners(PUBLISHED[1]).values()) == dict(ggr=8, dsr=7, set=2, rigl=2)


def test_table_3_repeats_table_2_but_for_one_cell():
    differ = {c for c, v in PUBLISHED[3].items() if c in PUBLISHED[2] and PUBLISHED[2][c] != v}
    assert differ == {Cell('all', 'all', 'ggr', .9, 'erk')}


def test_table_4_repeats_the_accuracies_of_table_1():
    for cell, v in PUBLISHED[4].items():
        assert v['accuracy'] == PUBLISHED[1][cell]


def test_every_cell_can_be_cited():
    assert len({cite(t, c) for t in PUBLISHED for c in PUBLISHED[t]}) == sum(map(len, PUBLISHED.values()))


def test_a_short_row_is_refused():
    with pytest.raises(ValueError, match='5 numbers for 6 columns'): read_table('set 1 2 3 4 5')


def test_grid_is_the_paper():
    jobs = grid(tables=[1, 3], seeds=range(5))
    assert len(jobs) == len({j.key for j in jobs}) == 5 * (96 + 4 + 72)
    assert {cell_of(j) for j in grid()} == set(PUBLISHED[1])
    assert all(Job(**asdict(j)) == j for j in jobs)


@pytest.mark.parametrize('what, wrong', [('methods', 'rigle'), ('models', 'resnet50'), ('sparsities', .95), ('inits', 'er'),
                                         ('data', 'cifar10'), ('tables', 2)])
def test_grid_names_what_is_not_there(what, wrong):
    with pytest.raises(ValueError, match=re.escape(repr(wrong)) + '.*There are: '): grid(**{what: wrong})


@given(scale=st.floats(.001, 1))
def test_scale_shrinks_and_marks(scale):
    job = Job('tiny_imagenet', 'vgg16_tiny', 'set', .03, 'erk', 1)
    epochs, width = epochs_and_width(replace(job, scale=scale))
    assert 4 <= epochs <= 200 and 1 / 16 <= width <= 1
    assert replace(job, scale=scale).reduced == (scale != 1)


def test_a_reduced_recipe_keeps_the_places_of_the_papers():
    job = Job('cifar100', 'resnet18', 'ggr', .01, 'erk', 0)
    full = recipe_of(job, 391)
    assert (full.epochs, full.milestones, full.update_until, full.every, full.batch) == (100, (30, 60, 80), 50, None, 128)
    small = recipe_of(replace(job, epochs=2, updates=20, batch=64, fraction=.3), 782)
    assert (small.epochs, small.milestones, small.update_until, small.batch) == (2, (.6, 1.2, 1.6), 1, 64)
    assert small.every == 37 and 20 <= 782 // small.every <= 22 and small.warmup == .2


def test_a_key_tells_every_field():
    a = Job('cifar100', 'resnet18', 'set', .1, 'erk', 0)
    others = [replace(a, **{k: v}) for k, v in dict(data='tiny_imagenet', model='x', method='ggr', density=.01, init='uniform',
              seed=1, scale=.5, epochs=3, width=.5, images=10, stem=2, batch=64, updates=9, fraction=.3,
              augment=False, validate=True, warm=True).items()]
    assert len({j.key for j in [a, *others]}) == 18
    assert len(others) == len(asdict(a))


def test_our_average_needs_every_network():
    full = {c: {s: (1. if v is None else v) + s for s in (0, 1)} for c, v in PUBLISHED[1].items()}
    for m, c in product(METHODS_1, COLUMNS):
        expected = column_mean(PUBLISHED[1], m, *c)
        got = our_mean(full, m, *c)
        assert got == () if expected is None else got == pytest.approx((expected, expected + 1))
        for net in NETS:
            assert our_mean({k: v for k, v in full.items() if k[:3] != (*net, m)}, m, *c) == ()


def test_our_average_does_not_guess_what_rivals_can_do():
    "One method fails on a network and a rival was not run there: it is not known whether the network counts."
    full = {c: {0: 1. if v is None else v} for c, v in PUBLISHED[1].items()}
    gap = Cell('tiny_imagenet', 'mobilenet_v2', 'dsr', .99, 'erk')
    assert our_mean(full, 'ggr', .99, 'erk')
    assert our_mean({c: v for c, v in full.items() if c != gap}, 'ggr', .99, 'erk') == ()


def test_unpaired_seeds_are_left_out_of_the_average():
    full = {c: {0: v or 1., 7: 50.} for c, v in PUBLISHED[1].items()}
    full[Cell(*NETS[0], 'set', .9, 'erk')].pop(7)
    assert len(our_mean(full, 'set', .9, 'erk')) == 1 and len(our_mean(full, 'ggr', .9, 'erk')) == 2


def test_empty_table_shows_published_values_only(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no file'): table(1, tmp_path/'none.jsonl')
    for n in PUBLISHED:
        text = str(table(n, {}))
        assert 'no runs of ours' in text and '\n          ours' not in text and '±' not in text.split('published: Parger')[0]


def test_one_cell_fills_one_place():
    jobs = grid(**RESNET, methods='ggr', sparsities=.97, inits='erk')
    t = table(1, records(jobs, lambda j: 70 + j.seed))
    for text in (str(t), t.markdown(), t._repr_html_()):
        assert text.count('71.00 ± 0.58 (3)') == 1 and text.count('+0.72') == 1


def test_every_cell_of_table_1_and_its_averages():
    jobs = grid(seeds=(0, 1))
    noise = lambda j: (PUBLISHED[1][cell_of(j)] or 1.) + (j.seed - .5)
    for n in (1, 2):
        t = table(n, records(jobs, noise))
        got = {(b.title, m, i): e for b in t.blocks for m, row in b.rows.items() for i, e in enumerate(row)}
        assert len(got) == len(PUBLISHED[n])
        for e in got.values():
            if e.published is not None and e.published != 59.64: assert e.mean == pytest.approx(e.published, abs=.011)
            elif n == 2 and e.published is None: assert e.ours == ()


def test_table_4_has_a_block_for_what_only_we_have():
    "CIFAR-100 is not in the paper's Table 4: our runs stand there with nothing under 'published', not with a dash."
    jobs = grid(**RESNET, methods=['set', 'dense'], sparsities=[.9, .99], inits='erk', seeds=[0, 1])
    filled = lambda j: dict(emptiness=dict(empty_neurons=31. + j.seed, empty_inputs=4., dense_parameters=.5),
                            emptiness_propagated=dict(empty_neurons=44. + j.seed, empty_inputs=5., dense_parameters=.4))
    runs = {j.key: dict(key=j.key, job=asdict(j), accuracy=60., **filled(j)) for j in jobs}
    found = table(4, runs)
    ours = [b for b in found.blocks if b.recipe]
    assert [b.title for b in ours] == ['CIFAR-100, ResNet-18, s=0.9', 'CIFAR-100, ResNet-18, s=0.99'] and len(found.blocks) == 4
    rows = list(found.shown(ours[0]))
    assert [row[:2] for row in rows] == [['SET', 'ours']] and rows[0][4] == '31.5 ± 0.5 (2)'
    assert '44.5 ± 0.5 (2)' in str(table(4, runs, propagated=True)) and '44.5' not in str(found)
    assert table(4, {k: {n: v for n, v in r.items() if 'empt' not in n} for k, r in runs.items()}).blocks == table(4, {}).blocks


def test_table_4_reads_both_definitions():
    jobs = grid(data='tiny_imagenet', models='vgg16_tiny', methods='set', sparsities=.97, inits='erk', seeds=[0])
    runs = records(jobs, lambda j: 57.)
    for kind, neurons in (('emptiness', 31.), ('emptiness_propagated', 44.)):
        next(iter(runs.values()))[kind] = dict(empty_neurons=neurons, empty_inputs=41., dense_parameters=17.)
    assert '31.0 (1)' in str(table(4, runs)) and '44.0 (1)' not in str(table(4, runs))
    assert '44.0 (1)' in str(table(4, runs, propagated=True))


def test_a_block_of_table_4_takes_its_recipe_from_its_own_runs():
    "A full run at another sparsity is no reason to leave the reduced ones of this one out."
    measures = dict(accuracy=40., emptiness=dict(empty_neurons=30., empty_inputs=20., dense_parameters=3.))
    brief = Job('tiny_imagenet', 'vgg16_tiny', 'ggr', .03, 'erk', 0, epochs=2)
    elsewhere = replace(brief, density=.1, epochs=None)
    runs = {j.key: dict(key=j.key, job=asdict(j), **measures) for j in (brief, elsewhere)}
    recipes = {b.title: b.recipe for b in table(4, runs).blocks}
    assert recipes == {'MobileNetV2': '', 'VGG16': 'epochs=2', 'Tiny-ImageNet, VGG16, s=0.9': 'full'}


def test_reduced_runs_never_pass_for_full_ones():
    small = records(grid(**RESNET, methods='set', sparsities=.9, inits='erk', epochs=5), lambda j: 33.)
    full = records(grid(**RESNET, methods='set', sparsities=.9, inits='erk', seeds=[0]), lambda j: 74.)
    assert '33.00' in str(table(1, small)) and 'REDUCED (epochs=5)' in str(table(1, small))
    assert '33.00' not in str(table(1, small | full)) and 'REDUCED' not in str(table(1, small | full))
    assert '74.00' not in str(table(1, small | full, recipe='epochs=5'))


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=8))
def test_podium(values):
    for v, r in zip(values, podium(values)):
        if v is None: assert r is None
        else:
            better = len({w for w in values if w is not None and w > v})
            assert r == (better if better < 3 else None)


@given(st.lists(st.floats(5, 99), min_size=2, max_size=6))
def test_entry_statistics(values):
    e = Entry(60., tuple(values))
    error = statistics.stdev(values) / len(values) ** .5
    assert e.texts()['ours'] == f'{statistics.fmean(values):.2f} ± {error:.2f} ({len(values)})'


def test_no_difference_is_printed_where_none_means_anything():
    "A reduced run differs from the paper by its recipe first of all."
    runs = records(grid(**RESNET, methods='set', sparsities=.9, inits='erk', epochs=5), lambda j: 17.)
    for text in (str(table(1, runs)), table(1, runs).markdown()): assert '17.00' in text and '−57' not in text and 'difference' not in text.split('published: Parger')[0]
    full = records(grid(**RESNET, methods='set', sparsities=.9, inits='erk'), lambda j: 17.)
    assert '−57.18' in str(table(1, full))


def test_a_foreign_file_is_no_table(tmp_path):
    Results(tmp_path/'r.jsonl').append(dict(key='an experiment', config={}))
    with pytest.raises(ValueError, match='holds no runs of jobs'): table(1, tmp_path/'r.jsonl')


# --- the verdict
ARMS = {m: {s: 90 + x + (s % 3) for s, x in enumerate(noise)} for m, noise in
        dict(a=(0, .1, -.2, .3, 0), b=(.1, 0, -.1, .2, .1), c=(4, 4.2, 3.9, 4.1, 4.)).items()}


def test_t_and_holm_are_those_of_the_books():
    for m in 'bc':
        ours, theirs = paired(ARMS[m], ARMS['a']), stats.ttest_rel(list(ARMS[m].values()), list(ARMS['a'].values()))
        assert ours.p == pytest.approx(theirs.pvalue) and ours.half == pytest.approx(np.diff(theirs.confidence_interval())[0] / 2)
    assert holm([.01, .04, .03]) == pytest.approx([.03, .06, .06])
    assert estimate([1, 2, 3, 4]).half / estimate([1, 2, 3, 4]).se == pytest.approx(3.18245, abs=1e-5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_order_and_never_helps(ps):
    out = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, out)) and max(out) >= min(1, max(ps)) and min(out) == pytest.approx(min(1, len(ps) * min(ps)))
    assert [q for _, q in sorted(zip(ps, out))] == sorted(out)


def test_a_verdict_has_four_words():
    found = verdict(ARMS, 'a', margin=1.)
    assert found['b', 'a'].word == 'equal' and found['c', 'a'].word == 'ahead' and found['a', 'c'].word == 'behind'
    assert verdict(ARMS, 'a')['b', 'a'].word == 'open'                                # not clear is not equal
    assert found['a', 'c'].by.mean == -found['c', 'a'].by.mean
    assert verdict(ARMS, 'a', images=359)['c', 'a'].by.se > found['c', 'a'].by.se
    assert verdict({m: {0: v[0]} for m, v in ARMS.items()})['a', 'c'].word == 'open'  # one seed is no evidence


@given(st.lists(st.tuples(*[st.floats(5, 95)] * 2), min_size=1, max_size=7), st.integers(20, 10**6), st.floats(.1, 20))
def test_the_error_of_the_images_never_makes_a_verdict_surer(runs, images, margin):
    "Neither a difference nor an equality, in neither direction; one run says nothing; equal runs do not divide by zero."
    a, b = ({s: pair[i] for s, pair in enumerate(runs)} for i in (0, 1))
    alone, whole, turned = paired(a, b), paired(a, b, images), paired(b, a, images)
    if len(runs) == 1: assert np.isnan([alone.p, whole.p, alone.within(margin), whole.within(margin)]).all(); return
    assert whole.se >= alone.se and whole.p >= alone.p and whole.half >= alone.half
    assert whole.p == pytest.approx(turned.p) and whole.within(margin) == pytest.approx(turned.within(margin))
    assert whole.within(margin) >= min(alone.within(margin), .5) - 1e-12


def test_equal_is_two_tests_and_the_nearer_bound_decides():
    near = {s: 91.9 + x for s, x in enumerate((0, .01, .02, .01, 0))}, dict.fromkeys(range(5), 91.)
    for a, b in (near, near[::-1]):
        d = verdict(dict(a=a, b=b), [('a', 'b')], margin=1., images=2000).rows[0]
        assert d.by.se > .5 and d.equal > .3 and d.word == 'open', 'a point less a tenth, known to half a point, is not inside a point'


def test_more_comparisons_make_each_harder():
    rng = np.random.default_rng(0)
    arms = {m: dict(enumerate(rng.normal(0, 1, 6))) for m in 'abcdefgh'} | {'up': dict(enumerate(rng.normal(1.6, 1, 6)))}
    one, all_ = verdict(arms, [('up', 'a')]), verdict(arms)
    assert one['up', 'a'].p == all_['up', 'a'].p == one['up', 'a'].holm < all_['up', 'a'].holm


# --- a job
@pytest.mark.parametrize('name, wrong', [('seed', -1), ('seed', 1.5), ('seed', '3'), ('epochs', 0), ('width', 0), ('width', float('inf')), ('images', 0),
                                         ('images', -49000), ('stem', 0), ('batch', 0), ('updates', 0), ('fraction', float('nan')), ('fraction', 2),
                                         ('density', 0), ('density', float('nan')), ('scale', 0), ('scale', 3), ('data', None), ('model', '../x'), ('augment', 7)])
def test_a_job_that_cannot_be_is_refused(name, wrong):
    job = Job('cifar100', 'resnet18', 'set', .1, 'erk', 0)
    with pytest.raises(ValueError, match=f'^{name} is '): replace(job, **{name: wrong})


def test_a_job_of_numpy_is_the_same_job():
    odd = Job(np.str_('cifar100'), 'resnet18', 'set', np.float64(.1), 'erk', np.int64(3), width=np.float32(.5), augment=np.bool_(False))
    plain = Job('cifar100', 'resnet18', 'set', .1, 'erk', 3, width=.5, augment=False)
    assert odd == plain and odd.key == plain.key and json.dumps(asdict(odd)) == json.dumps(asdict(plain))


# --- the results file
complete = st.dictionaries(st.sampled_from('abc'), st.integers(), min_size=1)


@settings(max_examples=200, deadline=None)
@given(st.lists(complete, max_size=4), complete, st.data())
def test_a_file_cut_anywhere_loses_at_most_the_line_that_was_cut(tmp_path_factory, rows, last, data):
    store = Results(tmp_path_factory.mktemp('r')/'r.jsonl')
    for n, row in enumerate(rows): store.append(row | dict(key=str(n)))
    size_before = store.path.stat().st_size if rows else 0
    store.append(last | dict(key='last'))
    whole = store.path.read_bytes()
    cut = data.draw(st.integers(size_before, len(whole)))
    store.path.write_bytes(whole[:cut])
    kept = {str(n) for n in range(len(rows))}
    assert set(store.load()) in (kept, kept | {'last'})
    store.append(dict(key='next'))
    assert kept | {'next'} <= set(store.load()) <= kept | {'next', 'last'}
    assert ('last' in store.load()) == (cut >= len(whole) - 1)
    assert store.path.read_bytes().endswith(b'\n')


def test_a_very_long_torn_line_is_cut(tmp_path):
    store = Results(tmp_path/'r.jsonl')
    store.append(dict(key='a', x='y' * 300_000))
    with open(store.path, 'ab') as f: f.write(b'{"key": "b", "x": "' + b'z' * 300_000)
    store.append(dict(key='c'))
    assert list(store.load()) == ['a', 'c'] and store.path.read_bytes().count(b'z') == 0


def test_first_of_two_lines_counts(tmp_path):
    store = Results(tmp_path/'r.jsonl')
    for x in (1, 2): store.append(dict(key='a', x=x))
    assert store.load() == dict(a=dict(key='a', x=1))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_changes_no_result(tmp_path_factory, data):
    "Wherever a byte changes: an error that says where, or the same numbers."
    store = Results(tmp_path_factory.mktemp('r')/'r.jsonl')
    for n in range(3): store.append(dict(key=str(n), accuracy=60.125 + n, curve=[1.5, 2.25]))
    whole, before = bytearray(store.path.read_bytes()), store.load()
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    store.path.write_bytes(whole)
    try: after = store.load()
    except ValueError as e: assert re.search(r'line \d', str(e)); return
    assert {k: (r['accuracy'], r['curve']) for k, r in after.items()} == {k: (r['accuracy'], r['curve']) for k, r in before.items()}


def test_lines_without_a_seal_are_read(tmp_path):
    (tmp_path/'r.jsonl').write_text('{"key": "a", "accuracy": 1.5}\n')
    store = Results(tmp_path/'r.jsonl'); store.append(dict(key='b', accuracy=2.))
    assert store.load() == dict(a=dict(key='a', accuracy=1.5), b=dict(key='b', accuracy=2.))


@pytest.mark.parametrize('line', [b'[1, 2]', b'5', b'{"a": 1}', b'{"key": 3}', b'\xff\xfe{', b'[' * 100_000])
def test_lines_of_another_kind_are_named(tmp_path, line):
    (tmp_path/'r.jsonl').write_bytes(sealed(dict(key='a')) + b'\n' + line + b'\n')
    with pytest.raises(ValueError, match='line 2'): Results(tmp_path/'r.jsonl').load()


def test_results_hold_no_nan_and_nothing_foreign(tmp_path):
    store = Results(tmp_path/'r.jsonl')
    store.append(dict(key='a', loss=[float('nan'), np.float32('inf')], n=np.int64(3)))
    assert store.load()['a'] == dict(key='a', loss=[None, None], n=3) and 'NaN' not in store.path.read_text()
    with pytest.raises(TypeError, match='holds a object'): store.append(dict(key='b', what=object()))
    with pytest.raises(ValueError, match='no "key"'): store.append(dict(accuracy=1.))
    assert list(store.load()) == ['a']


def test_shares_are_no_percentages():
    arms = {m: {s: v + .01 * s for s in range(3)} for m, v in dict(a=.9, b=.8).items()}
    with pytest.raises(ValueError, match='in percent'): verdict(arms, images=359)
    assert verdict(arms).rows and verdict({m: {s: 100 * v for s, v in by.items()} for m, by in arms.items()}, images=359).rows
