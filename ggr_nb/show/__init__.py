"""Pictures and knobs."""
from .. import lazily

_HOME = {'Explorer': 'explorer'}
__all__ = list(_HOME)
__getattr__ = lazily(__name__, _HOME)
