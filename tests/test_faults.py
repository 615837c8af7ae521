"""Faults at random: processes ended at any moment, files changed at any byte, words that nobody means.

Every trial has a seed; FAULTS=1000 makes a night of what is half a minute in the suite. A trial waits for
what it needs to see, never for a clock."""
import contextlib, io, json, os, random, re, signal, warnings
from collections import Counter
from unittest.mock import patch

import pytest, torch
from hypothesis import HealthCheck, example, given, settings, strategies as st

from ggr_nb.allocate import largest_remainder
from ggr_nb.paper import commands
from ggr_nb.paper.commands import answer
from ggr_nb.paper.sweep import Results
from ggr_nb.train.files import cached
from ggr_nb.train.runs import Run, load_checkpoint, previous, save_checkpoint
from ggr_nb.train.training import fit
from conftest import forked
from test_train import SET, SHORT, same, whole

pytestmark = pytest.mark.faults
FAULTS = int(os.environ.get('FAULTS', 12))
share = lambda part: max(2, int(FAULTS * part))


# --- ended at any moment
ENDS = {'kill -9': [signal.SIGKILL], 'SIGTERM': [signal.SIGTERM], 'SIGHUP': [signal.SIGHUP],
        'Ctrl-C': [signal.SIGINT], 'Ctrl-C twice': [signal.SIGINT] * 2}


def trained(folder, said):
    "A training that says each step, and how it ended"
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.default_int_handler if s == signal.SIGINT else signal.SIG_DFL)
    try:
        said.send(0)
        fit(*SET, out=folder, resume=True, save_every=0, each_step=lambda t: said.send(t.position), **SHORT)
        said.send('finished')
    except KeyboardInterrupt: said.send('stopped')
    except BlockingIOError as e: said.send(str(e))


def until(pipe, enough):
    "What is said, to the first word that is enough or to the end of the process"
    heard = []
    with contextlib.suppress(EOFError, ConnectionResetError):
        while not heard or not enough(heard[-1]): heard.append(pipe.recv())
    return heard


def begin(target, *arguments):
    here, there = forked.Pipe()
    process = forked.Process(target=target, args=(*arguments, there)); process.start(); there.close()
    return process, here


@pytest.mark.parametrize('how', ENDS)
def test_a_training_ended_at_any_moment_goes_on_to_the_same_bits(tmp_path, whole, how):
    for trial in range(share(1/12)):
        draw, folder = random.Random(f'{how} {trial}'), tmp_path/str(trial)
        for _ in range(draw.randint(1, 3)):
            process, said = begin(trained, folder)
            moment = draw.randrange(66)
            until(said, lambda word: word == 'finished' or word == 'stopped' or isinstance(word, int) and word >= moment)
            for number in ENDS[how]:
                with contextlib.suppress(ProcessLookupError): os.kill(process.pid, number)
            until(said, lambda word: False); process.join()
        assert same(whole, fit(*SET, out=folder, resume=True, **SHORT)), f'{how}, trial {trial}'
        assert sorted(p.name for p in folder.iterdir()) == ['history.jsonl', 'run.json', 'run.pt'], f'{how}, trial {trial}'


def test_of_two_trainings_at_once_one_trains(tmp_path, whole):
    for trial in range(share(1/12)):
        folder = tmp_path/str(trial)
        ends = [until(said, lambda word: isinstance(word, str))[-1] for _, said in [begin(trained, folder) for _ in 'ab']]
        assert 'finished' in ends and all(e == 'finished' or 'in use by process' in e for e in ends)
        assert same(whole, Run.load(folder))


PICTURES = 40

def built(folder, said):
    def pictures():
        for i in range(PICTURES): said.send(i); yield torch.full((3, 64, 64), i, dtype=torch.uint8)
    cached(folder/'c', 'mark', (PICTURES, 3, 64, 64), pictures)


def test_a_cache_whose_builder_is_killed_is_built_again(tmp_path):
    for trial in range(share(1/3)):
        folder, moment = tmp_path/str(trial), random.Random(trial).randrange(PICTURES); folder.mkdir()
        process, said = begin(built, folder)
        until(said, lambda i: i >= moment); process.kill(); process.join()
        found = cached(folder/'c', 'mark', (PICTURES, 3, 64, 64), lambda: (torch.full((3, 64, 64), i, dtype=torch.uint8) for i in range(PICTURES)))
        assert found[:, 0, 0, 0].tolist() == list(range(PICTURES)) and found.float().std(dim=(1, 2, 3)).max() == 0
        assert not [p for p in folder.iterdir() if '.part' in p.name], trial


# --- any byte
def harmed(raw, draw):
    "One accident of a disk: a changed byte, an end or a piece that is lost, zeros, noise in between"
    at, length = draw.randrange(len(raw)), draw.randint(1, 64)
    return draw.choice([lambda: raw[:at] + bytes([raw[at] ^ draw.randint(1, 255)]) + raw[at + 1:], lambda: raw[:at],
                        lambda: raw[:at] + raw[at + length:], lambda: raw[:at] + bytes(length) + raw[at + length:],
                        lambda: raw[:at] + draw.randbytes(length) + raw[at:]])()


def one_line(error): assert str(error).strip() and '\n' not in str(error).strip(), repr(error)


def test_a_harmed_checkpoint_is_the_same_or_the_one_before_or_one_line(tmp_path):
    path, draw, outcomes = tmp_path/'c.pt', random.Random(1), Counter()
    states = [dict(step=s, w=torch.arange(300.) * s) for s in (1, 2)]
    for trial in range(share(20)):
        for p in tmp_path.iterdir(): p.unlink()
        for s in states: save_checkpoint(path, s)
        for p in (path, previous(path))[:draw.randint(1, 2)]: p.write_bytes(harmed(p.read_bytes(), draw))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            try: found = load_checkpoint(path)
            except ValueError as e: one_line(e); assert 'damaged' in str(e); outcomes['one line'] += 1; continue
        assert any(found['step'] == s['step'] and found['w'].equal(s['w']) for s in states)
        if found['step'] == 2: outcomes['same'] += 1
        else: assert 'Going on from c.previous.pt' in str(said[0].message); outcomes['recovered and said'] += 1
    assert outcomes['recovered and said'] and outcomes['one line'], outcomes


def test_a_harmed_run_is_the_same_or_one_line(tmp_path, whole):
    draw = random.Random(2); whole.save(tmp_path/'run.pt'); sound = (tmp_path/'run.pt').read_bytes()
    for trial in range(share(4)):
        for p in tmp_path.iterdir(): p.unlink()
        (tmp_path/'run.pt').write_bytes(harmed(sound, draw))
        for again in range(2):                                   # who reads moves nothing: it is said every time
            try: assert same(whole, Run.load(tmp_path))
            except ValueError as e: one_line(e); assert 'damaged' in str(e)


@pytest.mark.parametrize('change', [dict(optimizer=None), dict(model={}), dict(ever=5), dict(step='x', totals=None), None], ids=str)
def test_a_sound_file_of_another_version_is_refused_in_one_line(tmp_path, change):
    stopped = lambda t: t.position == 30 and os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt): fit(*SET, out=tmp_path, each_step=stopped, **SHORT)
    state = load_checkpoint(tmp_path/'checkpoint.pt')
    save_checkpoint(tmp_path/'checkpoint.pt', dict(config=state['config']) if change is None else state | change)
    with pytest.raises(ValueError, match='tart again without resume') as e: fit(*SET, out=tmp_path, resume=True, **SHORT)
    one_line(e.value)


def test_harmed_results_never_say_another_number(tmp_path):
    "A line that is lost is a run that is repeated; a line that is read says what was written."
    path, draw, sound = tmp_path/'r.jsonl', random.Random(3), {}
    for i in range(6): sound[f'run/{i}'] = dict(key=f'run/{i}', accuracy=draw.random() * 100, counts={'fc': i}); Results(path).append(sound[f'run/{i}'])
    first, rest = re.match(rb'([^\n]*\n)(.*)', path.read_bytes(), re.S).groups()    # a file of old may begin without checksums
    for trial in range(share(60)):
        path.write_bytes(first + harmed(rest, draw))
        try: found = Results(path).load()
        except ValueError as e: one_line(e); assert str(path) in str(e) and 'line' in str(e)
        else: assert found.items() <= sound.items(), f'trial {trial}: {found}'


# --- any words
@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)      # what a command writes by default


def through_the_door(func, words):
    "(status, what stands on stdout, on stderr)"
    out, err = io.StringIO(), io.StringIO()
    with patch('sys.argv', [func.__name__]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: answer(func, words); status = 0
        except SystemExit as e: status = e.code or 0
    return status, out.getvalue(), err.getvalue()


def said_well(name, status, out, err):
    assert 'Traceback' not in err
    if status == 0: return
    if status == 2: assert f'{name}: error:' in err; return
    assert status == 1 and re.fullmatch(rf'{name}: [^\n]*\S\n', err), err


ODD = ['', ' ', '0', '-1', '1', '2', '1e400', 'nan', 'inf', '-inf', '1e-9', '99999999999999999999', '½', 'ä', '../..', '/dev/null', 'None', 'true', ',', '1,,2',
       '[', '(', '*', '%s', '{}', 'cpu', 'cpu:1', 'cuda:9', 'meta', 'mps', 'erk', 'ggr', 'on', 'a' * 300, 'a=1', 'pad=-1', 'timm:', 'torchvision:', '\n', 'a\x1b[31m', 'a\u2028b']
options = lambda *names: st.lists(st.tuples(st.sampled_from(names), st.sampled_from(ODD)), min_size=1, max_size=2)
words = lambda pairs: [f'--{name}={value}' for name, value in pairs]
TRAIN = ('model', 'data', 'method', 'density', 'init', 'seed', 'batch', 'lr', 'lr_schedule', 'optimizer', 'momentum', 'weight_decay', 'label_smoothing', 'accumulate', 'mixup', 'ema',
         'augment', 'every', 'until', 'fraction', 'schedule', 'width', 'scaling', 'exclude', 'grad_batches', 'storage', 'val', 'amp', 'channels_last', 'compile',
         'fused', 'tf32', 'benchmark', 'batch_limit', 'save_every', 'device', 'root', 'log', 'evaluate', 'compact')
SWEEP = ('tables', 'data', 'models', 'methods', 'sparsities', 'inits', 'seeds', 'scale', 'epochs', 'width', 'images', 'stem', 'batch', 'updates', 'fraction',
         'results', 'workers', 'per_gpu', 'threads', 'gpus', 'show')


@settings(derandomize=True, suppress_health_check=list(HealthCheck), max_examples=share(5))
@example([('root', ' ')])
@example([('evaluate', '\n')])
@example([('device', 'meta')])
@example([('width', '99999999999999999999')])
@given(options(*TRAIN))
def test_any_words_to_ggr_train(tmp_path_factory, pairs):
    base = dict(model='mlp', data='digits', epochs='1', batch_limit='1', device='cpu')
    line = [f'--{k}={v}' for k, v in base.items() if k not in dict(pairs)] + words(pairs) + ['--quiet', f'--out={tmp_path_factory.mktemp("t")/"run"}']
    said_well('ggr_train', *through_the_door(commands.ggr_train, line))


@settings(derandomize=True, suppress_health_check=list(HealthCheck), max_examples=share(8))
@given(options(*SWEEP))
def test_any_words_to_ggr_sweep(tmp_path_factory, pairs):
    said_well('ggr_sweep', *through_the_door(commands.ggr_sweep, words(pairs) + ['--dry']))


@settings(derandomize=True, suppress_health_check=list(HealthCheck), max_examples=share(5))
@example('1', [('results', '\n')])
@given(st.sampled_from(['1', '2', '3', '4', *ODD]), options('results', 'recipe'))
def test_any_words_to_ggr_table(tmp_path_factory, number, pairs):
    said_well('ggr_table', *through_the_door(commands.ggr_table, [number, *words(pairs)]))


@settings(derandomize=True, suppress_health_check=list(HealthCheck), max_examples=share(8))
@given(st.binary(max_size=60) | st.sampled_from([b'[]\n', b'{}\n', b'null\n', b'{"epoch": 0}\n', b'{"epoch": "x", "counts": 3}\n', b'{"epoch": 0, "counts": {}}\n',
                                               b'{"epoch": 0, "counts": {"a": "b"}, "accuracy": null}\n', b'[' * 10_000]))
def test_any_history_to_ggr_plot(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp('t'); (folder/'history.jsonl').write_bytes(raw)
    said_well('ggr_plot', *through_the_door(commands.ggr_plot, [str(folder)]))


number = st.integers(-3, 50) | st.floats(allow_nan=True, allow_infinity=True)

@settings(derandomize=True, suppress_health_check=list(HealthCheck), max_examples=share(20))
@given(st.lists(st.tuples(number, number, number), max_size=5), number)
def test_any_shares_are_allotted_exactly_or_refused(layers, total):
    shares, caps, floors = ({str(i): l[j] for i, l in enumerate(layers)} for j in range(3))
    try: counts = largest_remainder(shares, total, caps, floors)
    except (ValueError, TypeError, OverflowError) as e: return one_line(e)
    assert sum(counts.values()) == total and all(floors[k] <= n <= caps[k] for k, n in counts.items())


# --- not the file that was meant
def test_nobody_waits_at_a_pipe(tmp_path):
    "Opening a named pipe lasts until somebody comes to its other end: for ever."
    pipe = tmp_path/'history.jsonl'; os.mkfifo(pipe); os.mkfifo(tmp_path/'run.pt')
    signal.alarm(60)                                                       # on the old code this ends the tests
    try:
        for name, line in dict(ggr_table=['1', f'--results={pipe}'], ggr_sweep=['--seeds=0', f'--results={pipe}'], ggr_plot=[str(tmp_path)],
                               ggr_train=[f'--evaluate={tmp_path}']).items():
            said = through_the_door(getattr(commands, name), line)
            said_well(name, *said); assert said[0] == 1 and 'a file is wanted' in said[2]
    finally: signal.alarm(0)


def test_a_changed_number_is_seen_in_a_file_with_other_line_ends(tmp_path):
    path = tmp_path/'r.jsonl'
    for i in range(3): Results(path).append(dict(key=f'run/{i}', accuracy=90. + i))
    sound = Results(path).load(); path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
    assert Results(path).load() == sound
    path.write_bytes(path.read_bytes().replace(b'90.0', b'99.0'))
    with pytest.raises(ValueError, match='line 1 is damaged: its checksum does not match'): Results(path).load()


@pytest.mark.parametrize('word', ['width=nan', 'width=inf', 'lr=inf', 'weight_decay=inf', 'results='])
def test_numbers_that_are_none_are_refused_by_name_before_anything_is_made(tmp_path, word):
    name = 'ggr_sweep' if word == 'results=' else 'ggr_train'
    said = through_the_door(getattr(commands, name), [f'--{word}'] + (['--model=mlp', '--data=digits', '--epochs=1', '--out=run'] if name == 'ggr_train' else []))
    said_well(name, *said); assert said[0] == 1 and word.split('=')[0] in said[2] and not list(tmp_path.iterdir())


@pytest.mark.parametrize('record', [dict(job={}, accuracy=1.), dict(job=dict(later=1), accuracy=1.), dict(job={}), dict(job=5), dict(accuracy='b'), dict(accuracy=float('nan')), {}])
def test_a_record_of_another_kind_is_named_by_the_table(tmp_path, record):
    job = dict(data='cifar100', model='resnet18', method='ggr', density=.1, init='erk', seed=0)
    (tmp_path/'r.jsonl').write_text(json.dumps(dict(key='odd one', job=job) | record) + '\n')
    said = through_the_door(commands.ggr_table, ['1', '--results=r.jsonl'])
    said_well('ggr_table', *said); assert said[0] == 1 and "'odd one'" in said[2]


def test_a_number_of_processes_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', 'junk')
    with pytest.raises(ValueError, match=r'\$WORLD_SIZE'): fit('mlp', 'digits', device='cpu')
