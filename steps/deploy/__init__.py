"""Releases a model behind an OpenAI-compatible endpoint on Ray Serve."""

from steps.deploy.config import DeployConfig, ServingConfig
from steps.deploy.converge import Endpoint, converge, recorded_endpoint
from steps.deploy.rollout import RolloutRef, begin, finish, look, run

__all__ = [
    "DeployConfig",
    "ServingConfig",
    "RolloutRef",
    "run",
    "begin",
    "look",
    "finish",
    "Endpoint",
    "converge",
    "recorded_endpoint",
]
