"""The metrics that both services promise, with their labels: dashboards and alerts build on them.

A name or a label is changed here first, and for everybody who has a dashboard of their own.
"""

_CALL = ("grpc_method", "grpc_service", "grpc_type")
_PROCESS = {
    "process_cpu_seconds": (),
    "process_max_fds": (),
    "process_open_fds": (),
    "process_resident_memory_bytes": (),
    "process_start_time_seconds": (),
    "process_virtual_memory_bytes": (),
    "python_gc_collections": ("generation",),
    "python_gc_objects_collected": ("generation",),
    "python_gc_objects_uncollectable": ("generation",),
    "python_info": ("implementation", "major", "minor", "patchlevel", "version"),
}
BOTH = {
    "grpc_server_started": _CALL,
    "grpc_server_handled": ("grpc_code", *_CALL),
    "grpc_server_handling_seconds": _CALL,
    "service_limit": ("limit",),
    "service_limit_refusals": ("limit",),
    **_PROCESS,
}
AGENT = {
    "agent_action": ("controller", "hyperparameter"),
    "agent_decisions": ("controller", "mode"),
    "agent_disk_free_bytes": (),
    "agent_disk_size_bytes": (),
    "agent_finished_runs": ("controller", "outcome"),
    "agent_journal_batch_size": (),
    "agent_journal_commit_seconds": (),
    "agent_policy_staleness": ("controller",),
    "agent_policy_update_seconds": ("controller",),
    "agent_policy_updates": ("controller",),
    "agent_policy_version": ("controller",),
    "agent_ppo": ("controller", "statistic"),
    "agent_reward": ("controller",),
    "agent_reward_magnitude": ("controller", "sign"),
    "agent_rollout_filled_ratio": ("controller",),
    "agent_run_action": ("controller", "hyperparameter", "run"),
    "agent_run_loss": ("controller", "run"),
    "agent_run_reward": ("controller", "run"),
    "agent_run_series_dropped": (),
    "agent_runs": ("controller", "state"),
    "agent_shadow_difference": ("controller", "hyperparameter"),
    "agent_store_readable": (),
    "agent_transitions": ("controller", "use"),
    **BOTH,
}
TRAINER = {
    "trainer_agent_call_seconds": (),
    "trainer_agent_held_actions": (),
    "trainer_chunk_seconds": (),
    "trainer_device_memory_bytes": ("device",),
    "trainer_disk_free_bytes": (),
    "trainer_disk_size_bytes": (),
    "trainer_diverged_runs": (),
    "trainer_images": ("split",),
    "trainer_run_hyperparameter": ("hyperparameter", "run"),
    "trainer_run_loss": ("run", "split"),
    "trainer_run_progress": ("run",),
    "trainer_run_score": ("run", "split"),
    "trainer_runs": ("state",),
    **BOTH,
}
