"""The `agent-service` command, as installed and as `python -m agent_service`."""

import signal
import sys

from agent_service.shutdown import end_on_interrupt


def main() -> None:
    """Run the command; if only the client is installed, name the missing extra."""
    interrupted = signal.getsignal(signal.SIGINT)
    end_on_interrupt()
    try:
        from agent_service.cli.main import main as run

        signal.signal(signal.SIGINT, interrupted)
        run()  # commands import more when they run
    except ModuleNotFoundError as missing:
        extra = "pip install 'reinforced-regularization[agent]'"
        sys.exit(f"agent-service: {missing.name} is not installed; {extra}")


if __name__ == "__main__":
    main()
