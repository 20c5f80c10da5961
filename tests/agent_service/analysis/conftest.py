from tests.agent_service.store.conftest import store_url

__all__ = ["store_url"]
