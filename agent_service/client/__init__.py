"""What training scripts import: light, without torch.

with AgentClient("localhost:50051") as agent, agent.run("fer-dropout") as run:
for batch in batches:
train(batch, dropout=run.hyperparameters["dropout"])
run.step(loss, score)
if run.chunk_full:
run.report(validation_score)
"""

from agent_service.client.client import AgentClient
from agent_service.client.run import Run

__all__ = ["AgentClient", "Run"]
