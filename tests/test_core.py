"""Properties of the core: exact counts, exact zeros, exact resumption, for every method and any input."""
import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

import ggr_nb.masks as masks_module
from conftest import same
from ggr_nb.density import DENSITIES, budgets, largest_remainder
from ggr_nb.drop import lowest
from ggr_nb.grow import momentum
from ggr_nb.init import random_masks, sample
from ggr_nb.masks import Dense, counts, generator
from ggr_nb.methods import METHODS
from ggr_nb.sparsify import Sparsifier
from ggr_nb.topk import StreamingTopK

OPTIMIZERS = {'sgd': lambda p: torch.optim.SGD(p, lr=.02, momentum=.9, weight_decay=1e-3),
              'adam': lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-3, amsgrad=True)}
X, Y = torch.randn(16, 12, generator=generator(0, 'x')), torch.arange(16) % 4


def small(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 4)).to(dtype)


def step(model, optimizer, i):
    optimizer.zero_grad()
    cross_entropy(model((X + .1 * (i % 7)).to(next(model.parameters()).dtype)).float(), Y).backward()
    optimizer.step()


@pytest.mark.parametrize('optimizer, dtype', [('sgd', torch.float32), ('adam', torch.bfloat16)], ids=['sgd-float32', 'adam-bfloat16'])
@pytest.mark.parametrize('method', METHODS)
def test_60_updates_conserve_counts_and_keep_zeros(method, optimizer, dtype):
    model = small(dtype); opt = OPTIMIZERS[optimizer](model.parameters())
    s = Sparsifier(model, opt, method, density=.2, every=1, until=61, fraction=.3)
    total, sizes = sum(s.counts().values()), {n: p.numel() for n, p in s.weights.items()}
    for i in range(63):
        step(model, opt, i)
        n = s.counts()
        assert all(1 <= n[k] <= sizes[k] for k in n)
        assert sum(n.values()) == total or (method == 'gmp' and sum(n.values()) <= total)
        for k, p in s.weights.items():
            off = s.layers[k].mask == 0
            assert not p[off].any(), (k, i)
            if method != 'snfs':  # lives on momentum at inactive places, by definition
                assert not any(t[off].any() for t in s._states(s.layers[k]).values()), (k, i)
    assert s.updates == (60 if s.method.dynamic else 0)
    if method == 'gmp': assert s.counts() == s.targets


@pytest.mark.parametrize('optimizer, state', [('sgd', 'momentum_buffer'), ('adam', 'exp_avg')])
def test_momentum_is_read_where_weights_are_and_nowhere_else(optimizer, state):
    model = small(); opt = OPTIMIZERS[optimizer](model.parameters())
    s = Sparsifier(model, opt, 'rigl-sm', density=.2, every=4, until=12, fraction=.4)
    for i in range(4): step(model, opt, i)
    share = {n: float(opt.state[p][state][s.masks[n]].abs().mean()) for n, p in s.weights.items()}
    seen = s.snapshot({n: Dense(p.grad) for n, p in s.weights.items()})
    step(model, opt, 4); moved = s.history[0]['layers']; s.check()
    free = {n: l.size - len(l.places) + moved[n]['dropped'] for n, l in seen.layers.items()}
    assert {n: l['quota'] for n, l in moved.items()} == largest_remainder(share, s.history[0]['k'], free)
    greedy = replace(METHODS['rigl-sm'], name='greedy', grow=momentum)              # looks at free places, and does not say so
    s.remove(); model = small(); opt = OPTIMIZERS[optimizer](model.parameters())
    Sparsifier(model, opt, greedy, density=.2, every=2, until=12); step(model, opt, 0); step(model, opt, 1)
    with pytest.raises(ValueError, match='dense momenta'): step(model, opt, 2)


def everything(model, opt, s): return copy.deepcopy([model.state_dict(), opt.state_dict(), s.state_dict()])


def test_state_survives_a_file(tmp_path):
    model = small(); opt = OPTIMIZERS['sgd'](model.parameters()); s = Sparsifier(model, opt, 'deepr', density=.3, until=9)
    for i in range(5): step(model, opt, i)
    torch.save(s.state_dict(), tmp_path / 's.pt')
    loaded = torch.load(tmp_path / 's.pt', weights_only=True)
    assert same(loaded, s.state_dict())


# ---- integers -----------------------------------------------------------------------------------------------

shares = st.lists(st.tuples(st.floats(0, 1e9), st.integers(0, 50), st.integers(0, 10**6)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=300)
@given(shares, st.data())
def test_largest_remainder_is_exact_within_floors_and_caps(rows, data):
    share = {str(i): r[0] for i, r in enumerate(rows)}
    floor, cap = {str(i): r[1] for i, r in enumerate(rows)}, {str(i): r[1] + r[2] for i, r in enumerate(rows)}
    total = data.draw(st.integers(sum(floor.values()), sum(cap.values())))
    got = largest_remainder(share, total, cap, floor)
    assert sum(got.values()) == total and all(floor[n] <= got[n] <= cap[n] for n in share)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(.01, 1e6), min_size=1, max_size=9), st.integers(0, 10**7))
def test_largest_remainder_stays_within_one_of_the_ideal(parts, total):
    share = dict(enumerate(parts))
    got = largest_remainder(share, total)
    assert all(abs(got[i] - total * s / sum(parts)) <= 1 + 1e-6 * total for i, s in share.items())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3])), min_size=1, max_size=8),
       st.floats(.02, 1), st.sampled_from(sorted(DENSITIES)))
def test_budgets_meet_any_feasible_density(layers, density, rule):
    shapes = {str(i): (o, n, k, k) if k > 1 else (o, n) for i, (o, n, k) in enumerate(layers)}
    sizes = {n: torch.Size(s).numel() for n, s in shapes.items()}
    total = round(density * sum(sizes.values()))
    if total < len(shapes):
        with pytest.raises(ValueError, match='cannot be reached'): DENSITIES[rule](shapes, density)
        return
    n = budgets(shapes, DENSITIES[rule](shapes, density), total)
    assert sum(n.values()) == total and all(1 <= n[k] <= sizes[k] for k in n)
    assert counts(random_masks(shapes, n, seed=3)) == n


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 3000), st.data())
def test_sample_is_a_subset_of_exact_size(n, data):
    k = data.draw(st.integers(0, n))
    got = sample(n, k, generator(n, k))
    assert len(got.unique()) == k and (not k or (got.min() >= 0 and got.max() < n))


# ---- ranks --------------------------------------------------------------------------------------------------

values = st.lists(st.integers(-3, 3), max_size=40)


@settings(deadline=None, max_examples=300)
@given(values, st.integers(0, 45))
def test_lowest_equals_a_stable_sort(xs, k):
    x = torch.tensor(xs, dtype=torch.float32)
    want = sorted(range(len(xs)), key=lambda i: xs[i])[:k]
    assert lowest(x, k).nonzero().flatten().tolist() == sorted(want)


@settings(deadline=None, max_examples=300)
@given(st.lists(values, min_size=1, max_size=6), st.integers(0, 80), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(1, 9))
def test_streaming_topk_equals_the_stable_global_sort(layers, k, dtype, chunk):
    old, masks_module.CHUNK = masks_module.CHUNK, chunk
    try:
        top = StreamingTopK(k)
        for i, xs in enumerate(layers): top.update(i, torch.tensor(xs, dtype=dtype))
        got = top.counts()
    finally: masks_module.CHUNK = old
    flat = sorted(((-x, i, j) for i, xs in enumerate(layers) for j, x in enumerate(xs)))[:k]
    assert got == {i: sum(f[1] == i for f in flat) for i in range(len(layers))}


# ---- what an update sees ----------------------------------------------------------------------------------------

@pytest.mark.parametrize('init', ['uniform', 'er', 'erk', lambda shapes, density, dense: dict.fromkeys(shapes, density / 2)])
def test_a_density_is_met_to_the_last_weight(init):
    "Also by a rule whose own densities say another number."
    for percent in range(6, 60, 7):
        model = small(); s = Sparsifier(model, OPTIMIZERS['sgd'](model.parameters()), 'static', density=percent / 100, init=init)
        assert sum(s.counts().values()) == round(percent / 100 * sum(l.size for l in s.layers.values()))


@pytest.mark.parametrize('to_none', [True, False])
def test_an_average_of_gradients_is_their_mean(to_none):
    "Kept as it was, whatever becomes of `p.grad`; a layer that missed a batch among them."
    model = small(); opt = torch.optim.SGD(model.parameters(), lr=0.); s = Sparsifier(model, opt, 'ggr', density=.2, every=4, until=99, grad_batches=3)
    seen = []
    for i in range(4):
        opt.zero_grad(set_to_none=to_none); cross_entropy(model(X + i), Y).backward(); seen.append(model[2].weight.grad.clone()); opt.step()
    opt.zero_grad(set_to_none=to_none); cross_entropy(model(X + 4), Y).backward(); seen.append(model[2].weight.grad.clone())
    torch.testing.assert_close(s._averaged()['2.weight'].tensor, sum(seen[2:]) / 3)


def quiet_step(model, opt):
    "A step of a network whose loss has no slope: what moves is the method's own doing."
    for p in model.parameters(): p.grad = torch.zeros_like(p)
    opt.step()


def test_deepr_pulls_towards_zero_and_draws_new_noise_in_every_step():
    method, moved = METHODS['deepr'], {}
    for name, change in dict(pull=dict(l1=.1, temperature=0.), noise=dict(l1=0., temperature=.02)).items():
        torch.manual_seed(0); model = nn.Sequential(nn.Linear(60, 60)); opt = torch.optim.SGD(model.parameters(), lr=.01)
        s = Sparsifier(model, opt, replace(method, every=9, **change), density=.5, until=10, scaling='keep'); on, w = s.masks['0.weight'], model[0].weight
        with torch.no_grad(): w += w.sign() * on                              # far from zero: none flips
        places = [w.detach().clone()]
        for _ in range(2): quiet_step(model, opt); places.append(w.detach().clone())
        moved[name] = [(b - a)[on] for a, b in zip(places, places[1:])]
    torch.testing.assert_close(moved['pull'], [-.001 * torch.ones(int(on.sum())) * places[0].sign()[on]] * 2, rtol=0, atol=1e-6)
    one, two = moved['noise']
    assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < .1 and float(one.std()) == pytest.approx((2 * .02 * .01)**.5, rel=.1)


# ---- in other people's loops ----------------------------------------------------------------------------------

def test_a_compiled_model_gets_the_same_masks():
    def masks(wrap):
        model = small(); opt = OPTIMIZERS['sgd'](model.parameters())
        s = Sparsifier(wrap(model), opt, 'ggr', density=.2, every=2, until=9)
        for i in range(6): step(wrap(model), opt, i)
        return s.masks
    assert same(masks(lambda m: m), masks(lambda m: torch.compile(m, backend='eager')))


def test_channels_last_decides_as_contiguous_does():
    def run(layout):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
        model = model.double().to(memory_format=layout); opt = OPTIMIZERS['sgd'](model.parameters())
        s = Sparsifier(model, opt, 'ggr', density=.2, every=1, until=9)
        x = torch.randn(16, 3, 8, 8, generator=generator(1)).double().to(memory_format=layout)
        for _ in range(6): opt.zero_grad(); cross_entropy(model(x), Y).backward(); opt.step()
        assert all(m.stride() == p.stride() for m, p in zip((l.mask for l in s.layers.values()), s.weights.values()))
        return s.masks
    assert same(run(torch.contiguous_format), run(torch.channels_last))


def test_scheduler_and_hooks_of_others_keep_working():
    model = small(); opt = OPTIMIZERS['sgd'](model.parameters()); calls = []
    opt.register_step_post_hook(lambda *a: calls.append(1))
    s = Sparsifier(model, opt, 'rigl', density=.2, every=2, until=9)
    lr = torch.optim.lr_scheduler.StepLR(opt, 3, .1)
    for i in range(6): step(model, opt, i); lr.step()
    assert len(calls) == 6 == s.steps and abs(opt.param_groups[0]['lr'] - .02 * .01) < 1e-12


def test_clipping_sees_only_active_gradients_and_growth_still_sees_all():
    plain, clipped = ([], [])
    for early, out in ((False, plain), (True, clipped)):
        model = small(); opt = OPTIMIZERS['sgd'](model.parameters()); s = Sparsifier(model, opt, 'ggr', density=.2, every=1, until=9)
        for i in range(4):
            opt.zero_grad(); cross_entropy(model(X), Y).backward()
            if early: s.mask_gradients(); assert all(not p.grad[s.layers[n].mask == 0].any() for n, p in s.weights.items())
            opt.step()
        out.append(s.masks)
    assert same(plain, clipped)


def test_deleting_a_layers_gradient_is_no_crash():
    model = small(); opt = OPTIMIZERS['sgd'](model.parameters()); s = Sparsifier(model, opt, 'ggr', density=.2, every=1, until=9)
    for i in range(3):
        opt.zero_grad(); cross_entropy(model(X), Y).backward(); model[0].weight.grad = None; opt.step()
    assert s.updates == 2


def test_nan_gradient_refuses_the_update_and_changes_nothing():
    model = small(); opt = OPTIMIZERS['adam'](model.parameters()); s = Sparsifier(model, opt, 'set', density=.2, every=2, until=9)
    for i in range(2): step(model, opt, i)
    before = everything(model, opt, s)
    opt.zero_grad(); cross_entropy(model(X), Y).backward(); model[2].weight.grad[0, 0] = float('inf')
    with pytest.raises(FloatingPointError, match='2.weight'): opt.step()
    assert same(before, everything(model, opt, s))


def test_an_update_made_before_the_step_is_not_repeated_after_a_resume():
    def run(stop):
        model = small(); opt = OPTIMIZERS['sgd'](model.parameters()); s = Sparsifier(model, opt, 'ggr', density=.2, every=2, until=9)
        for i in range(6):
            opt.zero_grad(); cross_entropy(model(X + .1 * i), Y).backward(); s.mask_gradients()
            if i == stop:
                saved, grads = everything(model, opt, s), [p.grad.clone() for p in model.parameters()]
                model = small(); opt = OPTIMIZERS['sgd'](model.parameters()); s = Sparsifier(model, opt, 'ggr', density=.2, every=2, until=9)
                for part, state in zip((model, opt, s), saved): part.load_state_dict(state)
                for p, g in zip(model.parameters(), grads): p.grad = g
            opt.step()
        return everything(model, opt, s)
    assert all(same(run(None), run(stop)) for stop in (2, 3, 4))
