"""Generated from proto/trainer_service/v1 by `make proto`; never edited here."""
