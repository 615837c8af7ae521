"""Notebooks as the repository keeps them: nbdev's cleaning, and without what only a running kernel can show.

    python site/clean.py [NOTEBOOK ...]

A displayed explorer holds the view of a widget beside its slider and its picture. JupyterLab stores all three, and the
view would be a dead knob for whoever opens the notebook next; slider and picture stay.
"""
import json, sys
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from nbdev.clean import nbdev_clean

NBS = Path(__file__).resolve().parent.parent / 'nbs'


def without_widgets(path):
    "Take the views of widgets out of the outputs, and their states out of the notebook."
    notebook = read_nb(path)
    before = json.dumps(notebook)
    notebook.metadata.pop('widgets', None)
    for cell in notebook.cells:
        for output in cell.get('outputs', []):
            for kind in [k for k in output.get('data', {}) if 'jupyter.widget' in k]: del output['data'][kind]
    if json.dumps(notebook) != before: write_nb(notebook, path)


if __name__ == '__main__':
    for path in map(Path, sys.argv[1:] or sorted(NBS.rglob('*.ipynb'))):
        if any(part.startswith(('.', '_')) for part in path.parts[len(NBS.parts):]): continue
        without_widgets(path)
        nbdev_clean.__wrapped__(str(path))
