"""Training: models, data, the trainer, measures, compact."""
from .. import lazily

_HOME = {'Recipe': 'runs', 'Run': 'runs', 'RECIPES': 'runs', 'fit': 'training'}
__all__ = list(_HOME)
__getattr__ = lazily(__name__, _HOME)
