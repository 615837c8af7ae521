"""Every exercise can be solved, and refuses what is wrong: the answers, and how tests/test_notebooks.py tries them.

A reader's cell has a placeholder (`x = None`, or a function that returns None) and the check behind it. While the notebook
runs, right after its folded solution, the check is asked about that solution, and about wrong answers that a reader might well
give: the solution must pass, every wrong answer must be refused in words.
"""
import ast, re
from pathlib import Path
from typing import NamedTuple

from execnb.nbio import read_nb

NBS = Path(__file__).resolve().parent.parent / 'nbs'

WATCH = '''def watched(model, optimizer, seen):
    def look(*_):
        name, weight = list(sparsifier.weights.items())[-1]
        seen.append(float(weight.grad{1}.abs().max()))
    {0}
    return sparsifier'''

UNITS = 'unread_units = lambda masks: sum(int(({}).sum()) for a, b in zip([*masks.values()], [*masks.values()][1:]))'

# {notebook: {name that the reader defines: wrong answers, as source}}
WRONG = {
    '00_masks': {
        'way': ['def way(buffer, lr, momentum): return lr * buffer', 'def way(buffer, lr, momentum): return lr * buffer / (1 - momentum)',
                'def way(buffer, lr, momentum): return 0.'],
        'your_density': ['your_density = (.5 + .01) / 2', 'your_density = .5 * .01'],
        'dead_units': ['def dead_units(mask): return int((mask.flatten(1).sum(0) == 0).sum())',      # columns
                       'def dead_units(mask): return int(mask.flatten(1).sum(1).min() == 0)',
                       'def dead_units(mask): return int((mask == 0).sum())'],
    },
    '01_density': {
        'weights_factor': ['weights_factor, density_factor = 4, 1', 'weights_factor, density_factor = 2, 2'],
        'rigl_uniform': ['def rigl_uniform(shapes, density): return dict.fromkeys(shapes, 1.)',
                         'def rigl_uniform(shapes, density): return uniform(shapes, density)',
                         'def rigl_uniform(shapes, density): return uniform(shapes, density, dense=["conv1.weight"])',
                         'true_density = .01', 'true_density = .0102', 'true_density = 1.015'],
        'first_saturation': ['first_saturation = .02', 'first_saturation = .005', 'first_saturation = 1'],
    },
    '02_init': {
        'your_estimate': ['your_estimate = 0', 'your_estimate = .01', 'your_estimate = 1 - .01 ** 256'],
        'covering_mask': ['def covering_mask(n_out, n_in, active, gen): return torch.eye(n_out, n_in).bool()',
                          'def covering_mask(n_out, n_in, active, gen):\n'
                          '    mask = torch.zeros(n_out, n_in, dtype=torch.bool); mask[:, 0] = True\n'
                          '    free = (~mask).flatten().nonzero().flatten()\n'
                          '    mask.view(-1)[free[sample(len(free), active - n_out, gen)]] = True\n'
                          '    return mask',
                          'def covering_mask(n_out, n_in, active, gen):\n'
                          '    return random_masks({"w": (n_out, n_in)}, {"w": active})["w"]',
                          'def covering_mask(n_out, n_in, active, gen):\n'
                          '    return (torch.eye(n_out, n_in) + torch.eye(n_out, n_in).roll(1, 1) * '
                          '(torch.arange(n_out) < active - n_out)[:, None]).bool()'],
        'buggy': ['def buggy(mask): return (2 / effective_fan_in(mask, "unit")).sqrt()[:, None]',
                  'def buggy(mask): return 2 / effective_fan_in(mask, "unit")',
                  'def buggy(mask): return (2 / effective_fan_in(mask, "dense"))[:, None]', 'dies_faster = .02'],
    },
    '03_drop': {
        'movement': ['def movement(w, old): return w', 'def movement(w, old): return w - old',
                     'def movement(w, old): return (w.abs() - old.abs()).abs() * w.abs() + (w < 0) * -9',
                     'def movement(w, old): return w.abs()'],
        'changes': ['changes = {"drop_local", "drop_threshold", "drop_global"}', 'changes = {"drop_threshold"}',
                    'changes = set()'],
        'updates_needed': ['updates_needed = 24', 'updates_needed = 35', 'updates_needed = 8', 'updates_needed = 27.9'],
    },
    '04_topk': {
        'smallest_key': ['smallest_key = torch.abs', 'smallest_key = lambda w: -w', 'smallest_key = lambda w: w'],
        'bar': ['def bar(gradient, k): return gradient.abs().max()', 'def bar(gradient, k): return gradient.abs().mean()',
                'def bar(gradient, k): return gradient.sort(descending=True).values[k - 1]', 'def bar(gradient, k): return gradient.abs().sort(descending=True).values[k]',
                'def bar(gradient, k): return gradient.abs().sort().values[k - 1]'],
        'numbers_sent': ['numbers_sent = 20', 'numbers_sent = 80', 'numbers_sent = 3400'],
    },
    '05_allocate': {
        'loudest': ['def loudest(snap, dropped, free): return dropped',
                    'def loudest(snap, dropped, free): return mean_gradient(snap, dropped, free)',
                    'def loudest(snap, dropped, free): return global_topk(snap, dropped, free).quotas'],
        'half': ['half, gets = 20, 1', 'half, gets = 10, 0', 'half, gets = 10, .5', 'half, gets = 2, 0'],
    },
    '06_grow': {
        'lost_share': ['lost_share = .3', 'lost_share = .093', 'lost_share = .393', 'lost_share = 0'],
        'cover_first': ['def cover_first(snap, layer, q): return pick_top(snap, layer, q)',
                        'def cover_first(snap, layer, q): return torch.arange(24) * 60',
                        'def cover_first(snap, layer, q):\n'
                        '    empty = torch.arange(5) * 60\n'
                        '    return torch.cat([empty, pick_random(layer.blocking(empty), q - 5, generator(0))])'],
        'times': ['times = 1', 'times = 2', 'times = 1000'],
    },
    '07_schedule': {
        'rigl_turnover': ['rigl_turnover = 293 * .3', 'rigl_turnover = 2.5', 'rigl_turnover = 58.6', 'rigl_turnover = 0'],
        'same_traffic': ['same_traffic = .1', 'same_traffic = .05', 'same_traffic = 0'],
    },
    '08_methods': {
        'rigl_by_sign': ['rigl_by_sign = rigl', 'rigl_by_sign = set_original',
                         'rigl_by_sign = replace(ggr, name="rigl-by-sign", drop=set_original.drop)'],
        'ggr_mest': ['ggr_mest = ggr', 'ggr_mest = replace(rigl, drop=partial(drop.drop_local, criterion="mest"))',
                     'ggr_mest = replace(ggr, drop=partial(drop.drop_local, criterion="snip"))',
                     'ggr_mest = replace(ggr, drop=partial(drop.drop_local, criterion="mest"), grow=rigl.grow)'],
        'lazy': ['lazy = METHODS["static"]', 'lazy = rigl', 'lazy = set_'],
    },
    '09_sparsify': {
        'epochs_needed': ['epochs_needed = 1', 'epochs_needed = 6', 'epochs_needed = 0', 'epochs_needed, static_too = 5, True'],
        'diagonal': ['diagonal = {"fc2.weight": torch.eye(10, 256)}',
                     'diagonal = {n: torch.eye(*m.flatten(1).shape, dtype=torch.bool).view_as(m) for n, m in fresh()[2].masks.items()}'],
        'watched': [WATCH.format('sparsifier = Sparsifier(model, optimizer, "static", density=.1); optimizer.register_step_pre_hook(look)', '[~sparsifier.masks[name]]'),
                    WATCH.format('optimizer.register_step_pre_hook(look); sparsifier = Sparsifier(model, optimizer, "static", density=.1)', ''),
                    'def watched(model, optimizer, seen): return Sparsifier(model, optimizer, "static", density=.1)'],
    },
    '10_sparse': {
        'break_even': ['break_even = 0', 'break_even = 1', 'break_even = 20 / 24'],
        'inputs': ['inputs, outputs = torch.ones(2, 3), torch.full((2, 4), float("nan"))', 'inputs, outputs = torch.full((2, 3), 2e38), torch.ones(4, 2)',
                   'inputs, outputs = torch.full((2, 3), 1e30), torch.full((2, 4), 1e-3)'],
    },
    'hour': {
        'drop_random': ['drop_random = lambda layers, masks, f: {n: torch.randperm(w.numel())[:63] for n, w in layers.items()}', 'drop_random = drop_smallest',
                        'drop_random = lambda layers, masks, f: {}',
                        'drop_random = lambda layers, masks, f: {n: m & (torch.rand(m.shape) < f) for n, m in masks.items()}',
                        'drop_random = lambda layers, masks, f: {n: drop_smallest(layers, masks, f)[n][torch.randint(63, (63,))] for n in layers}'],
        'share_evenly': ['share_evenly = stay', 'share_evenly = lambda layers, masks, gone: dict.fromkeys(gone, sum(map(len, gone.values())) // 4)',
                         'share_evenly = lambda layers, masks, gone: dict(zip(gone, (5, 5, 5, 8)))', 'share_evenly = lambda layers, masks, gone: dict.fromkeys(gone, 23 / 4)', 'share_evenly = lambda layers, masks, gone: {"all": 23}'],
        'unread_units': [UNITS.format('~a.any(1) & b.any(0)'), UNITS.format('~b.any(0)'), UNITS.format('a.any(1)')],
    },
    # beyond
    'beyond/connect': {
        'covered_twice': ['def covered_twice(shape, gen): return covering_mask(shape, shape[0], gen)', 'def covered_twice(shape, gen): return covering_mask(shape, 2 * shape[0], gen)',
                          'def covered_twice(shape, gen): return (torch.arange(math.prod(shape[1:])) < 2).expand(shape[0], -1).reshape(shape).clone()'],
        'weights_needed': ['def weights_needed(units): return units', 'def weights_needed(units): return math.floor(units * math.log(units)) + 1', 'def weights_needed(units): return 10 * units'],
    },
    'beyond/small_dense': {
        'widths': ['widths = {2: 100, 6: 100}', 'widths = {2: 10, 6: 10}', 'widths = {2: 25}'],
        'sureness': ["def sureness(density): return found[('ggr', f'{density:g}'), ('small-dense', f'{density:g}')].by.mean", "def sureness(density): return -found[('ggr', f'{density:g}'), ('small-dense', f'{density:g}')].by.mean",
                     "def sureness(density): return found[('ggr', f'{density:g}'), ('small-dense', f'{density:g}')].by.mean / 5 ** .5"],
    },
    'beyond/snip': {
        'anti_snip': ['def anti_snip(model, x, y, total): return snip_masks(model, x, y, total)', 'def anti_snip(model, x, y, total): return {n: ~m for n, m in snip_masks(model, x, y, total).items()}',
                      'def anti_snip(model, x, y, total):\n'
                      '    free = {n: (~m).flatten() for n, m in snip_masks(model, x, y, 2000).items()}\n'
                      '    return {n: (f & (f.cumsum(0) <= (200 if n == "fc1.weight" else 0))).view_as(masks[n]) for n, f in free.items()}'],
        'other': ['other = masks', 'other = {n: ~m for n, m in masks.items()}', 'other = anti_snip(net, x, y, 200) if anti_snip(net, x, y, 200) else masks'],
    },
    # train
    'train/compact': {
        'neurons': ['neurons = 8, 6', 'neurons = 8, 1', 'neurons = 8, 0', 'neurons = 0, 0', 'neurons = 2', 'neurons = 1'],
        'with_carrier': ['def with_carrier(): return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))',
                         'def with_carrier():\n'
                         '    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))\n'
                         '    net[0].weight.data[3:] = 0; net[0].bias.data[3:] = .3\n'
                         '    return net',
                         'def with_carrier():\n'
                         '    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1))\n'
                         '    net[0].weight.data[3:] = 0; net[0].bias.data[3:] = 0.\n'
                         '    return net'],
    },
    'train/data': {
        'shifts_per_epoch': ['def shifts_per_epoch(data, batch, per_batch): return batch', 'def shifts_per_epoch(data, batch, per_batch): return -(-len(data.train[1]) // batch) if per_batch else len(data.train[1])',
                             "def shifts_per_epoch(data, batch, per_batch): return data.steps('train', batch) if per_batch else len(data.train[1])"],
        'cutout': ['def cutout(place, top, left, size): return place', 'def cutout(place, top, left, size):\n    place[:, top[0]:top[0] + size, left[0]:left[0] + size] = 0\n    return place', 'def cutout(place, top, left, size): return 0',
                   'def cutout(place, top, left, size):\n    for p, t, l in zip(place, top, left): p[l:l + size, t:t + size] = 0\n    return place'],
    },
    'train/deploy': {
        'least_bytes': ['least_bytes = 10_000', 'least_bytes = 125_000', 'least_bytes = math.ceil(10_000 * math.log2(1_000_000) / 8)', 'least_bytes = 80794'],
        'bits_win': ['bits_win = .03', 'bits_win = .5', 'bits_win = 1 / 32'],
    },
    'train/files': {
        'lost_bytes': ['def lost_bytes(place): return zipfile.ZipFile(place).start_dir - sum(i.compress_size for i in zipfile.ZipFile(place).infolist())',
                       'def lost_bytes(place): return place.stat().st_size - sum(30 + len(i.filename) + i.compress_size for i in zipfile.ZipFile(place).infolist())',
                       'def lost_bytes(place): return zipfile.ZipFile(place).start_dir - sum(30 + len(i.filename) + i.file_size for i in zipfile.ZipFile(place).infolist())',
                       'def lost_bytes(place):\n'         # only between the entries, not before or behind them
                       '    i = zipfile.ZipFile(place).infolist()\n'
                       '    return sum(b.header_offset - a.header_offset - 30 - len(a.filename) - a.compress_size for a, b in zip(i, i[1:]))'],
    },
    'train/inputs': {
        'images_needed': ['def images_needed(p, d): return math.ceil(p * (1 - p) / d ** 2)', 'def images_needed(p, d): return math.ceil(2 * p * (1 - p) / d ** 2)',
                          'def images_needed(p, d): return math.ceil(p * (1 - p) * (2 / d) ** 2) + 100', 'def images_needed(p, d): return p * (1 - p) * 4 / d ** 2',
                          'def images_needed(p, d): return int(p * (1 - p) * 4 / d ** 2)'],
    },
    'train/machine': {
        'runs_finished': ['def runs_finished(p): return 2 * p + 3 * (1 - p), 1., 2 * p + (1 - p)', 'def runs_finished(p): return 1 / (p / 2 + 3 * (1 - p)), 1., 1 / (p / 2 + (1 - p))',
                          'def runs_finished(p): return 2 * p + (1 - p) / 3, 1., 2 * p + (1 - p) / 3',
                          'def runs_finished(p): return .4', 'def runs_finished(p): return 2 * p - 3 * (1 - p), 1., 2 * p'],
        'polite': ['def polite(work, stop_when):\n    for i in range(100):\n        if i == stop_when: return i\n        work(i)',
                   'def polite(work, stop_when):\n    with listening() as asked:\n        for i in range(100):\n            if i == stop_when: os.kill(os.getpid(), signal.SIGTERM)\n            if asked: return i\n            work(i)',
                   'def polite(work, stop_when):\n    for i in range(100):\n        if i == stop_when: os.kill(os.getpid(), signal.SIGTERM)\n        work(i)\n    return stop_when + 1',
                   'def polite(work, stop_when):\n    with listening() as asked:\n        for i in range(100):\n            if i == stop_when: os.kill(os.getpid(), signal.SIGTERM)\n            work(i)\n            if asked: return i'],
    },
    'train/measure': {
        'same_flops': ['same_flops = .03', 'same_flops = .07', 'same_flops = 7'],
        'expected': ['def expected(d): return d', 'def expected(d): return d * d', 'def expected(d): return d / 2'],
        'split': ['split = six', 'split = {"fc1.weight": torch.zeros(3, 4).bool(), "fc2.weight": torch.ones(2, 3).bool()}', 'split = {"fc1.weight": torch.ones(4, 3).bool(), "fc2.weight": torch.ones(3, 2).bool()}',
                  'split = {"fc1.weight": [[1] * 4, [0] * 4, [0] * 4], "fc2.weight": [[0, 1, 1]] * 2}'],
    },
    'train/models': {
        'small': ['small = .03', 'small = .5', 'small = .25'],
        'same_number': ['def same_number(size, density): return {k: 0 for k in size}', 'def same_number(size, density): return {k: round(density * n) for k, n in size.items()}',
                        'def same_number(size, density): return {k: min(n, int(density * sum(size.values()) / len(size))) for k, n in size.items()}',
                        'def same_number(size, density): return {k: int(density * sum(size.values()) / len(size)) for k in size}',
                        'def same_number(size, density): return {k: density * n for k, n in size.items()}'],
    },
    'train/runs': {
        'images_seen': ['def images_seen(recipe, train_images): return recipe.epochs * train_images, recipe.update_until / recipe.epochs',
                        'def images_seen(recipe, train_images): return recipe.epochs * (train_images // recipe.batch * recipe.batch), .5',
                        'def images_seen(recipe, train_images): return recipe.epochs * (train_images // recipe.batch * recipe.batch), recipe.update_until',
                        'def images_seen(recipe, train_images): return recipe.epochs * (train_images // recipe.batch * recipe.batch)'],
        'write_in_place': ['def write_in_place(path, data, stop_after): path.write_bytes(data)', 'def write_in_place(path, data, stop_after): path.with_suffix(".part").write_bytes(data[:stop_after])',
                           'def write_in_place(path, data, stop_after): path.write_bytes(data[stop_after:])', 'def write_in_place(path, data, stop_after): path.write_bytes(path.read_bytes() + data[:stop_after])'],
    },
    'train/training': {
        'survivors': ["def survivors(record, training): return {n: 1. for n in training.masks_start}",
                      "def survivors(record, training): record['survivors'] = {n: int((m & training.masks()[n]).sum()) / m.numel() for n, m in training.masks_start.items()}",
                      "def survivors(record, training): record['survivors'] = {n: int(training.masks()[n].sum()) / int(m.sum()) for n, m in training.masks_start.items()}"],
        'needed_before': ['needed_before, needed_after = {"masks"}, {"masks"}', 'needed_before, needed_after = {"masks", "steps"}, {"masks"}',
                          'needed_before, needed_after = {"masks", "steps", "seed", "history"}, {"masks"}', 'needed_before, needed_after = {"masks", "steps", "seed"}, set()',
                          'needed_before, needed_after = {"masks", "steps", "seed"}, {"masks", "steps"}', 'needed_before, needed_after = "masks", "masks"',
                          'needed_before, needed_after = {"mask", "step", "seed"}, {"mask"}'],
    },
    # paper
    'paper/commands': {
        'ggr_best': ['def ggr_best(results="results/paper.jsonl"):\n'
                     '    found = {}\n'
                     '    for r in Results(results).load().values():\n'
                     '        j = Job(**r["job"]); place = j.data, j.model, j.density, j.init\n'
                     '        found[place] = max(found.get(place, ("", 0)), (j.method, r["accuracy"]), key=lambda p: p[1])\n'
                     '    return found',
                     'def ggr_best(results="results/paper.jsonl"): return {("digits", .02, "uniform"): ("ggr", 95.)}',
                     'def ggr_best(results="results/paper.jsonl"): return {("digits", "digits_net", .02, "uniform"): ("dense", 99.)}'],
        'density_three': ['density_three = refusal(ggr_train, "digits_net", "digits", "ggrr", 3., out=f"{folder}/three")', 'density_three = "density 3"', 'density_three = refusal(ggr_train, "digits_net", "digits", "ggr", 30., out=f"{folder}/three")'],
    },
    'paper/demo': {
        'sample': ['def sample(n): return {(m, "erk"): {s: random.gauss(mean, 3) for s in range(n)} for m, mean in (("ggr", 95), ("dsr", 95))}',
                   'def sample(n): return {(m, "erk"): {s: random.gauss(mean, 9) for s in range(n)} for m, mean in (("ggr", 95), ("dsr", 93))}',
                   'def sample(n): return {(m, "erk"): {s: random.gauss(mean, 3) for s in range(3)} for m, mean in (("ggr", 95), ("dsr", 93))}'],
        'standard_errors': ['def standard_errors(a, b): return paired(a, b).se, paired(a, b).se',
                            'def standard_errors(a, b): return paired(a, b).se, sum(statistics.variance(v.values()) for v in (a, b)) ** .5',
                            'def standard_errors(a, b):\n'
                            '    apart = sum(statistics.variance(v.values()) / len(v) for v in (a, b)) ** .5\n'
                            '    return statistics.stdev(x - y for x, y in zip(a.values(), b.values())) / len(a) ** .5, apart'],
    },
    'paper/evidence': {
        'enough': ['def enough(n): return 1.96 / math.sqrt(n) < 1', 'def enough(n): return stats.t.ppf(.95, n - 1) / math.sqrt(n) < 1', 'def enough(n): return True'],
        'picked': ['def picked(rng):\n'
                   '    a, b = ({s: rng.gauss(0, 1) for s in range(5)} for _ in range(2))\n'
                   '    return paired(a, b).p',
                   'def picked(rng): return 1.'],
    },
    'paper/published': {
        'luckiest': ['def luckiest(k, n=19, draws=20_000, seed=0): return at_least(k)',
                     'def luckiest(k, n=19, draws=20_000, seed=0):\n'
                     '    rng = random.Random(seed)\n'
                     '    best = [Counter(rng.choices(range(4), k=n)).most_common(1)[0][1] for _ in range(draws)]\n'
                     '    return sum(b > k for b in best) / draws'],
        'generous': ['def generous(cells, method, sparsity, init): return 0', 'def generous(cells, method, sparsity, init): return statistics.fmean(v or 0 for v in of_nets(cells, method, sparsity, init))',
                     'def generous(cells, method, sparsity, init): return max(v for v in of_nets(cells, method, sparsity, init) if v)'],
        'winners_of': ['def winners_of(cells): return winners(cells)',
                       'def winners_of(cells):\n'
                       '    columns = {}\n'
                       '    for c, v in cells.items():\n'
                       '        if v is not None: columns.setdefault((*c[:2], *c[3:]), {})[c.method] = v\n'
                       '    return {place: max(row, key=row.get) for place, row in columns.items()}'],
    },
    'paper/sweep': {
        'from_key': ['def from_key(key): return key.split("/")', 'def from_key(key): return Job(*key.split("/")[:3], float(key.split("/")[3]), key.split("/")[4], 0)'],
        'timed': ['def timed(pool, jobs, listen=None):\n'
                  '    start = time.perf_counter()\n'
                  '    for o in pool.run(jobs, listen): yield o._replace(result=o.result | dict(seconds=time.perf_counter() - start))',
                  'def timed(pool, jobs, listen=None):\n'
                  '    for o in pool.run(jobs, listen):\n'
                  '        start = time.perf_counter(); yield o._replace(result=o.result | dict(seconds=time.perf_counter() - start))',
                  'def timed(pool, jobs, listen=None): return pool.run(jobs, listen)'],
    },
    # show
    'show/dashboard': {
        'watcher': ['def watcher(board): pass', 'def watcher(board): board.halt.set()', 'def watcher(board):\n    if board.report.accuracy[0] > .9: board.halt.set()',
                    'def watcher(board):\n    if board.report.accuracy[-1] > .75: board.halt.set()'],
        'made_up': ['def made_up(watch, **choices): watch(Report([1], [2.3], [.1]))', 'def made_up(watch, **choices):\n    for n in range(3): watch(Report([n], [2.3 - n], [.1]))',
                    'def made_up(watch, **choices):\n    for n in (1, 2, 3): watch(Report([*range(n)], [1., 2., 3.][:n], [.1] * n))'],
    },
    'show/explore': {
        'first_layer': ["def first_layer(classes): return {'conv1': ([.5, .9, .95, .99], [DENSITIES['erk'](layer_sizes('resnet18')[0], 1 - s)['conv1.weight'] for s in (.5, .9, .95, .99)])}, ''",
                        "def first_layer(classes): return {'conv1': ([.5, .9, .95, .99], [.5, .1, .05, .01])}, ''", "def first_layer(classes): return {'conv1': ([.5, .9, .95, .99], [DENSITIES['er'](layer_sizes('resnet18')[0] | {'fc.weight': (classes, 512)}, 1 - s)['conv1.weight'] for s in (.5, .9, .95, .99)])}, ''",
                        "def first_layer(classes): return {'conv1': ([.5, .9, .95, .99], [DENSITIES['erk'](layer_sizes('resnet18')[0] | {'fc.weight': (classes, 512)}, 1 - s)['fc.weight'] for s in (.5, .9, .95, .99)])}, ''"],
        'winner': ["winner, payer = list(m.masks)[0] if 'm' in globals() else 'conv1.weight', None", "winner, payer = (lambda c: (min(c, key=c.get), max(c, key=c.get)))({n: int(one_update('ggr').after[n].sum() - one_update('ggr').masks[n].sum()) for n in one_update('ggr').masks})"],
    },
    'show/explorer': {
        'places': ["def places(density): return {'mask': torch.rand(32, 32) < density}, ''", "def places(density): return {'mask': torch.arange(1024).view(32, 32) < round(1024 * density)}, ''", "def places(density): return {'mask': torch.arange(1024).view(32, 32) >= 1024 - round(1024 * density)}, ''",
                   "def places(density): return {'mask': torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < density}, ''"],
        'is_pure': ['def is_pure(draw, **knobs): return grids(draw(**knobs)) == grids(draw(**knobs)) if not isinstance(draw(**knobs), tuple) else True', 'def is_pure(draw, **knobs): return True',
                    'def is_pure(draw, **knobs):\n    torch.manual_seed(0); a = draw(**knobs); torch.manual_seed(0)\n    return str(a) == str(draw(**knobs))'],
    },
    'show/panels': {
        'gap_bytes': ['gap_bytes = 512', 'gap_bytes = int(sparse.sum())', 'gap_bytes = int(sparse.sum()) + 1'],
        'draw_text': ['def draw_text(ax, p): pass', "def draw_text(ax, p):\n    for n, v in p['values'].items(): ax.text(0, 0, f'{v} {n}')", "def draw_text(ax, p):\n    for i, n in enumerate(p['values']): ax.text(0, i, n)"],
    },
    'show/plots': {
        'mine': ["mine = bar_plot({m.upper() + '!': len(m) for m in main}, 'letters', 'x')", "mine = bar_plot(dict.fromkeys(main, 3), 'letters', 'x')", "mine = bar_plot({m: len(m) for m in main[:2]}, 'letters', 'x')"],
        'guess': ['def guess(n): return np.zeros(n)', 'def guess(n): return np.arange(n)', 'def guess(n): return np.arange(n) - n / 2'],
    },
    'show/rehearsal': {
        'back': ["back = len(set(moments[5].dropped['fc1'].tolist()) & set(moments[6].grown['fc1'].tolist()))", "back = len(moments[4].dropped['fc1'])", 'back = 0'],
        'equal': ['def equal(snap, dropped, free): return dropped', 'def equal(snap, dropped, free): return dict.fromkeys(dropped, sum(dropped.values()) // len(dropped))',
                  'def equal(snap, dropped, free): return {n: min(10, l.free) for n, l in free.items()}'],
    },
    'show/sparse_plots': {
        'gained': ["def gained(history): return {n: l['grown'] - l['dropped'] for n, l in history[-1]['layers'].items()}", "def gained(history): return {n: sum(h['layers'][n]['grown'] for h in history) for n in history[0]['layers']}",
                   "def gained(history): return {n: sum(h['layers'][n]['dropped'] - h['layers'][n]['grown'] for h in history) for n in history[0]['layers']}"],
        'stays_local': ['def stays_local(history): return True', 'def stays_local(history): return all(g == 0 for g in gained(history).values()) if gained(history) else True', "def stays_local(history): return all(sum(l['quota'] for l in h['layers'].values()) == sum(l['dropped'] for l in h['layers'].values()) for h in history)",
                        "def stays_local(history): return all(l['quota'] == l['dropped'] for l in history[-1]['layers'].values())" ],
    },
    # studies
    'studies/born': {
        'factor': ['factor = 1e3', 'factor = 316.', 'factor = 1 / 31.6'],
        'can_move': ['def can_move(b): return True', 'def can_move(b): return False', 'def can_move(b): return b != 0', 'def can_move(b): return b >= 0'],
    },
    'studies/dead_weights': {
        'is_dead': ['def is_dead(input_silent, output_unheard): return input_silent and output_unheard', 'def is_dead(input_silent, output_unheard): return input_silent',
                    'def is_dead(input_silent, output_unheard): return False'],
        'hit': ['def hit(d): return d', 'def hit(d): return d / 2', 'def hit(d): return 2 * d - d * d'],
    },
    'studies/fantastic_weights': {
        'yours': ['def yours(w, g, gen=None): return torch.zeros_like(w)', 'def yours(w, g, gen=None): return w ** 2 + w * g', 'def yours(w, g, gen=None): return w.abs() + (w * g).abs()',
                  'def yours(w, g, gen=None): return (w ** 2 + (w * g).abs()).sum()'],
        'by_chance': ['def by_chance(f): return f', 'def by_chance(f): return f * f', 'def by_chance(f): return f / 2'],
        'saved': ['def saved(w, g, gen=None): return w.abs() / g.abs()', 'def saved(w, g, gen=None): return torch.where(g == 0, torch.inf, w.abs() / g.abs())',
                  'def saved(w, g, gen=None): return g.abs()'],
    },
    'studies/fill_the_dashes': {
        'least_density': ['def least_density(shapes): return len(shapes) / sum(map(math.prod, shapes.values()))', 'def least_density(shapes): return .5',
                          'def least_density(shapes): return sum(s[0] for s in shapes.values())', 'def least_density(shapes): return 2 * sum(s[0] for s in shapes.values()) / sum(map(math.prod, shapes.values()))'],
        'lonely': ['def lonely(density, taps=9): return 1 - density', 'def lonely(density, taps=9): return density ** taps', 'def lonely(density, taps=9): return (1 - density) ** 9'],
    },
    'studies/gradient_flow': {
        'lost': ['def lost(s): return gap("unit", "dense", s).mean >= 3', 'def lost(s): return False', 'def lost(s): return s >= .98', 'def lost(s): return True'],
        'predicted': ['predicted = math.log10(math.sqrt(.2))', 'predicted = 6 * math.log10(.2)', 'predicted = math.sqrt(.2) ** 6', 'predicted = 6 * math.log(math.sqrt(.2))'],
    },
    'studies/half_by_gradient': {
        'expected': ['def expected(c): return 1.', 'def expected(c): return c ** 2', 'def expected(c): return 1 - (1 - c) ** 2'],
        'two_correlations': ['def two_correlations(sample): return 0., -.8', 'def two_correlations(sample): return correlation([point(r) for r in sample]), correlation([point(r) for r in sample])',
                             'def two_correlations(sample): return correlation([p for s in SHARES["mlp"] for p in centred(where(sample, share=s))]), correlation([point(r) for r in sample])'],
    },
    'studies/lottery_tickets': {
        'closed': ['def closed(found): return .77', 'def closed(found): return estimate(found["scratch unit"].values()).mean / estimate(found["ticket"].values()).mean',
                   'def closed(found): return (estimate(found["ticket"].values()).mean - estimate(found["scratch unit"].values()).mean) / (estimate(found["ticket"].values()).mean - estimate(found["scratch"].values()).mean)'],
        'best': ['best, its_sign_is_sure = "pruned – ticket", False', 'best, its_sign_is_sure = max(found, key=lambda n: estimate(found[n]["ensemble gain"]).mean), True',
                 'best, its_sign_is_sure = "dense", True'],
    },
    'studies/reproduction': {
        'decided': ['def decided(seeds): return 9', 'def decided(seeds): return sum(row.word != "open" for row in main.rows)', 'def decided(seeds): return sum(paired(asked[row.arm], asked[row.against]).p < .05 for row in main.rows)', 'def decided(seeds): return 3 * len(seeds) // 2'],
    },
    'studies/vote_harm': {
        'same_dose': ['same_dose = .3', 'same_dose = .5', 'same_dose = .3 * turnovers(11, .3) / turnovers(5, .3)'],
        'alone': ['def alone(d): return d.word != "open"', 'def alone(d): return abs(d.by.mean) > d.by.se', 'def alone(d): return d.holm < .05',
                  'def alone(d): return d.by.mean > 0', 'def alone(d): return abs(d.by.mean) > 2.262 * d.by.se * d.by.n ** .5'],
    },
    'studies/where_the_papers_meet': {
        'gradient_shrink': ['gradient_shrink = factor(64) * factor(300) * factor(100)', 'gradient_shrink = factor(64) * factor(300)', 'gradient_shrink = factor(100)'],
        'last_layer': ['def last_layer(method, scale="unit"): return estimate(r["counts"][0][2] for r in where(runs, part="main", method=method, scale=scale, lr=.01, init="uniform"))',
                       'def last_layer(method, scale="unit"): return estimate(r["counts"][-1][2] for r in where(runs, part="main", method=method, scale="unit", lr=.01, init="uniform"))',
                       'def last_layer(method, scale="unit"): return estimate(r["counts"][-1][0] for r in where(runs, part="main", method=method, scale=scale, lr=.01, init="uniform"))'],
    },
    'studies/who_feeds_whom': {
        'by_root_size': ["def by_root_size(snap, dropped, free): return {'small': 2, 'large': 20}", 'def by_root_size(snap, dropped, free): return dict(dropped)', 'def by_root_size(snap, dropped, free): return {n: round(math.sqrt(l.size)) for n, l in free.items()}',
                         'def by_root_size(snap, dropped, free): return deal({n: l.size for n, l in free.items()}, dropped, room(free))'],
        'pairs': ['pairs = [(final("MLP", r)["fc1.weight"], fmean(found["MLP", start][r].values())) for r in RULES]',
                  'pairs = [(fmean(found["MLP", start][r].values()), final("MLP", r)["fc3.weight"]) for r in RULES]', 'pairs = [(0., 0.) for rule in RULES]'],
    },
    # guides
    'guides/trust': {
        'norm_ratio': ['norm_ratio = 1', 'norm_ratio = 10', 'norm_ratio = 100', 'norm_ratio = .1', 'norm_ratio = 16.9 ** 2'],
    },
}


def is_none(node): return isinstance(node, ast.Constant) and node.value is None


def placeholder(node):
    "The names that a statement leaves to the reader."
    if isinstance(node, ast.FunctionDef):
        body = node.body[-1]
        return [node.name] if isinstance(body, ast.Return) and is_none(body.value) and all(map(is_text, node.body[:-1])) else []
    if not isinstance(node, ast.Assign): return []
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    if not all(map(is_none, values)): return []
    return [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]


def is_text(node): return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class Exercise(NamedTuple):
    cell: str        # id of the reader's cell
    names: list      # what it leaves open
    check: str       # the rest of it
    solution: str    # id of the cell that holds the folded solution
    wrong: list      # answers that must be refused, as source

    def trial(self, before, space):
        "What is wrong with it, [str]: its solution has just run in `space`, and before[cell] is what its reader's cell left."
        before, after = before[self.cell], dict(space)
        faults = [f'the solution does not define {n}' for n in self.names if after.get(n) is None or after[n] is before.get(n)]
        if not faults:
            try: run(self.check, space)
            except Exception as e: faults.append(f'{self.names[0]}: the solution is refused: {e!r}')
        for answer in self.wrong:
            put(space, before)
            said = refusal(answer, self.check, space)
            if not isinstance(said, AssertionError) or len(str(said)) <= 10: faults.append(f'{self.names[0]}: {answer!r} is not refused with a hint: {said!r}')
        put(space, after)
        return faults


def put(space, values):
    for name in set(space) - set(values): del space[name]
    space.update(values)


def run(source, space): exec(compile(source, 'exercise', 'exec'), space)


def refusal(answer, check, space):
    "The error that the check answers with; None where it takes the answer."
    try: run(answer, space); run(check, space)
    except Exception as e: return e


def section(path):
    "The cells of a notebook from its exercises on."
    cells = read_nb(path).cells
    return cells[next((i for i, c in enumerate(cells) if c.cell_type == 'markdown' and '## Exercises' in c.source), len(cells)):]


def texts(path):
    "What the exercises of a notebook ask, by their numbers."
    text = '\n'.join(c.source for c in section(path) if c.cell_type == 'markdown').partition('## Exercises')[2]
    return re.findall(r'^(?:\*\*)?\d+\. ?.*', text.partition('\n## ')[0], re.M)


def key(path): return path.relative_to(NBS).with_suffix('').as_posix()


def of(path):
    "[Exercise] of a notebook."
    cells, found = section(path), []
    for i, c in enumerate(cells):
        if c.cell_type != 'code' or 'code-fold' in c.source or 'nbdev_export' in c.source: continue
        body = ast.parse(c.source).body
        names = [n for node in body for n in placeholder(node)]
        if not names: continue
        check = ast.unparse(ast.Module([n for n in body if not placeholder(n)], []))
        folded = [s.id for s in cells[i + 1:i + 3] if 'code-fold' in s.source]
        assert folded, f'{key(path)}: no folded solution follows {names}'
        found.append(Exercise(c.id, names, check, folded[0], WRONG.get(key(path), {}).get(names[0], [])))
    return found
