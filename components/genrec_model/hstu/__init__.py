"""Meta's HSTU (arXiv 2402.17152) in plain PyTorch, as this project trains and serves it."""

from genrec_model.hstu.config import HSTUConfig
from genrec_model.hstu.model import HSTU, UserScores

__all__ = ["HSTU", "HSTUConfig", "UserScores"]
