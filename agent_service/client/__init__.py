"""What training scripts import: light, without torch.

with AgentClient("localhost:50051") as agent, agent.run("fer-dropout") as run:
for batch in batches:
loss, score = train(batch, dropout=run.hyperparameters["dropout"])
run.step(loss, score)
if run.chunk_full:
run.report(validate())
"""

from agent_service.client.client import AgentClient
from agent_service.client.run import Run

__all__ = ["AgentClient", "Run"]
