"""The `agent-service` command, as installed and as `python -m agent_service`."""

import sys


def main() -> None:
    """Run the command, or say which extra is missing, as in an installation of the client alone."""
    try:
        from agent_service.cli import main as run
    except ModuleNotFoundError as missing:
        extra = "pip install 'reinforced-regularization[agent]'"
        sys.exit(f"agent-service: {missing.name} is not installed; {extra}")
    run()


if __name__ == "__main__":
    main()
