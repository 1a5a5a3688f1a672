"""Who learns from whom, and how one step goes."""

from xmodal.schemes.base import SCHEMES, Progress, Scheme, StepResult
from xmodal.schemes.offline import Offline

__all__ = ["SCHEMES", "Offline", "Progress", "Scheme", "StepResult"]
