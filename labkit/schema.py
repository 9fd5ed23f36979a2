"""JSON Schema, without what nothing here asks of it.

Importing ``jsonschema`` builds a grammar of internationalised addresses where ``rfc3987-syntax`` is installed, as it is
beside Jupyter: two seconds of processor time at the start of every command, for a format that none of our schemas has.
The library takes that package for missing when it cannot be imported, so for that moment it cannot be.
"""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["Draft202012Validator", "ValidationError"]

_GRAMMAR: Final = "rfc3987_syntax"

if "jsonschema" in sys.modules or _GRAMMAR in sys.modules:
    from jsonschema import Draft202012Validator, ValidationError
else:
    sys.modules[_GRAMMAR] = None  # type: ignore[assignment]  # how Python spells "cannot be imported"
    try:
        from jsonschema import Draft202012Validator, ValidationError
    finally:
        del sys.modules[_GRAMMAR]
