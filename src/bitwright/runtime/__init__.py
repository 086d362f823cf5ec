"""Running packed models without torch. `bitwright.load` is the door."""

from bitwright.runtime.engine import Model, load

__all__ = ["Model", "load"]
