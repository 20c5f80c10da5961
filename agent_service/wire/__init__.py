"""What both ends of a connection need: messages, statuses, certificates, tokens, addresses."""
