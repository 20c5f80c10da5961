"""How full a service's disk is."""

import shutil
from pathlib import Path

from prometheus_client import CollectorRegistry

from agent_service.serving.disk import DiskCollector


def test_a_folder_tells_of_its_disk_as_long_as_it_is_there(tmp_path: Path) -> None:
    """Free space and size of the file system; without the folder, the page goes without them."""
    folder = tmp_path / "store"
    folder.mkdir()
    registry = CollectorRegistry()
    registry.register(DiskCollector("agent", folder))
    free, size = (registry.get_sample_value(f"agent_disk_{w}_bytes") for w in ("free", "size"))
    folder.rmdir()

    assert size == shutil.disk_usage(tmp_path).total
    assert free is not None
    assert 0 <= free <= shutil.disk_usage(tmp_path).total
    assert list(registry.collect()) == []
