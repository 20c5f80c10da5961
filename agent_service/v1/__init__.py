"""Generated from proto/agent_service/v1 by `make proto`; never edited here."""
