"""Full-duplex audio-visual conversation in units of 160 ms: thinker, performer, sessions and the pipeline.

What is exported stands in `__init__.pyi`, and is loaded when it is first asked for: the command line answers before
torch is there.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
