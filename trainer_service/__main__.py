"""The `trainer-service` command, as installed and as `python -m trainer_service`."""

import signal
import sys

from agent_service.shutdown import end_on_interrupt


def main() -> None:
    """Run the command; with only the client installed, name the missing extra instead."""
    interrupted = signal.getsignal(signal.SIGINT)
    end_on_interrupt()
    try:
        from trainer_service.cli.main import main as run

        signal.signal(signal.SIGINT, interrupted)
        run()  # commands import more, as needed
    except ModuleNotFoundError as missing:
        extra = "pip install 'reinforced-regularization[trainer]'"
        sys.exit(f"trainer-service: {missing.name} is not installed; {extra}")


if __name__ == "__main__":
    main()
