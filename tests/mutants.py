"""Classic mistakes, put one at a time into a copy of the package: the tests of the core must notice every one.

    python tests/mutants.py            all of them
    python tests/mutants.py grow 17    those of a module, or one by its number

A mutant is a text that stands exactly once in its module, another text, and the mistake that this is. None may be
equivalent to the original. The result stands in tests/mutants.json: who killed a mutant is asked first the next time.
"""
import json, multiprocessing, os, shutil, signal, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / 'tests' / 'mutants.json'
LIMIT, HUNG = 900, 60        # seconds for a mutant, and for one test of it, which has no end then: a failure
TESTS = ['properties', 'core', 'connect', 'sparse', 'contract', 'device']
FIRST = {'density': 'properties', 'init': 'properties', 'sparsify': 'contract', 'sparse': 'sparse', 'beyond/connect': 'connect',       # likely killers
         'masks': 'properties::test_sorted_places_are_kept_merged_and_counted', 'drop': 'properties::test_removal_takes_the_smallest_and_leaves_one',
         'topk': 'properties::test_streaming_topk_equals_a_sort_of_everything_for_any_split', 'grow': 'properties::test_growth_never_collides',
         'allocate': 'properties::test_every_allocation_gives_back_what_was_taken_within_the_room',
         'schedule': 'properties::test_the_fraction_falls_from_its_start_to_the_end_of_its_curve',
         'methods': 'properties::test_every_method_conserves_the_count_over_updates_of_anything'}

MUTANTS = [(module, *lines) for module, group in {
'masks': [
    ("if hasattr(module, 'weight') and not _keeps_zeros(module): return", 'pass', 'a layer that fills its zeros again is called sparse'),
    ('torch._foreach_mul_(*map(list, zip(*pairs)))', 'torch._foreach_mul_(*map(list, zip(*pairs[:1])))', 'only the first layer is masked'),
    ('return self.tensor[first:last].reshape(-1).abs()', 'return self.tensor[first:last].reshape(-1)', 'the sign of the gradient decides'),
    ('alpha=stride - step)', 'alpha=stride)', 'positions of another layout are read elsewhere'),
    ('torch.searchsorted(places, gone), False)', 'torch.searchsorted(places, gone), True)', 'nothing is ever dropped'),
    ('len(places) - len(gone))', 'len(places) - len(gone) - 1)', 'on a device the last weight that stays is forgotten'),
    ('+ torch.arange(len(new), device=new.device)\n', '\n', 'new places are merged one too early'),
    ('self.blocked - torch.arange(len(self.blocked), device', 'self.blocked - 1 - torch.arange(len(self.blocked), device', 'off by one: a free place is taken for its neighbour'),
    ('torch.searchsorted(before, ranks, right=True)', 'torch.searchsorted(before, ranks)', 'left for right: growth picks active places'),
    ('self.size - len(self.blocked)', 'self.size - len(self.places)', 'just-dropped places count as free where they are not'),
    ('taken=None if again else self.blocked', 'taken=self.blocked if again else None', 'the switch for just-dropped places, inverted'),
    ('yield start, piece.index_fill_(0, self.blocked[a:b] - start, fill)', 'yield start, piece', 'a forgotten mask: active weights vote'),
    ('torch.tensor([start, start + len(piece)]', 'torch.tensor([start, start + len(piece) - 1]', 'off by one: the last place of a piece is not masked'),
    ('repr((seed, *keys))', 'repr((seed, *keys[:1]))', 'wrong seed key: all layers draw the same'),
    ("generator(self.seed, 'update', self.update, *keys)", "generator(self.seed, 'update', *keys)", 'wrong seed key: all updates draw the same'),
    ("scramble(positions, self.salt(name))", 'positions', 'ties go to the first rows'),
    ('if p.ndim < 2: continue', 'if p.ndim < 1: continue', 'biases and normalisation are offered masks'),
    ('and id(p) not in tables', '', 'a tied embedding is made sparse'),
    ("names -= _match(all_, 'exclude', exclude)", "names &= _match(all_, 'exclude', exclude)", 'exclude= keeps what it should leave out'),
    ('.detach().to(torch.bool, copy=True)', '.detach().to(torch.bool)', 'a lost copy: the masks handed out are the working masks'),
], 'density': [
    ('return sum(shape) / math.prod(shape)', 'return sum(shape[:2]) / math.prod(shape[:2])', 'ER called ERK'),
    ('return sum(shape[:2]) / math.prod(shape[:2])', 'return sum(shape) / math.prod(shape)', 'ERK called ER'),
    ('if eps * top > 1 - 1e-12 else set()', 'if False else set()', 'clipped ERK: the budget of full layers is lost'),
    ('left = budget - sum(sizes[n] for n in full)', 'left = budget', 'full layers are not paid for'),
    ('return low if missing >= excess else high', 'return low | high', 'floors and caps fixed at once'),
    ('high = {n: caps[n] for n in ideal if ideal[n] > caps[n]}', 'high = {}', 'forgotten caps'),
    ('whole = {n: math.floor(x)', 'whole = {n: round(x)', 'each layer rounded by itself: the sum drifts'),
    ('key=lambda n: whole[n] - ideal[n])', 'key=lambda n: ideal[n] - whole[n])', 'smallest remainder for largest'),
    ('sizes[n] if n in dense else 1 for n in shapes}', 'sizes[n] if n in dense else 0 for n in shapes}', 'a layer may end up empty'),
    ('if round(density * total) < least:', 'if round(density * total) <= least:', '<= for <: a density that can be reached is refused'),
    ('return sum(N if n in dense else 1 for n, N in sizes.items())', 'return sum(N if n in dense else 0 for n, N in sizes.items())', 'one weight per layer forgotten in the least density'),
], 'init': [
    ("return found[torch.randperm(len(found), generator=gen, device='cpu')[:k]]", 'return found[:k]', 'the lowest places are drawn more often'),
    ("if 2 * k > n: return torch.randperm(n, generator=gen, device='cpu')[:k]", 'if 2 * k > n: return torch.rand(n, generator=gen).lt(k / n).nonzero().flatten()', 'Bernoulli masks: counts are right on average only'),
    ("generator(seed, 'mask', name)", "generator(seed, 'mask')", 'wrong seed key: layers of one shape get one mask'),
    ('torch.cat([found, more]).unique()', 'torch.cat([found, more])', 'places drawn twice'),
    ('return x.transpose(1, 2).flatten(0, 1).flatten(1)', 'return x.flatten(0, 1).flatten(1)', 'a swapped axis of transposed convolutions'),
    ('std = (2 / effective_fan_in(mask, scaling, axis, groups)).sqrt()', 'std = 2 / effective_fan_in(mask, scaling, axis, groups)', 'variance used as standard deviation'),
    ('* _per_unit(std, mask, axis, groups) * mask)', '* _per_unit(std, mask, axis, groups))', 'a forgotten mask at the start'),
    ('factor = (full / effective_fan_in(mask, scaling, axis, groups)).sqrt()', 'factor = (effective_fan_in(mask, scaling, axis, groups) / full).sqrt()', 'weights shrink where they should grow'),
    ('* 3**.5}', '}', 'uniform numbers of a third of the variance'),
    ("return pick('scaling', scaling, choices).clamp(min=1)", "return pick('scaling', scaling, choices)", 'a unit without inputs divides by zero'),
    ("'unit': active,\n", "'unit': active.mean().expand(len(active)),\n", "the layer's mean for the unit's own fan-in"),
], 'drop': [
    ('pick = scores < cut', 'pick = scores <= cut', '<= for <: more than k go where scores are equal'),
    ('return lowest(-(scores if', 'return lowest((scores if', 'a lost minus: the lowest are kept'),
    ('def magnitude(w, g, gen=None): return w.abs()', 'def magnitude(w, g, gen=None): return w', 'the most negative weights go'),
    ('(w >= 0, w < 0): score[side] = _relative_rank(w[side].abs())', '(w >= 0, w < 0): score[side] = _relative_rank(w[side])', 'inverted SET slices: the largest negatives go'),
    ('k = max(0, min(k, len(score) - 1))', 'k = max(0, min(k, len(score)))', 'a layer may lose its last weight'),
    ('round(snap.fraction * len(l.places)))\n', 'round(snap.fraction * l.size))\n', 'the share of all places for the share of the active'),
    ('return threshold / 2', 'return threshold * 4', "DSR's controller turns the wrong way"),
    ('(1 + tolerance) * wanted: return', '(1 - tolerance) * wanted: return', 'no dead zone above'),
    ('s.masked_fill(highest(s, 1), torch.inf)', 's', 'global removal may empty a layer'),
    ('flipped = now * before < 0', 'flipped = now * before <= 0', '<= for <: weights at zero count as flipped'),
    ('masked_fill(~flipped, torch.inf)', 'masked_fill(flipped, torch.inf)', 'a lost ~: DeepR drops what has not flipped'),
    ('(1 - snap.progress) ** 3)', '(1 - snap.progress ** 3))', 'a misplaced power: pruning comes late'),
    ('signs = dict(seen)', 'signs = {}', 'a layer that rests forgets its signs'),
    ('signs[name] = layer.places[stay], now[stay]', 'signs[name] = layer.places[stay], now[:len(stay)]', 'signs remembered at the wrong places'),
], 'topk': [
    ('better = score >= self.threshold if self.full and self.salt else score > self.threshold', 'better = score > self.threshold', 'equals of the k-th best have no chance'),
    ('non_blocking=True)[layers])', 'non_blocking=True)[layers * 0])', 'all layers draw from one lottery'),
    ('True, kept[0].min()', 'True, kept[0].max()', 'max for min: the threshold is the best'),
    ('found + (start + a))', 'found + a)', 'places counted from the piece and not from the layer'),
    ('if self.held > self.k:\n', 'if self.held > self.k + 1:\n', 'off by one: k + 1 are kept'),
    ('argsort(descending=True, stable=True)]\n', 'argsort(descending=False, stable=True)]\n', 'the worst come first'),
    ('above if k else math.inf', 'above', 'the vote of nobody has no threshold'),
    ('(layers.long() << 40)', '0', 'equals by place, whichever layer came first'),
], 'allocate': [
    ('quotas = largest_remainder(shares, first, caps=room)', 'quotas = largest_remainder(shares, first)', 'more than there is room for'),
    ('first = min(total, sum(room.values()))', 'first = sum(room.values())', 'full where it should be exact'),
    ('return deal({n: len(l.places) for n, l in free.items()}', 'return deal({n: len(l.places) for n, l in snap.layers.items()}', 'DSR counts what was there before the drop'),
    ('StreamingTopK(sum(dropped.values()), above=0.0', 'StreamingTopK(sum(dropped.values()) + 1, above=0.0', 'off by one: one vote too many'),
    ('sum(dropped.values()), above=0.0, salt', 'sum(dropped.values()), salt', 'places without any gradient vote'),
    ('space = {n: max(l.free, dropped[n]) - voted[n]', 'space = {n: max(l.free, dropped[n])', 'room that the vote has taken already'),
    ('return float(x.float().abs().mean())', 'return float(x.float().mean().abs())', 'the absolute value of the mean for the mean absolute value'),
    ('right=True).bincount(', 'right=False).bincount(', 'off by one at the borders of layers'),
    ('{n: _mean(l.momenta)', '{n: _mean(l.grads)', 'SNFS reads the gradient'),
    ('(max(1, free[n].free) / p)**.5', '(p / max(1, free[n].free))**.5', 'multiplied by what should divide'),
], 'grow': [
    ('return layer.free_places(ranks)', 'return ranks', 'growth picks active places'),
    ('return layer.best[:q]', 'return layer.best[-q:]', "the worst of the vote's places"),
    ('top = StreamingTopK(q, above=0.0', 'top = StreamingTopK(max(1, q - 1), above=0.0', 'off by one: the q-th best is left to chance'),
    ('pick_random(layer.blocking(found), q - len(found)', 'pick_random(layer, q - len(found)', 'random places collide with those by gradient'),
    ('rest = pick_random(layer.blocking(first)', 'rest = pick_random(layer', "GGR's random half collides with the other"),
    ('_up(share * q))\n', 'int(share * q))\n', 'floor for ceil'),
    ('first = pick_top(snap, layer, _up(share * q))', 'first = pick_top(snap, layer, _up((1 - share) * q))', 'the shares of gradient and chance swapped'),
    ('min(layer.free, _up(times * q))', '_up(times * q)', 'more candidates than places'),
    ("return pick_top(snap, layer, q, of='momenta')", 'return pick_top(snap, layer, q)', 'SNFS grows by gradient'),
    ('highest(layer.gradient_at(some).abs(), q', 'highest(layer.gradient_at(some), q', 'large negative gradients come last'),
], 'schedule': [
    ('return (1 + math.cos(math.pi * t)) / 2', 'return (1 + math.cos(math.pi * t / 2)) / 2', 'half a cosine'),
    ('min(1.0, (update - 1) / (last - 1))', 'min(1.0, update / last)', 'off by one: the first update is not the first'),
    ('sum(epoch >= m for m in milestones)', 'sum(epoch > m for m in milestones)', '> for >=: the rate falls an epoch late'),
    ('(1 - t) ** power', '1 - t ** power', 'a misplaced power'),
], 'methods': [
    ("rigl = Method('rigl', grow=grow.gradient", "rigl = Method('rigl', grow=grow.random", 'RigL grows at random'),
    ('allocate=allocate.survivors, regrow_dropped=False', 'allocate=allocate.survivors', 'DSR takes dropped places back'),
    ('min(q, layer.free)))\n', 'q))\n', 'a full layer cannot take its own places back'),
    ('others = torch.cat([layer.places, first]).sort().values', 'others = layer.places', 'second growth collides with the first'),
    ('l.without(dropped[n], method.regrow_dropped)', 'l.without(dropped[n][:0], method.regrow_dropped)', 'growth sees the layer as before the drop'),
    ('* 2 - 1\n', '\n', 'DeepR: half of the new weights have no sign'),
    ('torch.cat([known, sign.to(torch.int8)])[order]', 'torch.cat([known, sign.to(torch.int8)])', 'signs not sorted with their places'),
    ('if new > gone or new < gone and not method.prunes', 'if new > gone or 0 < new < gone and not method.prunes', 'an allocation that gives nothing at times loses weights'),
    ('for at, value in zip(known[layout], (empty, values)):', 'for at, value in zip(known[layout][::-1], (values, empty)):', 'a place that is regrown is emptied'),
    ('change_(m.clone(), update.dropped[n]', 'change_(m, update.dropped[n]', 'a lost copy: old masks change'),
    ('found.best[n].to(l.places.device)) if n in found.best else l', 'found.best[n].to(l.places.device).flip(0)) if n in found.best else l', "the vote's places in the wrong order"),
    ('drop=drop.drop_global, allocate', 'allocate', 'Chase removes in each layer alone'),
], 'sparsify': [
    ('            self._sums, self._batches, self._updated_at = {}, 0, self.steps', '            self._updated_at = self.steps', 'gradients of an update that had none are kept for the next'),
    ('        self._tell_what_was_cut()                             # the loaded weights are used', '        pass', 'a checkpoint is evaluated without its masks, and nothing is said'),
    ('elif n in hidden and weight is not None:', 'elif False:', 'what is written between two loads loses what was hidden'),
    ('[[_plain(k), _plain(v)] for', '[[k, _plain(v)] for', 'keys of what a rule remembers come back as lists'),
    ('            self._find_unread()\n', '', 'state in a list is never mentioned'),
    ('self._state_is_old &= self.steps > 0', 'pass', 'a state that was loaded first is thrown away'),
    ('change_(self.mask, gone, new, 1, known=known)', 'change_(self.mask, gone[:0], new, 1)', 'dropped weights stay in the mask'),
    ('for state, fresh in states: change_(state, gone, new, fresh, empty=fresh, known=known)', 'pass', 'an unmasked state: moments of dead weights are kept'),
    ('change_(self.weight, gone, new, values, known=known)', 'change_(self.weight, gone[:0], new, values)', 'dropped weights live on'),
    ('apply_masks_({n: l.weight.grad for n, l in self._masked.items()}, self._masks())', 'pass', 'momentum revives masked weights'),
    ('0 < self.steps < self.until', '0 <= self.steps < self.until', 'an update before the first step'),
    ("self.seed, self.steps, self._batches = state['seed'], state['steps'], state['batches']", "self.steps, self._batches = state['steps'], state['batches']", 'the seed lost on resume'),
    ("layer.restore(state['masks'][n])", 'pass', 'masks lost on resume'),
    ("self.memory, self.history = _from_text(state['memory'])", 'self.memory, self.history = {}', "a method's memory lost on resume"),
    ('s.masked_fill_(off, begins.get(k, 0.))', 'pass', 'state of a dense run is not masked'),
    ('if self._mask_after_step: self._mask_weights()', 'pass', 'an optimiser that moves masked weights is not masked'),
    ('self._updated_at != self.steps)', 'True)', 'an update before the step is made again in it'),
    ('total = None if isinstance(init, dict) else round(density * size)', 'total = None', 'densities rounded, and not the total'),
    ("if not (group.get('momentum') or group.get('betas'))", 'if False', 'SNFS without any momentum'),
    ('Held(seen.places, layer.held(momentum, seen.places))', 'Held(seen.places, grad.at(seen.places))', 'RigL-SM reads the gradient'),
    ('Dense(momentum) if self.method.dense_momenta else', 'Dense(momentum) if True else', 'momentum of free places is read and nobody said so'),
    ('0 < self.steps < self.until', '0 < self.steps <= self.until', '<= for <: one update too late'),
    ('g.plus(self._sums[n]).over(self._batches + 1)', 'g.plus(self._sums[n]).over(self._batches)', 'off by one: the average of one batch too few'),
    ('else g.over(1)     # a copy', 'else g     # a copy', 'a lost copy: the gradient kept is overwritten'),
    ('grads = {n: g.over(scale.to(g.tensors[0].device)) for n, g in grads.items()}', 'pass', 'loss scaling changes the ranking'),
    ('self._real = (overflow is None or not bool(overflow)) and', 'self._real =', 'steps that the scaler skips are counted'),
    ('push = l1 * p.detach().sign()', 'push = -l1 * p.detach().sign()', "DeepR's pull away from zero"),
    ("generator(self.seed, 'noise', self.steps, n)", "generator(self.seed, 'noise', n)", 'wrong seed key: the same noise in every step'),
    ('return torch.equal(both[:len(marks)], -both[len(marks):])', 'return True', 'different masks on different ranks are not noticed'),
    ('_OWNERS[self.optimizer] = weakref.ref(self)', 'pass', 'two sparsifiers on one optimiser'),
    ("found[id(module.weight)] = 1, module.groups", "found[id(module.weight)] = 0, module.groups", 'a swapped axis: fan-in of transposed convolutions'),
    ('if k not in self._mixed and bool(_uneven(s, off))}', '}', 'what an optimiser holds at inactive places is wiped on resume'),
    ('settings = copy.deepcopy({', 'settings = dict({', 'a look at fresh state counts a step'),
    ('if whole and not self._untouched(n):', 'if True:', 'masked weights are put aside in place of the loaded ones'),
    ('self._aside[n] = None, self._aside[n][1]', 'pass', 'weights of an earlier file come back'),
    ('if left is None: left = whole.to(now) * layer.mask.to(now)', 'left = whole.to(now) * layer.mask.to(now)', 'rescaled weights count as written by hand'),
    ("if 'step' in state: state['step'] = state['step'] * 0", "if False: pass", 'moments begin anew, their bias correction does not'),
], 'sparse': [
    ('elif original._moves != moves and not', 'elif False and not', 'an average of places that moved is used'),
    ('return not self.values.grad.any() and any(made)', 'return False', 'batches that were thrown away are seen by growth'),
    ('float(found[0] if known else factor), False', 'float(factor), False', 'a penalty changes the unit of a layer in the vote'),
    ('dist.broadcast(self.values.data,', '(lambda *a, **k: None)(self.values.data,', 'processes begin with other values'),
    ('* columns\n    return', '* rows\n    return', 'a swapped axis'),
    ('across, turn = self.col.sort(stable=True)', 'across, turn = self.col.sort(stable=True, descending=True)', 'the transposed matrix in the wrong order'),
    ('values.index_select(0, self.turn)', 'values', "the transposed matrix with the matrix's values"),
    ('return torch.cat([held[kept], fresh.expand(len(new))])[order]', 'return torch.cat([held[kept], fresh.expand(len(new))])', 'values not sorted with their places'),
    ('for state, fresh in states: state.data = moved(state, fresh)', 'for state, fresh in states: state.data = moved(state, 0.)', 'new weights do not begin with the state of the optimiser'),
    ('if task not in self._passes and self._thrown_away(): self.batches = []', 'self.batches = []', 'growth sees the last micro-batch only'),
    ('self.batches += self._passes.pop(torch._C._current_graph_task_id(), [])', 'self.batches += sum(self._passes.values(), [])', 'growth sees passes that gave no gradient'),
    ('.index_copy_(0, order, there)', '.index_copy_(0, order.argsort(), there)', 'a permutation for its inverse'),
    ('(self.dy[:, first:last].t() @ self.x).view(-1)', '(self.dy[:, :last - first].t() @ self.x).view(-1)', 'the gradient of the first units for all'),
    ('if self.bias is not None: y = y + self.bias', 'pass', 'a forgotten bias'),
    ('if self.bias is not None: linear.bias.copy_(self.bias)', 'pass', 'the bias is lost on the way back'),
    ('torch.where(old[at] == saved, weight.data[at], 0))', 'weight.data[at])', 'a loaded pattern takes values of other places'),
    ('if self.moves == self.module._moves: return False', 'return self.moves != self.module._moves', 'a look at other weights throws the state of the optimiser away'),
    ('weight.requires_grad_(like.requires_grad)', 'pass', 'what was frozen trains'),
    ('if ctx.moves != layer._moves: raise', 'if False: raise', 'a backward pass multiplies by other places'),
    ('self.moves = self.module._moves                   # the same places have come', 'pass', 'a copy of a resumed run begins its state anew'),
    ('values = noise * (2 / fan[row]).sqrt()', 'values = noise * (2 / fan[row])', 'variance used as standard deviation'),
], 'beyond/connect': [
    ('caps=sizes, floors=units)', 'caps=sizes)', 'no floor of one weight per unit'),
    ('(out * n_in + inp) * taps', '(inp * n_out + out) * taps', 'a swapped axis'),
    ('n - int(mask.sum()), gen)', 'n - int(mask.sum()) - 1, gen)', 'off by one: a weight is missing'),
    ('rank == top[unit]', 'rank != top[unit]', "a unit's weakest are kept"),
    ("unit, rank, 'amax')", "unit, rank, 'amin', include_self=False)", 'min for max: the weakest weight is kept'),
    ('int((~safe).sum())', 'int(safe.sum())', 'a lost ~'),
    ('strongest(column // layer.shape[1], score)', 'strongest(column % layer.shape[1], score)', 'inputs for outputs'),
    ("if sides == 2: safe |= strongest", "if sides == 2: safe &= strongest", 'and for or: neither side is safe'),
    ('(active + sure <= low) & (sure < room)', 'sure < room', 'units above the level are raised as well'),
    ("score.argsort(dim=1, descending=True, stable=True)\n        if luck", "score.argsort(dim=1, stable=True)\n        if luck", "the smallest gradients of a unit"),
    ('.clamp(min=0), room)', '.clamp(min=0), room + 1)', 'off by one: a unit gets more than it has room for'),
]}.items() for lines in group]


def place(module): return f'ggr_nb/{module}.py'


def not_once():
    "The mutants whose text does not stand exactly once in its module, or that change nothing."
    text = {m: (ROOT / place(m)).read_text(encoding='utf-8') for m in {m for m, *_ in MUTANTS}}
    return [(m, old) for m, old, new, _ in MUTANTS if text[m].count(old) != 1 or old == new]


class Watch:
    "What pytest tells: who failed first. Tests draw the same examples every time, and do not shrink what they find."
    def __init__(self): self.failed = None

    def pytest_collection(self):
        from hypothesis import HealthCheck, Phase, settings
        settings.register_profile('mutants', deadline=None, derandomize=True, database=None, report_multiple_bugs=False,
                                  phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
        settings.load_profile('mutants')

    def pytest_runtest_logstart(self): signal.alarm(HUNG)

    def pytest_runtest_logfinish(self): signal.alarm(0)

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed: self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.failed: self.failed = report.nodeid


def hung(*_): raise TimeoutError(f'no end in {HUNG} s')


def _tests(folder, chosen, pipe):
    "In a process of its own: the tests of a copy, until one fails."
    os.setsid(); os.chdir(folder); sys.path.insert(0, str(folder)); os.environ['PYTHONPATH'] = str(folder)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2): os.dup2(nowhere, stream)
    import pytest
    watch = Watch(); signal.signal(signal.SIGALRM, hung)
    code = pytest.main(['-x', '-q', '-p', 'no:cacheprovider', '-p', 'no:randomly', *chosen], plugins=[watch])
    if Path(sys.modules['ggr_nb'].__file__).parent.parent != folder and not watch.failed: watch.failed = 'not the copy was tested'
    pipe.send(watch.failed or (None if code == 0 else f'pytest ended with {code}'))


def killer(folder, chosen):
    "Who fails first among these tests; None if all pass, or none has failed within the limit."
    fork = multiprocessing.get_context('fork'); mine, theirs = fork.Pipe()
    process = fork.Process(target=_tests, args=(folder, chosen, theirs)); process.start(); theirs.close()
    if late := not mine.poll(LIMIT): os.killpg(process.pid, 9)
    try: answer = mine.recv()
    except EOFError: answer = None if late else 'the process died'
    process.join()
    return answer


def copy_of(folder):
    "The package and its tests, where a mutant may live."
    ignore = shutil.ignore_patterns('__pycache__')
    for part in ('ggr_nb', 'tests', 'benchmarks'): shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    for part in ('settings.ini', 'pyproject.toml'): shutil.copy(ROOT / part, folder)
    return folder


def known():
    "{(module, mistake): result} of the last run."
    if not RESULT.exists(): return {}
    return {(m['module'], m['mistake']): m for m in json.loads(RESULT.read_text(encoding='utf-8'))['mutants']}


def write(found):
    "The result of the present list, in its order, survivors last."
    mine = [found[m, mistake] for m, _, _, mistake in MUTANTS if (m, mistake) in found]
    lines = ',\n  '.join(json.dumps(m, ensure_ascii=False) for m in sorted(mine, key=lambda m: not m['killed by']))
    RESULT.write_text(f'{{"mutants": [\n  {lines}\n]}}\n', encoding='utf-8')


def order(module):
    "The tests of a copy, the likely killers first."
    file, _, test = FIRST.get(module, 'properties').partition('::')
    files = [f'tests/test_{t}.py' for t in sorted(TESTS, key=lambda t: t != file)]
    return [f'{files[0]}::{test}', *files] if test else files


def main(chosen):
    import hypothesis, pytest, torch                         # once, for every process that is forked from this one
    torch.set_num_threads(1); sys.dont_write_bytecode = True
    if rotten := not_once(): sys.exit(f'these texts do not stand exactly once in their module: {rotten}')
    found = known()
    with tempfile.TemporaryDirectory() as folder:
        folder = copy_of(Path(folder).resolve())
        if not chosen and (why := killer(folder, order(''))): sys.exit(f'without any mutant a test fails: {why}')
        for number, (module, old, new, mistake) in enumerate(MUTANTS):
            if chosen and module not in chosen and str(number) not in chosen: continue
            file, began, by = folder / place(module), time.perf_counter(), None
            text = file.read_text(encoding='utf-8'); file.write_text(text.replace(old, new), encoding='utf-8')
            before = found.get((module, mistake))
            if before and '::' in before['killed by']: by = killer(folder, [before['killed by']])
            if not by or by.startswith('pytest ended'): by = killer(folder, order(module))      # it passes now, or is gone
            file.write_text(text, encoding='utf-8')
            seconds = round(time.perf_counter() - began, 1)
            found[module, mistake] = {'module': module, 'mistake': mistake, 'killed by': by or '', 'seconds': seconds}
            write(found)
            print(f"{number:3} {seconds:6.1f} s  {module}: {mistake} – {by or 'SURVIVED'}", flush=True)
    survivors = [m for m in known().values() if not m['killed by']]
    print(f'{len(MUTANTS)} mutants, {len(survivors)} survived')
    return bool(survivors)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
