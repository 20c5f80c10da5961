"""The client for training scripts; imports neither torch nor the service.

A run starts with the values of the first chunk, and each report returns those of the next:

    with AgentClient("localhost:50051") as agent, agent.run("fer-dropout") as run:
        for batch in batches:
            loss, score = train(batch, dropout=run.hyperparameters["dropout"])
            run.step(loss, score=score)
            if run.chunk_full:
                run.report(validate())
"""

from agent_service.client.client import AgentClient
from agent_service.client.connection.tls import Tls
from agent_service.client.delivery import Hold
from agent_service.client.limits import Limits
from agent_service.client.report_stream import FleetReport, ReportStream
from agent_service.client.run import Run
from agent_service.client.schedule import Schedule
from agent_service.client.sites import Dropout, GaussianNoise
from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.constant import ConstantSettings
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.pretrained import PretrainedSettings, pretrained
from agent_service.controllers.random import RandomSettings
from agent_service.controllers.replay import ReplaySettings
from agent_service.controllers.schedule import ScheduleSettings, Shape
from agent_service.domain.hyperparameters import Hyperparameter, Scale
from agent_service.domain.problem import Problem
from agent_service.domain.rewards import Reward, Scores
from agent_service.domain.runs import Mode, Outcome
from agent_service.domain.specs import ControllerSpec, WarmStart

__all__ = [
    "AgentClient",
    "BayesianSettings",
    "ConstantSettings",
    "ControllerSpec",
    "Dropout",
    "FleetReport",
    "GaussianNoise",
    "Hold",
    "Hyperparameter",
    "Limits",
    "Mode",
    "Outcome",
    "PPOSettings",
    "PretrainedSettings",
    "Problem",
    "RandomSettings",
    "ReplaySettings",
    "ReportStream",
    "Reward",
    "Run",
    "Scale",
    "Schedule",
    "ScheduleSettings",
    "Scores",
    "Shape",
    "Tls",
    "WarmStart",
    "pretrained",
]
