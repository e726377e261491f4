"""Imports every stage, for the process of ``children`` that is forked; nothing in it may start a thread."""

import importlib

from trainer.__main__ import MODULES, _prepare

_prepare()
for _name in MODULES.values():
    importlib.import_module(_name)
